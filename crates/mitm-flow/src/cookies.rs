//! Cookie and Set-Cookie (RFC 6265), as mitmproxy reads and writes them.
