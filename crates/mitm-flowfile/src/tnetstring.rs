//! tnetstrings: the notation of flow files, `LENGTH ":" PAYLOAD TAG`.
//!
//! Scanning splits one element after the other off a slice (`element`); [`decode`] and
//! [`encode`] convert whole values. Input is hostile: nothing is allocated before the bytes a length
//! claims are there, nesting is at most [`MAX_DEPTH`], the number of values at most [`MAX_VALUES`].
//!
//! Where Python and Rust differ:
//!
//! | in the file | here |
//! |---|---|
//! | integer beyond 64 bits | its digits as [`Value::Str`], so that nothing is rounded |
//! | text that is not UTF-8 | an error: Python cannot write it either |
//! | float | written as Python's `repr` does, read in any form Rust's parser takes (`inf`, `nan`, `1e5`) |
//! | order of a dict | that of the file; when a key repeats, the last one wins ([`Value::get`]) |

use bytes::Bytes;
use mitm_flow::Value;
use thiserror::Error;

use crate::back::Back;

/// How deep lists and dicts may nest.
pub const MAX_DEPTH: usize = 128;

/// How many values one decoded element may hold, which bounds the memory a small file can claim.
pub const MAX_VALUES: usize = 4_000_000;

/// The digits a length prefix may have.
const MAX_DIGITS: usize = 12;

/// The tag of a string whose bytes stay in the file, see [`crate::large`]. It is ours, never part of a file.
pub(crate) const STORED: u8 = b'@';

/// What is wrong with an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("the data ends in the middle of an element")]
    Truncated,
    #[error("missing or invalid length prefix")]
    Length,
    #[error("absurdly large length prefix")]
    LengthTooLong,
    #[error("unknown type tag {0:#04x}")]
    Tag(u8),
    #[error("invalid integer")]
    Integer,
    #[error("invalid float")]
    Float,
    #[error("invalid boolean")]
    Boolean,
    #[error("invalid null")]
    Null,
    #[error("text that is not UTF-8")]
    Text,
    #[error("a key without a value")]
    LonelyKey,
    #[error("lists or dicts nested too deeply")]
    TooDeep,
    #[error("too many values")]
    TooMany,
    #[error("data after the end of the element")]
    Trailing,
}

/// A problem and where in the data it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{problem} (byte {at})")]
pub struct TnetError {
    pub at: usize,
    pub problem: Problem,
}

impl TnetError {
    pub(crate) fn new(at: usize, problem: Problem) -> Self {
        Self { at, problem }
    }
}

/// Where the payload of an element lies; its tag is the byte at `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// Stands for a key that was not found.
    pub(crate) const ABSENT: Self = Self { start: u32::MAX, end: u32::MAX };

    pub(crate) fn is_absent(self) -> bool {
        self.start == u32::MAX
    }

    /// Returns the payload.
    #[inline]
    pub(crate) fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Returns the tag, `~` for an absent element.
    #[inline]
    pub(crate) fn tag(self, buf: &[u8]) -> u8 {
        buf.get(self.end as usize).copied().unwrap_or(b'~')
    }

    /// Returns the offset of the element after this one.
    #[inline]
    pub(crate) fn next(self) -> usize {
        self.end as usize + 1
    }
}

/// What stands at the beginning of a piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// Not enough bytes to tell.
    Incomplete,
    /// The payload begins at `start` and has `len` bytes.
    Complete { start: usize, len: u64 },
}

/// Reads a length prefix at `at`.
#[inline]
pub(crate) fn prefix(buf: &[u8], at: usize) -> Result<Prefix, TnetError> {
    let mut len = 0u64;
    let mut i = at;
    loop {
        let Some(&byte) = buf.get(i) else { return Ok(Prefix::Incomplete) };
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            if byte == b':' && i > at {
                return Ok(Prefix::Complete { start: i + 1, len });
            }
            return Err(TnetError::new(i, Problem::Length));
        }
        if i - at == MAX_DIGITS {
            return Err(TnetError::new(at, Problem::LengthTooLong));
        }
        len = len * 10 + u64::from(digit);
        i += 1;
    }
}

/// Reads the element at `at` of a buffer of less than 4 GiB. The tag is there but not looked at.
#[expect(clippy::inline_always, reason = "runs for each value of each record")]
#[inline(always)]
pub(crate) fn element(buf: &[u8], at: usize) -> Result<Span, TnetError> {
    let span = short_element(buf, at);
    if span.is_absent() { long_element(buf, at) } else { Ok(span) }
}

/// Reads an element whose length has one to three digits, as nearly all have; absent if it is not one.
#[expect(clippy::inline_always, reason = "runs for each value of each record")]
#[inline(always)]
fn short_element(buf: &[u8], at: usize) -> Span {
    let Some(head) = buf.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
        return Span::ABSENT;
    };
    let digit = |i: usize| u32::from(head[i].wrapping_sub(b'0'));
    let is_digit = |i: usize| digit(i) < 10;
    let (len, start, valid) = if head[1] == b':' {
        (digit(0), 2, is_digit(0))
    } else if head[2] == b':' {
        (digit(0) * 10 + digit(1), 3, is_digit(0) && is_digit(1))
    } else if head[3] == b':' {
        let len = digit(0) * 100 + digit(1) * 10 + digit(2);
        (len, 4, is_digit(0) && is_digit(1) && is_digit(2))
    } else {
        return Span::ABSENT;
    };
    let start = at + start;
    let end = start + len as usize;
    if valid && end < buf.len() {
        return Span { start: start as u32, end: end as u32 };
    }
    Span::ABSENT
}

/// Reads any element.
#[inline(never)]
fn long_element(buf: &[u8], at: usize) -> Result<Span, TnetError> {
    let Prefix::Complete { start, len } = prefix(buf, at)? else {
        return Err(TnetError::new(at, Problem::Truncated));
    };
    // Lengths have at most 12 digits: the sum cannot overflow.
    let end = start as u64 + len;
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) if (end as usize) < buf.len() => Ok(Span { start, end }),
        _ => Err(TnetError::new(at, Problem::Truncated)),
    }
}

/// Reads a decimal integer as Python writes it. `Ok(None)` is one beyond 64 bits.
pub(crate) fn parse_int(digits: &[u8]) -> Result<Option<i64>, Problem> {
    let (negative, magnitude) = match digits {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    if magnitude.is_empty() || !magnitude.iter().all(u8::is_ascii_digit) {
        return Err(Problem::Integer);
    }
    let mut value = 0i64;
    for digit in magnitude {
        let digit = i64::from(digit - b'0');
        let step = value
            .checked_mul(10)
            .and_then(|v| if negative { v.checked_sub(digit) } else { v.checked_add(digit) });
        let Some(next) = step else { return Ok(None) };
        value = next;
    }
    Ok(Some(value))
}

/// Reads a float as Python writes it.
pub(crate) fn parse_float(text: &[u8]) -> Result<f64, Problem> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Problem::Float)
}

/// Reads `true` or `false`.
pub(crate) fn parse_bool(text: &[u8]) -> Result<bool, Problem> {
    match text {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(Problem::Boolean),
    }
}

/// Decodes data that is exactly one element. Byte strings share the memory of `data`.
///
/// # Errors
/// The first problem, and where it is.
pub fn decode(data: &Bytes) -> Result<Value, TnetError> {
    let (value, end) = decode_first(data)?;
    if end == data.len() { Ok(value) } else { Err(TnetError::new(end, Problem::Trailing)) }
}

/// Decodes the element at the beginning of `data` and returns where it ends.
///
/// # Errors
/// The first problem, and where it is.
pub fn decode_first(data: &Bytes) -> Result<(Value, usize), TnetError> {
    let mut decoder = Decoder { data, left: MAX_VALUES, stored: false };
    let span = element(data, 0)?;
    Ok((decoder.value(span, 0)?, span.next()))
}

/// Decodes the element `span` of `data`. With `stored` it may hold strings that are left in the file; they become
/// [`stored_value`]s, which cannot be confused with what the file says, since keys must not be null then.
pub(crate) fn decode_span(data: &Bytes, span: Span, stored: bool) -> Result<Value, TnetError> {
    Decoder { data, left: MAX_VALUES, stored }.value(span, 0)
}

/// Replaces each [`stored_value`] by the bytes that `load` returns for its place.
pub(crate) fn load_stored<E>(
    value: &mut Value,
    load: &mut impl FnMut(&[u8]) -> Result<Bytes, E>,
) -> Result<(), E> {
    if let Some(place) = as_stored(value) {
        *value = Value::Bytes(load(place)?);
        return Ok(());
    }
    match value {
        Value::List(list) => list.iter_mut().try_for_each(|item| load_stored(item, load)),
        Value::Map(entries) => entries.iter_mut().try_for_each(|(key, value)| {
            load_stored(key, load)?;
            load_stored(value, load)
        }),
        _ => Ok(()),
    }
}

/// Stands in a [`Value`] for a string that is left in the file; `place` is the payload of its element.
fn stored_value(place: &[u8]) -> Value {
    Value::Map(vec![(Value::Null, Value::Bytes(Bytes::copy_from_slice(place)))])
}

fn as_stored(value: &Value) -> Option<&Bytes> {
    match value {
        Value::Map(entries) => match entries.as_slice() {
            [(Value::Null, Value::Bytes(place))] => Some(place),
            _ => None,
        },
        _ => None,
    }
}

struct Decoder<'a> {
    data: &'a Bytes,
    left: usize,
    stored: bool,
}

impl Decoder<'_> {
    fn value(&mut self, span: Span, depth: usize) -> Result<Value, TnetError> {
        let at = span.start as usize;
        let error = |problem| TnetError::new(at, problem);
        if depth > MAX_DEPTH {
            return Err(error(Problem::TooDeep));
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| error(Problem::TooMany))?;
        let payload = span.of(self.data);
        let value = match span.tag(self.data) {
            b',' => Value::Bytes(self.data.slice(at..span.end as usize)),
            b';' => {
                let text = std::str::from_utf8(payload).map_err(|_| error(Problem::Text))?;
                Value::Str(text.to_owned())
            }
            b'#' => match parse_int(payload).map_err(error)? {
                Some(value) => Value::Int(value),
                None => Value::Str(String::from_utf8_lossy(payload).into_owned()),
            },
            b'^' => Value::Float(parse_float(payload).map_err(error)?),
            b'!' => Value::Bool(parse_bool(payload).map_err(error)?),
            b'~' if payload.is_empty() => Value::Null,
            b'~' => return Err(error(Problem::Null)),
            b']' => {
                let mut list = Vec::new();
                let mut items = Items::new(self.data, span);
                while let Some(item) = items.next()? {
                    list.push(self.value(item, depth + 1)?);
                }
                Value::List(list)
            }
            b'}' => {
                let mut map = Vec::new();
                let mut items = Items::new(self.data, span);
                while let Some(key) = items.next()? {
                    let Some(value) = items.next()? else {
                        return Err(TnetError::new(key.start as usize, Problem::LonelyKey));
                    };
                    let key = self.value(key, depth + 1)?;
                    if self.stored && key.is_null() {
                        return Err(error(Problem::Null));
                    }
                    map.push((key, self.value(value, depth + 1)?));
                }
                Value::Map(map)
            }
            STORED if self.stored => stored_value(payload),
            tag => return Err(error(Problem::Tag(tag))),
        };
        Ok(value)
    }
}

/// The elements inside a list or dict.
pub(crate) struct Items<'a> {
    /// Ends where the container does, so that no element reaches beyond it.
    buf: &'a [u8],
    at: usize,
}

impl<'a> Items<'a> {
    pub(crate) fn new(buf: &'a [u8], container: Span) -> Self {
        let buf = buf.get(..container.end as usize).unwrap_or_default();
        Self { buf, at: container.start as usize }
    }

    #[expect(clippy::inline_always, reason = "runs for each value of each list")]
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Result<Option<Span>, TnetError> {
        if self.at >= self.buf.len() {
            return Ok(None);
        }
        let span = element(self.buf, self.at)?;
        self.at = span.next();
        Ok(Some(span))
    }
}

/// Checks an element of any type with all that it holds, without building it.
pub(crate) fn check_any(
    buf: &[u8],
    span: Span,
    stored: bool,
    depth: usize,
) -> Result<(), TnetError> {
    let error = |problem| TnetError::new(span.start as usize, problem);
    if depth > MAX_DEPTH {
        return Err(error(Problem::TooDeep));
    }
    let payload = span.of(buf);
    match span.tag(buf) {
        b',' => Ok(()),
        b';' => std::str::from_utf8(payload).map(drop).map_err(|_| error(Problem::Text)),
        b'#' => parse_int(payload).map(drop).map_err(error),
        b'^' => parse_float(payload).map(drop).map_err(error),
        b'!' => parse_bool(payload).map(drop).map_err(error),
        b'~' if payload.is_empty() => Ok(()),
        b'~' => Err(error(Problem::Null)),
        tag @ (b']' | b'}') => {
            let mut items = Items::new(buf, span);
            let mut count = 0usize;
            while let Some(item) = items.next()? {
                count += 1;
                if tag == b'}' && count % 2 == 1 && item.tag(buf) == b'~' && stored {
                    return Err(error(Problem::Null));
                }
                check_any(buf, item, stored, depth + 1)?;
            }
            if tag == b'}' && count % 2 == 1 {
                return Err(error(Problem::LonelyKey));
            }
            Ok(())
        }
        STORED if stored => Ok(()),
        tag => Err(error(Problem::Tag(tag))),
    }
}

/// Encodes a value.
///
/// # Errors
/// [`Problem::TooDeep`], so that whatever is written can be read.
pub fn encode(value: &Value) -> Result<Vec<u8>, Problem> {
    let mut out = Back::new();
    put_value(&mut out, value, 0)?;
    Ok(out.to_vec())
}

/// Prepends a value.
pub(crate) fn put_value(out: &mut Back, value: &Value, depth: usize) -> Result<(), Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::TooDeep);
    }
    match value {
        Value::Null => out.null(),
        Value::Bool(value) => out.boolean(*value),
        Value::Int(value) => out.int(*value),
        Value::Float(value) => out.float(*value),
        Value::Bytes(bytes) => out.leaf(b',', bytes),
        Value::Str(text) => out.leaf(b';', text.as_bytes()),
        Value::List(list) => {
            let mark = out.open(b']');
            for item in list.iter().rev() {
                put_value(out, item, depth + 1)?;
            }
            out.close(mark);
        }
        Value::Map(entries) => {
            let mark = out.open(b'}');
            for (key, value) in entries.iter().rev() {
                put_value(out, value, depth + 1)?;
                put_value(out, key, depth + 1)?;
            }
            out.close(mark);
        }
    }
    Ok(())
}

/// Prepends a value of a migrated record: a [`stored_value`] becomes the element it came from.
pub(crate) fn put_record_value(out: &mut Back, value: &Value) -> Result<(), Problem> {
    match as_stored(value) {
        Some(place) => {
            out.leaf(STORED, place);
            Ok(())
        }
        None => match value {
            Value::List(list) => {
                let mark = out.open(b']');
                for item in list.iter().rev() {
                    put_record_value(out, item)?;
                }
                out.close(mark);
                Ok(())
            }
            Value::Map(entries) => {
                let mark = out.open(b'}');
                for (key, value) in entries.iter().rev() {
                    put_record_value(out, value)?;
                    put_value(out, key, 0)?;
                }
                out.close(mark);
                Ok(())
            }
            other => put_value(out, other, 0),
        },
    }
}

/// Appends a float as Python's `repr` writes it: the shortest digits that give the same number back,
/// with an exponent below 1e-4 and from 1e16 on.
pub fn write_float(out: &mut Vec<u8>, value: f64) {
    if (1e-3..1e15).contains(&value.abs()) || value == 0.0 {
        // In this range the shortest form is in positional notation in either language.
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
        return;
    }
    if !value.is_finite() {
        let text = match value {
            _ if value.is_nan() => "nan",
            _ if value > 0.0 => "inf",
            _ => "-inf",
        };
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        out.extend_from_slice(plain.as_bytes());
        if !plain.contains('.') {
            out.extend_from_slice(b".0");
        }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        out.extend_from_slice(format!("{mantissa}e{sign}{:02}", exponent.abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(data: &'static [u8]) -> Result<Value, Problem> {
        decode(&Bytes::from_static(data)).map_err(|error| error.problem)
    }

    #[test]
    fn each_tag_is_read_and_written() {
        let cases: [(&'static [u8], Value); 12] = [
            (b"0:~", Value::Null),
            (b"4:true!", Value::Bool(true)),
            (b"5:false!", Value::Bool(false)),
            (b"2:42#", Value::Int(42)),
            (b"20:-9223372036854775808#", Value::Int(i64::MIN)),
            (b"3:1.5^", Value::Float(1.5)),
            (b"3:inf^", Value::Float(f64::INFINITY)),
            (b"3:a\x00b,", Value::Bytes(Bytes::from_static(b"a\x00b"))),
            (b"2:\xc3\xa9;", Value::Str("é".into())),
            (b"0:]", Value::List(vec![])),
            (b"7:1:1#0:~]", Value::List(vec![Value::Int(1), Value::Null])),
            (b"9:1:a;2:hi,}", Value::Map(vec![("a".into(), Value::Bytes("hi".into()))])),
        ];
        for (text, value) in cases {
            assert_eq!(parse(text), Ok(value.clone()), "{}", text.escape_ascii());
            assert_eq!(encode(&value).unwrap(), text);
        }
    }

    #[test]
    fn bad_data_is_named() {
        for (text, problem) in [
            (&b""[..], Problem::Truncated),
            (b"x", Problem::Length),
            (b":,", Problem::Length),
            (b"-1:,", Problem::Length),
            (b"1234567890123:,", Problem::LengthTooLong),
            (b"999999999999:,", Problem::Truncated),
            (b"3:ab,", Problem::Truncated),
            (b"1:a?", Problem::Tag(b'?')),
            (b"3:1 2@", Problem::Tag(b'@')),
            (b"1:x#", Problem::Integer),
            (b"0:#", Problem::Integer),
            (b"1:x^", Problem::Float),
            (b"4:True!", Problem::Boolean),
            (b"1:x~", Problem::Null),
            (b"1:\xff;", Problem::Text),
            (b"4:1:a;}", Problem::LonelyKey),
            (b"4:9:a;]", Problem::Truncated),
            (b"0:~0:~", Problem::Trailing),
        ] {
            assert_eq!(decode(&Bytes::from_static(text)).unwrap_err().problem, problem);
        }
    }

    #[test]
    fn leading_zeros_of_a_length_are_tolerated() {
        assert_eq!(parse(b"0002:42#"), Ok(Value::Int(42)));
    }

    #[test]
    fn integers_beyond_64_bits_keep_their_digits() {
        assert_eq!(parse(b"20:18446744073709551616#"), Ok("18446744073709551616".into()));
    }

    #[test]
    fn nesting_is_bounded() {
        let nest = |depth: usize| (0..depth).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        assert!(encode(&nest(MAX_DEPTH)).is_ok());
        assert_eq!(encode(&nest(MAX_DEPTH + 1)), Err(Problem::TooDeep));
        let mut text = b"0:~".to_vec();
        for _ in 0..3000 {
            let mut outer = format!("{}:", text.len()).into_bytes();
            outer.append(&mut text);
            outer.push(b']');
            text = outer;
        }
        assert_eq!(decode(&text.into()).unwrap_err().problem, Problem::TooDeep);
    }

    #[test]
    fn floats_are_written_as_python_does() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (946_681_204.2, "946681204.2"),
            (1_795_406_932.770_538, "1795406932.770538"),
            (1e15, "1000000000000000.0"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e16, "1e+16"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e22, "1e+22"),
            (1.5e300, "1.5e+300"),
            (1e-3, "0.001"),
            (1e-4, "0.0001"),
            (1.5e-4, "0.00015"),
            (1e-5, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (5e-324, "5e-324"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            let mut out = Vec::new();
            write_float(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
