//! A reader for DER elements and writers for what `yasna` has no words for.
//!
//! Only what certificates and keys need: definite lengths, single-byte tags. Anything else is `None`.

use yasna::{DERWriter, Tag, models::ObjectIdentifier};

/// Context-specific tag numbers of `GeneralName`.
pub(crate) const GENERAL_NAME_DNS: u8 = 0x82;
pub(crate) const GENERAL_NAME_URI: u8 = 0x86;
pub(crate) const GENERAL_NAME_IP: u8 = 0x87;

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;

/// One element: its tag byte, its content, and all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) raw: &'a [u8],
}

/// Takes elements off the front of a byte string.
#[derive(Debug)]
pub(crate) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the next element if it has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let whole = self.rest;
        let (&tag, after_tag) = whole.split_first()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = after_tag.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x84 => {
                let (digits, tail) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = tail;
                digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let raw = whole.get(..whole.len() - rest.len())?;
        self.rest = rest;
        Some(Element { tag, content, raw })
    }
}

/// Returns the PKCS#1 key inside a PKCS#8 RSA key.
pub(crate) fn pkcs1_of_pkcs8(pkcs8: &[u8]) -> Option<&[u8]> {
    let info = Elements::new(pkcs8).expect(SEQUENCE)?;
    let mut fields = Elements::new(info.content);
    fields.expect(INTEGER)?;
    fields.expect(SEQUENCE)?;
    Some(fields.expect(OCTET_STRING)?.content)
}

pub(crate) fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

/// Writes seconds since 1970 as `UTCTime`, from 2050 on as `GeneralizedTime` (RFC 5280 §4.1.2.5).
pub(crate) fn write_time(writer: DERWriter<'_>, seconds: i64) {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let (tag, year) = if (1950..2050).contains(&year) {
        (yasna::tags::TAG_UTCTIME, format!("{:02}", year % 100))
    } else {
        (yasna::tags::TAG_GENERALIZEDTIME, format!("{year:04}"))
    };
    let text = format!("{year}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    writer.write_tagged_implicit(tag, |writer| writer.write_bytes(text.as_bytes()));
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years are counted from March so that the leap day is the last one; 719,468 days lie between
    // 0000-03-01 and 1970-01-01, and 146,097 make 400 years.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Writes one certificate or CRL extension; `value` is its DER.
pub(crate) fn write_extension(writer: DERWriter<'_>, id: &[u64], critical: bool, value: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(id));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(value);
    });
}

/// Writes bytes under a primitive context-specific tag.
pub(crate) fn write_context_bytes(writer: DERWriter<'_>, number: u64, bytes: &[u8]) {
    writer.write_tagged_implicit(Tag::context(number), |writer| writer.write_bytes(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> Vec<u8> {
        yasna::construct_der(|writer| write_time(writer, seconds))
    }

    #[test]
    fn times_are_written_by_the_rules_of_rfc_5280() {
        for (seconds, text) in [
            (0, "700101000000Z"),
            (951_782_399, "000228235959Z"),
            (951_782_400, "000229000000Z"),
            (1_735_689_599, "241231235959Z"),
            (2_524_607_999, "491231235959Z"),
        ] {
            let der = time(seconds);
            assert_eq!(der.first(), Some(&0x17));
            assert_eq!(std::str::from_utf8(&der[2..]).unwrap(), text);
        }
        let der = time(2_524_608_000);
        assert_eq!((der[0], std::str::from_utf8(&der[2..]).unwrap()), (0x18, "20500101000000Z"));
    }

    #[test]
    fn truncated_elements_are_nothing() {
        assert!(Elements::new(&[0x30, 0x82, 0xff]).next().is_none());
        assert!(Elements::new(&[0x30, 0x05, 1, 2]).next().is_none());
        assert!(Elements::new(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).next().is_none());
        assert!(Elements::new(&[0x1f, 0x01, 0]).next().is_none());
        let mut two = Elements::new(&[0x02, 0x01, 7, 0x04, 0x00]);
        assert_eq!(two.expect(INTEGER).unwrap().content, [7]);
        assert_eq!(two.expect(OCTET_STRING).unwrap().raw, [4, 0]);
        assert!(two.next().is_none());
    }
}
