//! The charset of a text body: mitmproxy's guessing rules, decoding and encoding.
