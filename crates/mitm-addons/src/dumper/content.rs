//! What is shown of a body: text as text, everything else as a hex dump.
//!
//! Only as much is read of a body as may be shown of it.

use std::{borrow::Cow, fmt::Write as _, io};

use bytes::Bytes;
use mitm_flow::{Body, coding, human};

use super::Printer;
use crate::output::Style;

/// The most that is shown of a body at detail 4.
const MAX_SHOWN: usize = 8 << 20;

/// The most of a body that lines are looked for in at detail 3.
const MAX_SEARCHED: usize = 1 << 20;

/// Larger bodies are shown encoded as they are.
const MAX_ENCODED: u64 = 16 << 20;
const MAX_DECODED: u64 = 64 << 20;

/// How bodies are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// By what the body holds.
    Auto,
    Raw,
    HexDump,
    HexStream,
}

impl View {
    pub(super) fn from_name(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "raw" => Self::Raw,
            "hex dump" | "hex" => Self::HexDump,
            "hex stream" => Self::HexStream,
            _ => Self::Auto,
        }
    }
}

/// A body, or as much of it as may be needed.
pub(super) enum Content {
    Missing,
    Known(Source),
    Unreadable(io::Error),
}

/// Where the bytes are.
pub(super) enum Source {
    Body(Body),
    Decoded(Bytes),
}

impl Content {
    /// Undoes the content codings. A body that cannot be decoded is shown as it is.
    pub(super) fn decoded(body: &Body, codings: Option<&[u8]>) -> Self {
        if body.is_missing() {
            return Self::Missing;
        }
        let plain = |codings: &&[u8]| coding::parse(codings).is_ok_and(|list| list.is_empty());
        let Some(codings) = codings.filter(|codings| !plain(codings)) else {
            return Self::raw(body);
        };
        if body.len().is_none_or(|len| len > MAX_ENCODED) {
            return Self::raw(body);
        }
        match body.bytes() {
            Ok(bytes) => {
                let bytes = bytes.unwrap_or_default();
                match coding::decode(codings, &bytes, MAX_DECODED) {
                    Ok(decoded) => Self::Known(Source::Decoded(decoded)),
                    Err(_) => Self::raw(body),
                }
            }
            Err(error) => Self::Unreadable(error),
        }
    }

    pub(super) fn raw(body: &Body) -> Self {
        if body.is_missing() { Self::Missing } else { Self::Known(Source::Body(body.clone())) }
    }
}

impl Source {
    /// Returns at most `limit` bytes, and whether there are more.
    fn prefix(&self, limit: usize) -> io::Result<(Bytes, bool)> {
        match self {
            Self::Body(body) => {
                let has_more = body.len().is_some_and(|len| len > limit as u64);
                Ok((body.prefix(limit)?, has_more))
            }
            Self::Decoded(bytes) => {
                Ok((bytes.slice(..limit.min(bytes.len())), bytes.len() > limit))
            }
        }
    }
}

impl Printer<'_> {
    /// Prints a body with the empty lines around it.
    pub(super) fn content(&mut self, content: &Content) {
        match content {
            Content::Missing => {
                self.block.end().styled(Style::RED, "    Content is missing.").end();
            }
            Content::Unreadable(error) => self.unreadable(error),
            Content::Known(source) => {
                if let Err(error) = self.known(source) {
                    self.unreadable(&error);
                }
            }
        }
        self.block.end();
    }

    fn unreadable(&mut self, error: &io::Error) {
        let text = format!("    Content cannot be read: {error}");
        self.block.end().styled(Style::RED, &text).end();
    }

    fn known(&mut self, source: &Source) -> io::Result<()> {
        let lines = (self.settings.detail == 3).then_some(self.settings.cutoff);
        let searched = if lines.is_some() { MAX_SEARCHED } else { MAX_SHOWN };
        let (bytes, mut is_cut) = source.prefix(searched)?;
        let text = match self.settings.view {
            View::Auto if is_binary(&bytes) => View::HexDump,
            View::Auto => View::Raw,
            view => view,
        };
        let text = match text {
            View::HexDump => {
                let limit = lines.map_or(bytes.len(), |lines| lines.saturating_mul(16));
                let shown = bytes.get(..limit).unwrap_or(&bytes);
                is_cut |= shown.len() < bytes.len();
                let len = match source {
                    Source::Body(body) => body.len().unwrap_or(0),
                    Source::Decoded(bytes) => bytes.len() as u64,
                };
                Cow::from(hex_dump(shown, len))
            }
            View::HexStream => hex_stream(&bytes).into(),
            View::Raw | View::Auto => text_of(&bytes, is_cut).into(),
        };
        let shown = match lines.and_then(|lines| end_of_line(&text, lines)) {
            Some(end) if end < text.len() => {
                is_cut = true;
                text.get(..end).unwrap_or(&text)
            }
            _ => &text,
        };
        if !shown.is_empty() {
            self.block.end();
            self.indented(shown);
        }
        if is_cut {
            self.block.styled(Style::DIM, "    (cut off)").end();
        }
        Ok(())
    }

    /// Prints text, its ends trimmed, each line behind four blanks.
    fn indented(&mut self, text: &str) {
        let text = text.trim();
        if text.is_empty() {
            self.block.end();
            return;
        }
        for line in text.split('\n') {
            for line in line.strip_suffix('\r').unwrap_or(line).split('\r') {
                self.block.push("    ").push(&human::escape_control_characters(line, true)).end();
            }
        }
    }
}

/// Returns where line `lines` ends, if there are as many.
fn end_of_line(text: &str, lines: usize) -> Option<usize> {
    match lines.checked_sub(1) {
        Some(last) => text.match_indices('\n').nth(last).map(|(at, _)| at + 1),
        None => Some(0),
    }
}

/// Judges by the beginning: binary is what has many bytes that text has not, unless it is UTF-8.
fn is_binary(bytes: &[u8]) -> bool {
    const LOOKED_AT: usize = 100;
    let head = bytes.get(..LOOKED_AT).unwrap_or(bytes);
    let controls = head.iter().filter(|&&b| b < 9 || (14..32).contains(&b)).count();
    let high = head.iter().filter(|&&b| b > 126).count();
    let is_utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        // The last character may be cut in two.
        Err(error) => error.error_len().is_none(),
    };
    let strange = if is_utf8 { controls } else { controls + high };
    strange * 10 > head.len() * 3
}

/// Reads UTF-8; every other byte becomes `\xhh`.
fn text_of(bytes: &[u8], is_cut: bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        if is_cut && chunks.peek().is_none() {
            // The beginning of a character whose end was cut off.
            break;
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

fn hex_stream(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Formats bytes, the first of `len`, as offset, hexadecimal digits and characters.
fn hex_dump(bytes: &[u8], len: u64) -> String {
    let digits = match len.saturating_sub(16) {
        0..0x1_0000 => 4,
        0x1_0000..0x100_0000 => 6,
        _ => 8,
    };
    let mut text = String::with_capacity(bytes.len().div_ceil(16) * 80);
    for (row, line) in bytes.chunks(16).enumerate() {
        if row > 0 {
            text.push('\n');
        }
        let _ = write!(text, "{:0digits$x}:   ", row * 16);
        for column in 0..16 {
            if column > 0 {
                text.push(' ');
                if column % 4 == 0 {
                    text.push(' ');
                }
            }
            let _ = match line.get(column) {
                Some(byte) => write!(text, "{byte:02x}"),
                None => write!(text, "  "),
            };
        }
        text.push_str("   ");
        text.extend(line.iter().map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_dumps() {
        assert_eq!(
            hex_dump(b"abcd", 4),
            "0000:   61 62 63 64                                          abcd"
        );
        let bytes: Vec<u8> = (0..32).collect();
        assert_eq!(
            hex_dump(&bytes, 32).lines().nth(1).unwrap(),
            "0010:   10 11 12 13  14 15 16 17  18 19 1a 1b  1c 1d 1e 1f   ................"
        );
        assert!(hex_dump(b"a", 65_551).starts_with("0000:"));
        assert!(hex_dump(b"a", 65_552).starts_with("000000:"));
        assert_eq!(hex_dump(b"", 0), "");
    }

    #[test]
    fn text_and_binary_are_told_apart() {
        for text in
            [&b""[..], b"hi", "日本語のテキスト".as_bytes(), b"a\tb\r\n", b"caf\xe9 au lait"]
        {
            assert!(!is_binary(text), "{text:?}");
        }
        let cut = "日本語".repeat(30);
        assert!(!is_binary(cut.as_bytes().get(..200).unwrap()));
        for binary in [&b"\0\x01\x02a"[..], b"hello\0\x01\xff\xfe\n", b"\x1f\x8b\x08\0\0"] {
            assert!(is_binary(binary), "{binary:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_escaped() {
        assert_eq!(text_of(b"caf\xe9 \xf0\x9f\x8d\x87", false), "caf\\xe9 🍇");
        assert_eq!(text_of(b"a\xf0\x9f", false), "a\\xf0\\x9f");
        assert_eq!(text_of(b"a\xf0\x9f", true), "a");
    }
}
