//! DNS messages as text: names and readable record data, joined by CRLF (RFC 1035, RFC 9460).

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use mitm_flow::dns::{DnsMessage, ResourceRecord};

use crate::text::write_bytes_repr;

const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const HTTPS: u16 = 65;

/// Names of the service parameters 0 to 6 (RFC 9460 §14.3.2).
const SERVICE_PARAMETERS: [&str; 7] =
    ["mandatory", "alpn", "no_default_alpn", "port", "ipv4hint", "ech", "ipv6hint"];

/// Returns the questions' names and the text of each record.
pub(crate) fn message_text(message: &DnsMessage) -> String {
    let questions = message.questions.iter().map(|question| question.name.clone());
    let records = [&message.answers, &message.authorities, &message.additionals];
    questions.chain(records.into_iter().flatten().map(record_text)).collect::<Vec<_>>().join("\r\n")
}

fn record_text(record: &ResourceRecord) -> String {
    let data = &record.data[..];
    let (name, text) = match record.kind {
        A => ("A", <[u8; 4]>::try_from(data).ok().map(|ip| Ipv4Addr::from(ip).to_string())),
        AAAA => ("AAAA", <[u8; 16]>::try_from(data).ok().map(|ip| Ipv6Addr::from(ip).to_string())),
        NS => ("NS", whole_name(data)),
        CNAME => ("CNAME", whole_name(data)),
        PTR => ("PTR", whole_name(data)),
        TXT => ("TXT", std::str::from_utf8(data).ok().map(str::to_owned)),
        HTTPS => ("HTTPS", service_text(data)),
        _ => return hex(data),
    };
    text.unwrap_or_else(|| format!("{} (invalid {name} data)", hex(data)))
}

fn hex(data: &[u8]) -> String {
    let mut text = String::with_capacity(2 + data.len() * 2);
    text.push_str("0x");
    for byte in data {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn whole_name(data: &[u8]) -> Option<String> {
    name(data).filter(|(_, rest)| rest.is_empty()).map(|(name, _)| name)
}

/// Reads an uncompressed name; returns it and what follows.
fn name(mut data: &[u8]) -> Option<(String, &[u8])> {
    let mut labels: Vec<String> = Vec::new();
    loop {
        let (&len, rest) = data.split_first()?;
        if len >= 64 {
            return None;
        }
        if len == 0 {
            return Some((labels.join("."), rest));
        }
        let (label, rest) = rest.split_at_checked(usize::from(len))?;
        let label = std::str::from_utf8(label).ok().filter(|label| label.is_ascii())?;
        let (unicode, result) = idna::domain_to_unicode(label);
        labels.push(if result.is_ok() { unicode } else { label.to_owned() });
        data = rest;
    }
}

/// The text of an HTTPS record: priority, target, parameters.
fn service_text(data: &[u8]) -> Option<String> {
    let (priority, data) = u16_be(data)?;
    let (target, mut data) = name(data)?;
    let mut parameters: Vec<(u16, &[u8])> = Vec::new();
    while !data.is_empty() {
        let (key, rest) = u16_be(data)?;
        let (len, rest) = u16_be(rest)?;
        let (value, rest) = rest.split_at_checked(usize::from(len))?;
        parameters.push((key, value));
        data = rest;
    }
    let mut text = format!("priority: {priority} target_name: '{target}' {{");
    for (i, (key, value)) in parameters.iter().enumerate() {
        text.push_str(if i > 0 { ", " } else { "" });
        let _ = match SERVICE_PARAMETERS.get(usize::from(*key)) {
            Some(name) => write!(text, "'{name}': "),
            None => write!(text, "'key{key}': "),
        };
        let _ = write_bytes_repr(value, &mut text);
    }
    text.push('}');
    Some(text)
}

fn u16_be(data: &[u8]) -> Option<(u16, &[u8])> {
    let (bytes, rest) = data.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*bytes), rest))
}

#[cfg(test)]
mod tests {
    use mitm_flow::dns::Question;

    use super::*;

    fn text(kind: u16, data: &'static [u8]) -> String {
        record_text(&ResourceRecord { kind, data: data.into(), ..ResourceRecord::default() })
    }

    #[test]
    fn records_are_readable() {
        assert_eq!(text(A, &[8, 8, 4, 4]), "8.8.4.4");
        assert_eq!(
            text(AAAA, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            "2001:db8::1"
        );
        assert_eq!(text(CNAME, b"\x03dns\x06google\0"), "dns.google");
        assert_eq!(text(NS, b"\x0exn--mnchen-3ya\x02de\0"), "münchen.de");
        assert_eq!(text(TXT, b"v=spf1"), "v=spf1");
        assert_eq!(text(99, b"\x01\xff"), "0x01ff");
        assert_eq!(
            text(HTTPS, b"\0\x01\x01a\0\0\x01\0\x03\x02h2\x00\x63\0\x01x"),
            "priority: 1 target_name: 'a' {'alpn': b'\\x02h2', 'key99': b'x'}"
        );
    }

    #[test]
    fn broken_records_are_shown_as_hex() {
        assert_eq!(text(A, b"abc"), "0x616263 (invalid A data)");
        assert_eq!(text(CNAME, b"\x03dn"), "0x03646e (invalid CNAME data)");
        assert_eq!(text(PTR, b"\xc0\x0c"), "0xc00c (invalid PTR data)");
        assert_eq!(text(NS, b"\0x"), "0x0078 (invalid NS data)");
        assert_eq!(text(TXT, b"\xff"), "0xff (invalid TXT data)");
        assert_eq!(text(HTTPS, b"\0\x01\0\0\x01\0\x09"), "0x00010000010009 (invalid HTTPS data)");
    }

    #[test]
    fn parts_of_a_message_are_lines() {
        let message = DnsMessage {
            questions: vec![Question { name: "dns.google".into(), ..Question::default() }],
            answers: vec![ResourceRecord {
                kind: A,
                data: (&[8, 8, 8, 8][..]).into(),
                ..ResourceRecord::default()
            }],
            ..DnsMessage::default()
        };
        assert_eq!(message_text(&message), "dns.google\r\n8.8.8.8");
    }
}
