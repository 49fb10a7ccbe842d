//! DNS messages (RFC 1035) as plain values.

use bytes::Bytes;

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
