//! The wire format of DNS messages (RFC 1035 §4).
//!
//! Reading is strict: every length is checked, compression pointers lead backwards only, and nothing may follow
//! the message. Names inside of the data of well-known records are decompressed, so that the data stands on
//! its own (RFC 3597 §4). Writing does not compress.

use std::fmt::Write;

use bytes::Bytes;
use thiserror::Error;

use super::{DnsMessage, Question, ResourceRecord};

/// Why bytes are not a DNS message, or a message has no wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DnsError {
    #[error("the message ends too early")]
    Truncated,
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    #[error("invalid domain name")]
    Name,
    #[error("a message of more than 65535 bytes")]
    TooLong,
    #[error("{0} is out of range")]
    Range(&'static str),
}

/// The longest message.
const MAX_MESSAGE: usize = 0xffff;

/// The longest name, length octets included (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

const MAX_LABEL: usize = 63;

impl DnsMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// The bytes are not exactly one message.
    pub fn unpack(data: &[u8], timestamp: Option<f64>) -> Result<Self, DnsError> {
        let (message, len) = Self::unpack_prefix(data, timestamp)?;
        if len < data.len() {
            return Err(DnsError::Trailing(data.len() - len));
        }
        Ok(message)
    }

    /// Reads the message that `data` begins with, and returns its length too.
    ///
    /// # Errors
    /// There is none.
    pub fn unpack_prefix(data: &[u8], timestamp: Option<f64>) -> Result<(Self, usize), DnsError> {
        if data.len() > MAX_MESSAGE {
            return Err(DnsError::TooLong);
        }
        let mut reader = Reader { data, at: 0 };
        let id = reader.u16()?;
        let flags = reader.u16()?;
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let flag = |bit: u16| flags & (1 << bit) != 0;
        let mut message = Self {
            id,
            query: !flag(15),
            op_code: (flags >> 11 & 0x0f) as u8,
            authoritative_answer: flag(10),
            truncation: flag(9),
            recursion_desired: flag(8),
            recursion_available: flag(7),
            reserved: (flags >> 4 & 0x07) as u8,
            response_code: (flags & 0x0f) as u8,
            timestamp,
            ..Self::default()
        };
        let [questions, answers, authorities, additionals] = counts;
        for _ in 0..questions {
            message.questions.push(Question {
                name: reader.name()?,
                kind: reader.u16()?,
                class: reader.u16()?,
            });
        }
        for (count, records) in [
            (answers, &mut message.answers),
            (authorities, &mut message.authorities),
            (additionals, &mut message.additionals),
        ] {
            for _ in 0..count {
                records.push(reader.record()?);
            }
        }
        Ok((message, reader.at))
    }

    /// Writes the message.
    ///
    /// # Errors
    /// A field is too large for its place, or a name is invalid.
    pub fn pack(&self) -> Result<Vec<u8>, DnsError> {
        for (what, value, max) in [
            ("op_code", self.op_code, 0x0f),
            ("reserved", self.reserved, 0x07),
            ("response_code", self.response_code, 0x0f),
        ] {
            if value > max {
                return Err(DnsError::Range(what));
            }
        }
        let flag = |on: bool, bit: u16| u16::from(on) << bit;
        let flags = flag(!self.query, 15)
            | u16::from(self.op_code) << 11
            | flag(self.authoritative_answer, 10)
            | flag(self.truncation, 9)
            | flag(self.recursion_desired, 8)
            | flag(self.recursion_available, 7)
            | u16::from(self.reserved) << 4
            | u16::from(self.response_code);
        let mut out = Vec::with_capacity(512);
        out.extend(self.id.to_be_bytes());
        out.extend(flags.to_be_bytes());
        for count in [
            self.questions.len(),
            self.answers.len(),
            self.authorities.len(),
            self.additionals.len(),
        ] {
            let count = u16::try_from(count).map_err(|_| DnsError::Range("number of records"))?;
            out.extend(count.to_be_bytes());
        }
        for question in &self.questions {
            out.extend(pack_name(&question.name).ok_or(DnsError::Name)?);
            out.extend(question.kind.to_be_bytes());
            out.extend(question.class.to_be_bytes());
        }
        for record in self.records() {
            out.extend(pack_name(&record.name).ok_or(DnsError::Name)?);
            out.extend(record.kind.to_be_bytes());
            out.extend(record.class.to_be_bytes());
            out.extend(record.ttl.to_be_bytes());
            let len =
                u16::try_from(record.data.len()).map_err(|_| DnsError::Range("data length"))?;
            out.extend(len.to_be_bytes());
            out.extend_from_slice(&record.data);
            // Before the next record, so that many small errors do not become a large allocation.
            if out.len() > MAX_MESSAGE {
                return Err(DnsError::TooLong);
            }
        }
        if out.len() > MAX_MESSAGE { Err(DnsError::TooLong) } else { Ok(out) }
    }
}

/// Reads a name without compression that is all of `data`.
pub fn unpack_name(data: &[u8]) -> Option<String> {
    split_name(data).filter(|(_, rest)| rest.is_empty()).map(|(name, _)| name)
}

/// Reads a name without compression, and returns what follows it too.
pub(super) fn split_name(data: &[u8]) -> Option<(String, &[u8])> {
    let mut name = String::new();
    let mut rest = data;
    loop {
        let (&len, behind) = rest.split_first()?;
        if len == 0 {
            return Some((name, behind));
        }
        let (label, behind) = behind.split_at_checked(len.into())?;
        // With the root's octet.
        if label.len() > MAX_LABEL || data.len() - behind.len() >= MAX_NAME {
            return None;
        }
        push_label(&mut name, label);
        rest = behind;
    }
}

/// Writes a name without compression; `None` if it or one of its labels is too long or empty. Other scripts are
/// written by IDNA.
pub fn pack_name(name: &str) -> Option<Vec<u8>> {
    let ascii = crate::url::to_ascii(name)?;
    let name = ascii.strip_suffix('.').filter(|rest| !rest.ends_with('\\')).unwrap_or(&ascii);
    let mut out = Vec::with_capacity(name.len() + 2);
    if !name.is_empty() {
        let mut label = Vec::new();
        let mut bytes = name.bytes();
        loop {
            match bytes.next() {
                Some(b'\\') => label.push(read_escape(&mut bytes)?),
                Some(byte) if byte != b'.' => label.push(byte),
                end => {
                    if label.is_empty() || label.len() > MAX_LABEL {
                        return None;
                    }
                    out.push(label.len() as u8);
                    out.append(&mut label);
                    if end.is_none() {
                        break;
                    }
                }
            }
        }
    }
    out.push(0);
    (out.len() <= MAX_NAME).then_some(out)
}

/// Reads what follows a backslash: three decimal digits, or the byte itself.
fn read_escape(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = bytes.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, bytes.next()?, bytes.next()?];
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

fn push_label(name: &mut String, label: &[u8]) {
    if !name.is_empty() {
        name.push('.');
    }
    for &byte in label {
        match byte {
            b'.' | b'\\' => name.extend(['\\', char::from(byte)]),
            b'!'..=b'~' => name.push(char::from(byte)),
            _ => write!(name, "\\{byte:03}").expect("writing to a string succeeds"),
        }
    }
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DnsError> {
        let taken = self.data.get(self.at..self.at + len).ok_or(DnsError::Truncated)?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DnsError> {
        self.take(N)?.try_into().map_err(|_| DnsError::Truncated)
    }

    fn u8(&mut self) -> Result<u8, DnsError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DnsError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DnsError> {
        self.array().map(u32::from_be_bytes)
    }

    fn name(&mut self) -> Result<String, DnsError> {
        let mut name = String::new();
        self.labels(|label| push_label(&mut name, label))?;
        Ok(name)
    }

    /// Reads a name, compressed or not, label by label.
    fn labels(&mut self, mut label: impl FnMut(&[u8])) -> Result<(), DnsError> {
        let mut len = 0;
        // Where the name goes on after the first pointer.
        let mut end = None;
        // A pointer must lead before the place that the last one led to, so that there is no loop.
        let mut limit = self.at;
        loop {
            let byte = self.u8()?;
            match byte >> 6 {
                0 if byte == 0 => break,
                0 => {
                    len += usize::from(byte) + 1;
                    // One more is needed for the root.
                    if len >= MAX_NAME {
                        return Err(DnsError::Name);
                    }
                    label(self.take(byte.into())?);
                }
                3 => {
                    let target = usize::from(byte & 0x3f) << 8 | usize::from(self.u8()?);
                    end.get_or_insert(self.at);
                    if target >= limit {
                        return Err(DnsError::Name);
                    }
                    limit = target;
                    self.at = target;
                }
                _ => return Err(DnsError::Name),
            }
        }
        self.at = end.unwrap_or(self.at);
        Ok(())
    }

    fn record(&mut self) -> Result<ResourceRecord, DnsError> {
        let (name, kind, class, ttl) = (self.name()?, self.u16()?, self.u16()?, self.u32()?);
        let len = usize::from(self.u16()?);
        let start = self.at;
        let data = self.take(len)?;
        let mut inner = Reader { data: self.data.get(..self.at).unwrap_or_default(), at: start };
        // Data that does not follow its type is kept as it is.
        let data = inner.decompress(kind).unwrap_or_else(|| Bytes::copy_from_slice(data));
        Ok(ResourceRecord { name, kind, class, ttl, data })
    }

    /// Reads record data up to the end, names decompressed; `None` if the type has none, or the data is not of the type.
    fn decompress(&mut self, kind: u16) -> Option<Bytes> {
        // Octets before the names, names, octets behind them.
        let (before, names, behind) = match kind {
            // NS MD MF CNAME MB MG MR PTR DNAME
            2..=5 | 7..=9 | 12 | 39 => (0, 1, 0),
            // SOA
            6 => (0, 2, 20),
            // MINFO RP
            14 | 17 => (0, 2, 0),
            // MX AFSDB RT KX
            15 | 18 | 21 | 36 => (2, 1, 0),
            // SRV
            33 => (6, 1, 0),
            _ => return None,
        };
        let mut out = self.take(before).ok()?.to_vec();
        for _ in 0..names {
            self.labels(|label| {
                out.push(label.len() as u8);
                out.extend_from_slice(label);
            })
            .ok()?;
            out.push(0);
        }
        out.extend_from_slice(self.take(behind).ok()?);
        (self.at == self.data.len()).then(|| out.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dns::{A, CNAME, IN, MX};

    /// A response with compressed names, as resolvers send it.
    const RESPONSE: &[u8] = b"\x00\x2a\x81\x80\x00\x01\x00\x03\x00\x00\x00\x00\
        \x03dns\x06google\x00\x00\x01\x00\x01\
        \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x20\x00\x04\x01a\xc0\x10\
        \xc0\x0c\x00\x0f\x00\x01\x00\x00\x00\x20\x00\x04\x00\x0a\xc0\x10\
        \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x20\x00\x04\x08\x08\x08\x08";

    #[test]
    fn compressed_names_are_read() {
        let message = DnsMessage::unpack(RESPONSE, Some(1.0)).unwrap();
        assert_eq!((message.id, message.query, message.recursion_available), (42, false, true));
        assert_eq!(message.questions, [Question { name: "dns.google".into(), kind: A, class: IN }]);
        let [cname, mx, a] = message.answers.as_slice() else { panic!("{message:?}") };
        assert_eq!((cname.kind, &cname.data[..]), (CNAME, &b"\x01a\x06google\x00"[..]));
        assert_eq!((mx.kind, &mx.data[..]), (MX, &b"\x00\x0a\x06google\x00"[..]));
        assert_eq!((&*a.name, a.ttl, &*a.text()), ("dns.google", 32, "8.8.8.8"));
        let again = DnsMessage::unpack(&message.pack().unwrap(), Some(1.0)).unwrap();
        assert_eq!(again, message);
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused() {
        for len in 0..RESPONSE.len() {
            assert_eq!(
                DnsMessage::unpack(&RESPONSE[..len], None),
                Err(DnsError::Truncated),
                "{len}"
            );
        }
        let longer = [RESPONSE, b"x"].concat();
        assert_eq!(DnsMessage::unpack(&longer, None), Err(DnsError::Trailing(1)));
        assert_eq!(DnsMessage::unpack_prefix(&longer, None).unwrap().1, RESPONSE.len());
        assert_eq!(DnsMessage::unpack(&vec![0; 0x1_0000], None), Err(DnsError::TooLong));
    }

    #[test]
    fn pointers_cannot_loop() {
        let message = |name: &[u8]| {
            let data = [b"\0\0\0\0\0\x01\0\0\0\0\0\0", name, b"\0\x01\0\x01"].concat();
            DnsMessage::unpack(&data, None).map(|message| message.questions[0].name.clone())
        };
        assert_eq!(message(b"\x01a\0"), Ok("a".into()));
        // To itself, forward, to its own label, and a label type that does not exist.
        for name in [&b"\xc0\x0c"[..], b"\xc0\x0e\0", b"\x01a\xc0\x0c", b"\x40a\0"] {
            assert_eq!(message(name), Err(DnsError::Name));
        }
        assert_eq!(message(&[&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4)), Err(DnsError::Name));
    }

    #[test]
    fn fields_out_of_range_are_refused() {
        let message = |change: fn(&mut DnsMessage)| {
            let mut message = DnsMessage::default();
            change(&mut message);
            message.pack().unwrap_err()
        };
        assert_eq!(message(|m| m.op_code = 16), DnsError::Range("op_code"));
        assert_eq!(
            message(|m| m.questions.push(Question { name: "a..b".into(), ..Question::default() })),
            DnsError::Name
        );
        let record = |data: usize| ResourceRecord {
            data: vec![0; data].into(),
            ..ResourceRecord::default()
        };
        let mut long = DnsMessage { answers: vec![record(70_000)], ..DnsMessage::default() };
        assert_eq!(long.pack(), Err(DnsError::Range("data length")));
        long.answers = vec![record(40_000); 2];
        assert_eq!(long.pack(), Err(DnsError::TooLong));
    }

    #[test]
    fn any_label_survives() {
        let wire = b"\x05a.\\\xff \x01b\x00";
        let name = unpack_name(wire).unwrap();
        assert_eq!(name, "a\\.\\\\\\255\\032.b");
        assert_eq!(pack_name(&name).unwrap(), wire);
        assert_eq!(pack_name("").unwrap(), b"\0");
        assert_eq!(pack_name("foo.").unwrap(), b"\x03foo\0");
        assert_eq!(pack_name("bücher").unwrap(), b"\x0dxn--bcher-kva\0");
        for invalid in ["..", "a..b", "a\\", "\\999", &"a".repeat(64), &"a.".repeat(128)] {
            assert_eq!(pack_name(invalid), None, "{invalid}");
        }
        assert_eq!(unpack_name(b"\x03foo"), None);
        assert_eq!(unpack_name(b"\0x"), None);
    }

    proptest! {
        #[test]
        fn names_round_trip(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..5)) {
            let mut wire = Vec::new();
            for label in &labels {
                wire.push(label.len() as u8);
                wire.extend(label);
            }
            wire.push(0);
            let name = unpack_name(&wire).unwrap();
            // What looks like IDNA is checked to be that.
            prop_assume!(!name.to_ascii_lowercase().contains("xn--"));
            prop_assert_eq!(pack_name(&name).unwrap(), wire);
        }

        #[test]
        fn junk_does_no_harm(mut data: Vec<u8>, at in 0..RESPONSE.len(), byte: u8) {
            drop(DnsMessage::unpack(&data, None));
            data.splice(..0, *b"\0\0\0\0\0\x03\0\x03\0\x03\0\x03");
            drop(DnsMessage::unpack(&data, None));
            let mut changed = RESPONSE.to_vec();
            changed[at] = byte;
            if let Ok(message) = DnsMessage::unpack(&changed, None) {
                let _ = message.to_string();
            }
        }
    }
}
