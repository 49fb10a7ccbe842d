//! Names and passwords, as HTTP's `Basic` scheme carries them (RFC 7617).

use std::fmt;

use data_encoding::BASE64;

/// What somebody says to be let in.
#[derive(PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

impl Credentials {
    /// Reads the value of an `Authorization` or `Proxy-Authorization` header; `None` if it is not a well-formed one of
    /// the `Basic` scheme. The name ends at the first colon; further ones belong to the password.
    pub(super) fn from_basic(value: &[u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let at = value.iter().position(u8::is_ascii_whitespace)?;
        let (scheme, token) = value.split_at_checked(at)?;
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let decoded = BASE64.decode(token.trim_ascii()).ok()?;
        let text = String::from_utf8_lossy(&decoded);
        let (name, password) = text.split_once(':')?;
        Some(Self { name: name.to_owned(), password: password.to_owned() })
    }
}

/// Without what they say: it has no place in a log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_headers() {
        let read = |value: &str| {
            let Credentials { name, password } = Credentials::from_basic(value.as_bytes())?;
            Some((name, password))
        };
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        let some = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(read(&basic("test:test")), some("test", "test"));
        assert_eq!(read(&basic("a:b:c")), some("a", "b:c"));
        assert_eq!(read(&basic(":")), some("", ""));
        assert_eq!(read(&basic("ü:ö")), some("ü", "ö"));
        assert_eq!(read(" bAsIc \t dDpw "), some("t", "p"));
        for bad in ["", "Basic", "Basic ", "Basic dDpw dDpw", "Basic !", "Digest dDpw", "dDpw"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(read(&basic("no colon")), None);
        let latin = format!("Basic {}", BASE64.encode(b"t:\xfc"));
        assert_eq!(read(&latin), some("t", "\u{fffd}"));
    }
}
