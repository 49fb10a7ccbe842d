//! Codecs without I/O: HTTP/1 and the TLS ClientHello.
