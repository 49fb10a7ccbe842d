//! Names of the numbers in DNS messages, from the registries of IANA.

use std::borrow::Cow;

pub const A: u16 = 1;
pub const NS: u16 = 2;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;
pub const HTTPS: u16 = 65;

/// The class of the Internet.
pub const IN: u16 = 1;

/// Returns the name of a type of records, `TYPE(n)` if it has none.
pub fn type_name(kind: u16) -> Cow<'static, str> {
    name(TYPES, kind, "TYPE")
}

/// Returns the type of records that has this name.
pub fn type_from_name(text: &str) -> Option<u16> {
    if let Some(number) = text.strip_prefix("TYPE(").and_then(|text| text.strip_suffix(')')) {
        return number.parse().ok();
    }
    TYPES.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
}

/// Returns the name of a class, `CLASS(n)` if it has none.
pub fn class_name(class: u16) -> Cow<'static, str> {
    name(CLASSES, class, "CLASS")
}

/// Returns the name of an operation code, `OPCODE(n)` if it has none.
pub fn op_code_name(op_code: u8) -> Cow<'static, str> {
    name(OP_CODES, op_code.into(), "OPCODE")
}

/// Returns the name of a response code, `RCODE(n)` if it has none.
pub fn response_code_name(response_code: u8) -> Cow<'static, str> {
    name(RESPONSE_CODES, response_code.into(), "RCODE")
}

/// Returns the HTTP status code that says about the same as a response code.
pub fn response_code_http_status(response_code: u8) -> u16 {
    match response_code {
        0 => 200,
        1 => 400,
        3 | 10 => 404,
        4 | 11 => 501,
        5 => 403,
        6 | 7 => 409,
        8 => 410,
        9 => 401,
        _ => 500,
    }
}

fn name(table: &[(u16, &'static str)], number: u16, kind: &str) -> Cow<'static, str> {
    match table.binary_search_by_key(&number, |(n, _)| *n).ok().and_then(|i| table.get(i)) {
        Some((_, name)) => (*name).into(),
        None => format!("{kind}({number})").into(),
    }
}

// All in ascending order of the number.

const CLASSES: &[(u16, &str)] = &[(1, "IN"), (3, "CH"), (4, "HS"), (254, "NONE"), (255, "ANY")];

const OP_CODES: &[(u16, &str)] =
    &[(0, "QUERY"), (1, "IQUERY"), (2, "STATUS"), (4, "NOTIFY"), (5, "UPDATE"), (6, "DSO")];

const RESPONSE_CODES: &[(u16, &str)] = &[
    (0, "NOERROR"),
    (1, "FORMERR"),
    (2, "SERVFAIL"),
    (3, "NXDOMAIN"),
    (4, "NOTIMP"),
    (5, "REFUSED"),
    (6, "YXDOMAIN"),
    (7, "YXRRSET"),
    (8, "NXRRSET"),
    (9, "NOTAUTH"),
    (10, "NOTZONE"),
    (11, "DSOTYPENI"),
];

const TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (3, "MD"),
    (4, "MF"),
    (5, "CNAME"),
    (6, "SOA"),
    (7, "MB"),
    (8, "MG"),
    (9, "MR"),
    (10, "NULL"),
    (11, "WKS"),
    (12, "PTR"),
    (13, "HINFO"),
    (14, "MINFO"),
    (15, "MX"),
    (16, "TXT"),
    (17, "RP"),
    (18, "AFSDB"),
    (19, "X25"),
    (20, "ISDN"),
    (21, "RT"),
    (22, "NSAP"),
    (23, "NSAP_PTR"),
    (24, "SIG"),
    (25, "KEY"),
    (26, "PX"),
    (27, "GPOS"),
    (28, "AAAA"),
    (29, "LOC"),
    (30, "NXT"),
    (31, "EID"),
    (32, "NIMLOC"),
    (33, "SRV"),
    (34, "ATMA"),
    (35, "NAPTR"),
    (36, "KX"),
    (37, "CERT"),
    (38, "A6"),
    (39, "DNAME"),
    (40, "SINK"),
    (41, "OPT"),
    (42, "APL"),
    (43, "DS"),
    (44, "SSHFP"),
    (45, "IPSECKEY"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (49, "DHCID"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (53, "SMIMEA"),
    (55, "HIP"),
    (56, "NINFO"),
    (57, "RKEY"),
    (58, "TALINK"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (62, "CSYNC"),
    (63, "ZONEMD"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (100, "UINFO"),
    (101, "UID"),
    (102, "GID"),
    (103, "UNSPEC"),
    (104, "NID"),
    (105, "L32"),
    (106, "L64"),
    (107, "LP"),
    (108, "EUI48"),
    (109, "EUI64"),
    (249, "TKEY"),
    (250, "TSIG"),
    (251, "IXFR"),
    (252, "AXFR"),
    (253, "MAILB"),
    (254, "MAILA"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
    (258, "AVC"),
    (259, "DOA"),
    (260, "AMTRELAY"),
    (32768, "TA"),
    (32769, "DLV"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_names() {
        for table in [TYPES, CLASSES, OP_CODES, RESPONSE_CODES] {
            assert!(table.is_sorted());
        }
        assert_eq!(type_name(A), "A");
        assert_eq!(type_name(HTTPS), "HTTPS");
        assert_eq!(class_name(IN), "IN");
        assert_eq!(op_code_name(0), "QUERY");
        assert_eq!(op_code_name(3), "OPCODE(3)");
        assert_eq!(response_code_name(3), "NXDOMAIN");
        for kind in 0..300 {
            assert_eq!(type_from_name(&type_name(kind)), Some(kind));
        }
        assert_eq!(type_from_name("nope"), None);
        assert_eq!(response_code_http_status(3), 404);
    }
}
