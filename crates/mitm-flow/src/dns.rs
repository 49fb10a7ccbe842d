//! DNS messages (RFC 1035): plain values, their text, and their wire format.
//!
//! Names are text without the dot at the end. Bytes of a label that are not printable ASCII, dots and
//! backslashes are escaped as in zone files (`\\046`, RFC 1035 §5.1), so that any name survives.

mod names;
mod wire;

use std::{
    borrow::Cow,
    fmt::{self, Write},
    net::{Ipv4Addr, Ipv6Addr},
};

use bytes::Bytes;

use crate::{human, url};

pub use names::{
    A, AAAA, CNAME, HTTPS, IN, MX, NS, PTR, SOA, SRV, TXT, class_name, op_code_name,
    response_code_http_status, response_code_name, type_from_name, type_name,
};
pub use wire::{DnsError, pack_name, unpack_name};

/// A DNS query or response.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags of the DNS header")]
pub struct DnsMessage {
    pub id: u16,
    /// True for a query, false for a response.
    pub query: bool,
    pub op_code: u8,
    pub authoritative_answer: bool,
    pub truncation: bool,
    pub recursion_desired: bool,
    pub recursion_available: bool,
    pub reserved: u8,
    pub response_code: u8,
    pub questions: Vec<Question>,
    pub answers: Vec<ResourceRecord>,
    pub authorities: Vec<ResourceRecord>,
    pub additionals: Vec<ResourceRecord>,
    pub timestamp: Option<f64>,
}

/// One question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    pub name: String,
    pub kind: u16,
    pub class: u16,
}

/// One record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceRecord {
    pub name: String,
    pub kind: u16,
    pub class: u16,
    pub ttl: u32,
    pub data: Bytes,
}

impl DnsMessage {
    /// Returns the question if there is exactly one.
    pub fn question(&self) -> Option<&Question> {
        match self.questions.as_slice() {
            [question] => Some(question),
            _ => None,
        }
    }

    /// Returns all records in order.
    pub fn records(&self) -> impl Iterator<Item = &ResourceRecord> {
        self.answers.iter().chain(&self.authorities).chain(&self.additionals)
    }

    /// Returns the sum of the lengths of the records' data.
    pub fn size(&self) -> usize {
        self.records().map(|record| record.data.len()).sum()
    }

    /// Returns a response to this query with an error code; `None` for code 0, which is none.
    pub fn fail(&self, response_code: u8) -> Option<Self> {
        (response_code != 0).then(|| Self { response_code, ..self.respond(Vec::new()) })
    }

    /// Returns a response to this query with these answers.
    #[must_use]
    pub fn succeed(&self, answers: Vec<ResourceRecord>) -> Self {
        self.respond(answers)
    }

    fn respond(&self, answers: Vec<ResourceRecord>) -> Self {
        Self {
            id: self.id,
            query: false,
            op_code: self.op_code,
            recursion_desired: self.recursion_desired,
            recursion_available: true,
            questions: self.questions.clone(),
            answers,
            timestamp: Some(crate::now()),
            ..Self::default()
        }
    }
}

/// The names of the questions and the data of the records, joined by CRLF: what filters search.
impl fmt::Display for DnsMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.questions.iter().map(|question| Cow::from(&*question.name));
        for (i, text) in names.chain(self.records().map(ResourceRecord::text)).enumerate() {
            if i > 0 {
                f.write_str("\r\n")?;
            }
            f.write_str(&text)?;
        }
        Ok(())
    }
}

impl ResourceRecord {
    /// Returns the data as people read it: addresses, names, text, else hexadecimal digits.
    pub fn text(&self) -> Cow<'_, str> {
        let readable = match self.kind {
            A => <[u8; 4]>::try_from(&*self.data)
                .ok()
                .map(|ip| Ipv4Addr::from(ip).to_string().into()),
            AAAA => <[u8; 16]>::try_from(&*self.data)
                .ok()
                .map(|ip| Ipv6Addr::from(ip).to_string().into()),
            NS | CNAME | PTR => unpack_name(&self.data)
                .map(|name| url::to_unicode(name.as_bytes()).into_owned().into()),
            // As it is, the length octets of its strings included.
            TXT => std::str::from_utf8(&self.data).ok().map(Cow::from),
            HTTPS => service_text(&self.data).map(Cow::from),
            _ => return hex(&self.data).into(),
        };
        readable.unwrap_or_else(|| {
            format!("{} (invalid {} data)", hex(&self.data), type_name(self.kind)).into()
        })
    }
}

/// Returns the priority, the target and the parameters of HTTPS data (RFC 9460 §2.2).
fn service_text(data: &[u8]) -> Option<String> {
    const PARAMETERS: [&str; 7] =
        ["mandatory", "alpn", "no_default_alpn", "port", "ipv4hint", "ech", "ipv6hint"];
    let (priority, rest) = read_u16(data)?;
    let (target, mut rest) = wire::split_name(rest)?;
    let target = url::to_unicode(target.as_bytes());
    let mut out = format!("priority: {priority} target_name: '{target}' {{");
    let mut separator = "";
    while !rest.is_empty() {
        let (key, behind) = read_u16(rest)?;
        let (len, behind) = read_u16(behind)?;
        let (value, behind) = behind.split_at_checked(len.into())?;
        let value = human::bytes_repr(value);
        match PARAMETERS.get(usize::from(key)) {
            Some(name) => write!(out, "{separator}'{name}': {value}"),
            None => write!(out, "{separator}'key{key}': {value}"),
        }
        .expect("writing to a string succeeds");
        separator = ", ";
        rest = behind;
    }
    out.push('}');
    Some(out)
}

fn read_u16(data: &[u8]) -> Option<(u16, &[u8])> {
    data.split_first_chunk().map(|(bytes, rest)| (u16::from_be_bytes(*bytes), rest))
}

fn hex(data: &[u8]) -> String {
    let mut out = String::with_capacity(data.len() * 2 + 2);
    out.push_str("0x");
    for byte in data {
        write!(out, "{byte:02x}").expect("writing to a string succeeds");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u16, data: &'static [u8]) -> ResourceRecord {
        ResourceRecord { kind, data: data.into(), ..ResourceRecord::default() }
    }

    #[test]
    fn data_is_readable() {
        for (kind, data, text) in [
            (A, &b"\x01\x02\x03\x04"[..], "1.2.3.4"),
            (A, b"abc", "0x616263 (invalid A data)"),
            (AAAA, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", "::1"),
            (NS, b"\x03foo\x03bar\0", "foo.bar"),
            (CNAME, b"\xc0\x0c", "0xc00c (invalid CNAME data)"),
            (PTR, b"\0", ""),
            (NS, b"\x0exn--mnchen-3ya\x02de\0", "münchen.de"),
            (
                HTTPS,
                b"\0\x01\x01a\0\0\x01\0\x03\x02h2\x00\x63\0\x01x",
                "priority: 1 target_name: 'a' {'alpn': b'\\x02h2', 'key99': b'x'}",
            ),
            (HTTPS, b"\0\x01\0\0\x01\0\x09", "0x00010000010009 (invalid HTTPS data)"),
            (TXT, b"hello", "hello"),
            (TXT, b"\xff\xfe", "0xfffe (invalid TXT data)"),
            (MX, b"\0\x0a\0", "0x000a00"),
        ] {
            assert_eq!(record(kind, data).text(), text);
        }
    }

    #[test]
    fn text_form_is_joined_by_crlf() {
        let query = DnsMessage {
            questions: vec![Question { name: "dns.google".into(), kind: A, class: IN }],
            ..DnsMessage::default()
        };
        let answers = vec![record(A, b"\x08\x08\x08\x08"), record(TXT, b"x")];
        let response = query.succeed(answers);
        assert_eq!(response.to_string(), "dns.google\r\n8.8.8.8\r\nx");
        assert_eq!(response.question(), query.questions.first());
        assert_eq!(response.size(), 5);
        assert!(query.fail(0).is_none());
        assert_eq!(query.fail(3).unwrap().response_code, 3);
    }
}
