//! UTF-8 that arrives in pieces.

use super::Error;

/// Checks text piece by piece. What cannot become valid is found at its first byte, not at the end.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of a character that the last piece ended in.
    begun: [u8; 4],
    len: usize,
}

impl Utf8 {
    pub(super) fn push(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        while self.len > 0 {
            let [byte, rest @ ..] = piece else { return Ok(()) };
            piece = rest;
            // A character has four bytes at most, and one that needs a fifth was found invalid before.
            if let Some(slot) = self.begun.get_mut(self.len) {
                *slot = *byte;
            }
            self.len += 1;
            match str::from_utf8(self.begun.get(..self.len).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() && self.len < self.begun.len() => {}
                Err(_) => return Err(invalid()),
            }
        }
        if let Err(error) = str::from_utf8(piece) {
            let tail = piece.get(error.valid_up_to()..).unwrap_or_default();
            if error.error_len().is_some() || tail.len() >= self.begun.len() {
                return Err(invalid());
            }
            self.len = tail.len();
            for (slot, byte) in self.begun.iter_mut().zip(tail) {
                *slot = *byte;
            }
        }
        Ok(())
    }

    /// Ends the text.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.len) > 0 { Err(invalid()) } else { Ok(()) }
    }
}

fn invalid() -> Error {
    Error::data("text message is not UTF-8")
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Returns how many bytes were taken before the error, if there is one.
    fn bytewise(text: &[u8]) -> Result<(), usize> {
        let mut utf8 = Utf8::default();
        for (at, byte) in text.chunks(1).enumerate() {
            utf8.push(byte).map_err(|_| at)?;
        }
        utf8.finish().map_err(|_| text.len())
    }

    #[test]
    fn errors_are_found_at_once() {
        assert_eq!(bytewise("κόσμε \u{10ffff}".as_bytes()), Ok(()));
        assert_eq!(bytewise(b"\xce\xba\xf4\x90\x80\x80x"), Err(3));
        assert_eq!(bytewise(b"\xed\xa0\x80"), Err(1));
        assert_eq!(bytewise(b"\xc0\x80"), Err(0));
        assert_eq!(bytewise(b"ab\x80"), Err(2));
        assert_eq!(bytewise(b"\xe2\x82"), Err(2));
    }

    proptest! {
        #[test]
        fn any_split_is_judged_as_the_whole(
            pieces in vec(prop_oneof!["\\PC{0,5}".prop_map(String::into_bytes), vec(any::<u8>(), 0..3)], 0..6),
            size in 1usize..5,
        ) {
            let text = pieces.concat();
            let mut utf8 = Utf8::default();
            let result = text.chunks(size).try_for_each(|piece| utf8.push(piece));
            let valid = result.and_then(|()| utf8.finish()).is_ok();
            prop_assert_eq!(valid, str::from_utf8(&text).is_ok());
        }
    }
}
