//! The payload of a close frame (RFC 6455 §5.5.1, §7.4).

use bytes::{BufMut, Bytes, BytesMut};

use super::{Error, MAX_CONTROL_BYTES, code};

/// A reason has room for this many bytes.
pub const MAX_REASON_BYTES: usize = MAX_CONTROL_BYTES - 2;

/// A close frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Close {
    /// `None` if the frame had no payload.
    pub code: Option<u16>,
    pub reason: String,
}

impl Close {
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code: Some(code), reason: reason.into() }
    }

    /// Reads the payload of a close frame.
    ///
    /// # Errors
    /// The payload has one byte, a code that must not be sent, or a reason that is not UTF-8.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        let (code, reason) = match payload {
            [] => return Ok(Self::default()),
            [_] => return Err(Error::protocol("close frame with half a code")),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        if !is_valid_close_code(code) {
            return Err(Error::protocol(format!("close code {code} must not be sent")));
        }
        let reason =
            str::from_utf8(reason).map_err(|_| Error::data("close reason is not UTF-8"))?;
        Ok(Self::new(code, reason))
    }

    /// Returns the payload that says this. A reason that is too long is cut between two characters; codes that must
    /// not be sent are left out together with the reason.
    pub fn payload(&self) -> Bytes {
        let Some(code) = self.code.filter(|&code| is_valid_close_code(code)) else {
            return Bytes::new();
        };
        let reason = self.reason.as_bytes();
        let end = self.reason.floor_char_boundary(MAX_REASON_BYTES);
        let mut payload = BytesMut::with_capacity(2 + end);
        payload.put_u16(code);
        payload.put_slice(reason.get(..end).unwrap_or_default());
        payload.freeze()
    }

    /// Returns the code that is recorded: 1005 stands for none.
    pub fn recorded_code(&self) -> u16 {
        self.code.unwrap_or(code::NO_STATUS)
    }
}

/// True for codes that a close frame may have: those defined for it, registered since, or left to libraries and
/// applications.
pub fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads() {
        assert_eq!(Close::parse(b""), Ok(Close::default()));
        assert_eq!(Close::parse(b"\x03\xe8"), Ok(Close::new(1000, "")));
        assert_eq!(Close::parse(b"\x03\xe8bye"), Ok(Close::new(1000, "bye")));
        assert_eq!(Close::parse(b"\x03").unwrap_err().code, 1002);
        assert_eq!(Close::parse(b"\x03\xe8\xff").unwrap_err().code, 1007);
        for bad in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(Close::parse(&bad.to_be_bytes()).unwrap_err().code, 1002, "{bad}");
            assert!(Close::new(bad, "x").payload().is_empty());
        }
        for good in [1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4999] {
            let close = Close::new(good, "über");
            assert_eq!(Close::parse(&close.payload()), Ok(close));
        }
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let payload = Close::new(1000, "ü".repeat(100)).payload();
        assert_eq!(payload.len(), 124);
        assert!(Close::parse(&payload).is_ok());
    }
}
