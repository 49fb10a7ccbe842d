//! Certificates in flow files are PEM (RFC 7468), in the model DER.

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----\n";
const END: &[u8] = b"-----END CERTIFICATE-----\n";
const LINE: usize = 64;

/// Writes a certificate as PEM.
pub(crate) fn encode(der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    let mut out = Vec::with_capacity(BEGIN.len() + text.len() + text.len() / LINE + 1 + END.len());
    out.extend_from_slice(BEGIN);
    for line in text.as_bytes().chunks(LINE) {
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.extend_from_slice(END);
    out
}

/// Reads the first certificate of a PEM text.
pub(crate) fn decode(pem: &[u8]) -> Option<Vec<u8>> {
    let begin = memchr::memmem::find(pem, b"-----BEGIN ")?;
    let rest = pem.get(begin..)?;
    let rest = rest.get(memchr::memchr(b'\n', rest)?..)?;
    let body = rest.get(..memchr::memmem::find(rest, b"-----END ")?)?;
    let digits: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_round_trips() {
        for len in [0, 1, 47, 48, 49, 1000] {
            let der: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let pem = encode(&der);
            assert!(pem.split(|&b| b == b'\n').all(|line| line.len() <= LINE));
            assert_eq!(decode(&pem), Some(der));
        }
        assert_eq!(decode(b"no certificate"), None);
        assert_eq!(decode(b"-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----"), None);
    }
}
