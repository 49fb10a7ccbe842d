//! Guesses about a protocol from its first bytes.

/// True if the bytes are the start of a TLS record with a handshake: at least three, `16 03 00` to `16 03 03`.
pub fn is_tls_record_start(buf: &[u8]) -> bool {
    matches!(buf, [0x16, 0x03, 0x00..=0x03, ..])
}

/// True if a stream that starts with these bytes is better relayed as it is than read as HTTP.
///
/// That is so if the server spoke first, if there are fewer than three bytes, if they are not three letters, if there
/// is no blank on the first line, or if SSH says hello.
pub fn is_probably_not_http(buf: &[u8], server_spoke_first: bool) -> bool {
    let Some(start) = buf.first_chunk::<3>() else { return true };
    if server_spoke_first || start == b"SSH" || !start.iter().all(u8::is_ascii_alphabetic) {
        return true;
    }
    memchr::memchr2(b' ', b'\n', buf).and_then(|at| buf.get(at)) != Some(&b' ')
}
