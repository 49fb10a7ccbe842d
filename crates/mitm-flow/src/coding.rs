//! Content codings (RFC 9110 §8.4): gzip, deflate, br and zstd, in both directions.
//!
//! Decoding is bounded, so that a few hostile kilobytes cannot become gigabytes. It is as tolerant as users
//! expect from a tool that shows what servers send: a gzip body that was cut off yields what there
//! is, what follows the end of a compressed stream is ignored. Encoding is deterministic and fast rather than small.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use smallvec::SmallVec;
use thiserror::Error;

/// The default bound on a decoded body.
pub const MAX_DECODED: u64 = 256 << 20;

/// More codings than this, one on top of the other, are refused.
const MAX_CODINGS: usize = 8;

/// Why a body cannot be decoded or encoded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodingError {
    #[error("unknown content coding {0:?}")]
    Unknown(String),
    #[error("the decoded body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("invalid {coding} data: {reason}")]
    Corrupt { coding: &'static str, reason: String },
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// Reads one name, without regard to case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        const NAMES: [(&str, Coding); 9] = [
            ("identity", Coding::Identity),
            ("none", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("x-gzip", Coding::Gzip),
            ("deflate", Coding::Deflate),
            ("deflateraw", Coding::Deflate),
            ("br", Coding::Brotli),
            ("zstd", Coding::Zstd),
            // What a field with an empty value says.
            ("", Coding::Identity),
        ];
        NAMES
            .iter()
            .find(|(n, _)| name.eq_ignore_ascii_case(n.as_bytes()))
            .map(|(_, coding)| *coding)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Undoes this coding. Empty data decodes to empty data, in any coding.
    ///
    /// # Errors
    /// The data is not of this coding, or decodes to more than `limit` bytes.
    pub fn decode(self, data: &[u8], limit: u64) -> Result<Vec<u8>, CodingError> {
        if data.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::Identity if data.len() as u64 > limit => Err(CodingError::TooLarge { limit }),
            Self::Identity => Ok(data.to_vec()),
            Self::Gzip => gunzip(data, limit),
            Self::Deflate => inflate_either(data, limit),
            Self::Brotli => {
                let buffer = data.len().clamp(64, 64 << 10);
                read_bounded(self, brotli::Decompressor::new(data, buffer), limit)
            }
            Self::Zstd => {
                let reader = zstd::stream::read::Decoder::with_buffer(data);
                read_bounded(self, reader.map_err(|error| self.corrupt(&error))?, limit)
            }
        }
    }

    /// Applies this coding.
    pub fn encode(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Identity => data.to_vec(),
            // Window bits of 15 are those that every decoder takes.
            Self::Gzip => {
                let mut gzip = deflate(Compress::new_gzip(Compression::fast(), 15), data);
                // The system it was made on: unknown (RFC 1952 §2.3.1), so that all make the same.
                if let Some(system) = gzip.get_mut(9) {
                    *system = 255;
                }
                gzip
            }
            Self::Deflate => deflate(Compress::new(Compression::fast(), true), data),
            Self::Brotli => {
                let mut writer = brotli::CompressorWriter::new(Vec::new(), 64 << 10, 0, 22);
                writer.write_all(data).expect("writing to a vector succeeds");
                writer.into_inner()
            }
            Self::Zstd => {
                zstd::bulk::compress(data, 1).expect("the buffer has the size that zstd asks for")
            }
        }
    }

    fn corrupt(self, reason: &dyn std::fmt::Display) -> CodingError {
        CodingError::Corrupt { coding: self.as_str(), reason: reason.to_string() }
    }
}

/// Reads the value of a `content-encoding` field: codings in the order they were applied, `identity`
/// left out.
///
/// # Errors
/// A name that is not known, or an absurd number of them.
pub fn parse(value: &[u8]) -> Result<SmallVec<[Coding; 2]>, CodingError> {
    let unknown = |name: &[u8]| CodingError::Unknown(String::from_utf8_lossy(name).into_owned());
    let mut codings = SmallVec::new();
    for name in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
        match Coding::from_name(name) {
            Some(Coding::Identity) => {}
            Some(_) if codings.len() >= MAX_CODINGS => return Err(unknown(value)),
            Some(coding) => codings.push(coding),
            None => return Err(unknown(name)),
        }
    }
    Ok(codings)
}

/// Undoes the codings that `coding`, the value of a `content-encoding` field, lists.
///
/// # Errors
/// An unknown coding, data that is not of it, or more than `limit` decoded bytes.
pub fn decode(coding: &[u8], data: &[u8], limit: u64) -> Result<Bytes, CodingError> {
    let codings = parse(coding)?;
    let mut codings = codings.iter().rev();
    let mut decoded = codings.next().unwrap_or(&Coding::Identity).decode(data, limit)?;
    for coding in codings {
        decoded = coding.decode(&decoded, limit)?;
    }
    Ok(decoded.into())
}

/// Applies the codings that `coding`, the value of a `content-encoding` field, lists.
///
/// # Errors
/// An unknown coding.
pub fn encode(coding: &[u8], data: &[u8]) -> Result<Bytes, CodingError> {
    let codings = parse(coding)?;
    let mut codings = codings.iter();
    let mut encoded = codings.next().unwrap_or(&Coding::Identity).encode(data);
    for coding in codings {
        encoded = coding.encode(&encoded);
    }
    Ok(encoded.into())
}

fn gunzip(data: &[u8], limit: u64) -> Result<Vec<u8>, CodingError> {
    // Servers label zlib data as gzip, and browsers take it.
    let is_zlib = matches!(data, [a, b, ..]
        if a & 0x0f == 8 && u16::from_be_bytes([*a, *b]).is_multiple_of(31));
    let mut inflater = Inflater::new(
        if is_zlib { Decompress::new(true) } else { Decompress::new_gzip(15) },
        limit,
    );
    let mut rest = inflater.run(Coding::Gzip, data)?;
    // Further members (RFC 1952 §2.2); anything else behind the first is ignored.
    while !is_zlib && rest.starts_with(b"\x1f\x8b") {
        let good = inflater.out.len();
        inflater.state.reset(true);
        match inflater.run(Coding::Gzip, rest) {
            Ok(left) => rest = left,
            Err(CodingError::TooLarge { limit }) => return Err(CodingError::TooLarge { limit }),
            Err(_) => {
                inflater.out.truncate(good);
                break;
            }
        }
    }
    Ok(inflater.out)
}

/// "deflate" is zlib by the standard and raw deflate by some servers.
fn inflate_either(data: &[u8], limit: u64) -> Result<Vec<u8>, CodingError> {
    let attempt = |zlib| {
        let mut inflater = Inflater::new(Decompress::new(zlib), limit);
        inflater.run(Coding::Deflate, data)?;
        if inflater.ended {
            Ok(inflater.out)
        } else {
            Err(Coding::Deflate.corrupt(&"it is incomplete"))
        }
    };
    match attempt(true) {
        Err(CodingError::Corrupt { .. }) => attempt(false),
        result => result,
    }
}

struct Inflater {
    state: Decompress,
    out: Vec<u8>,
    limit: u64,
    /// True if the last run met the end of the compressed stream, not that of the data.
    ended: bool,
}

impl Inflater {
    fn new(state: Decompress, limit: u64) -> Self {
        Self { state, out: Vec::new(), limit, ended: false }
    }

    /// Appends what one stream decodes to, and returns what follows it.
    fn run<'a>(&mut self, coding: Coding, mut data: &'a [u8]) -> Result<&'a [u8], CodingError> {
        self.ended = false;
        loop {
            if self.out.len() == self.out.capacity() {
                self.out.reserve(self.out.len().max(data.len().clamp(1 << 10, 1 << 20)));
            }
            let (read, written) = (self.state.total_in(), self.out.len());
            let status = self
                .state
                .decompress_vec(data, &mut self.out, FlushDecompress::None)
                .map_err(|error| coding.corrupt(&error))?;
            if self.out.len() as u64 > self.limit {
                return Err(CodingError::TooLarge { limit: self.limit });
            }
            let read = usize::try_from(self.state.total_in() - read).unwrap_or(usize::MAX);
            data = data.get(read..).unwrap_or_default();
            match status {
                Status::StreamEnd => {
                    self.ended = true;
                    return Ok(data);
                }
                // Nothing more comes out of what there is.
                _ if read == 0 && self.out.len() == written => return Ok(data),
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

fn deflate(mut state: Compress, mut data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() / 3 + 64);
    loop {
        let read = state.total_in();
        let status = state
            .compress_vec(data, &mut out, FlushCompress::Finish)
            .expect("compressing does not fail");
        let read = usize::try_from(state.total_in() - read).unwrap_or(usize::MAX);
        data = data.get(read..).unwrap_or_default();
        if status == Status::StreamEnd {
            return out;
        }
        out.reserve(out.capacity().max(64));
    }
}

fn read_bounded(coding: Coding, reader: impl Read, limit: u64) -> Result<Vec<u8>, CodingError> {
    let mut out = Vec::new();
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|error| coding.corrupt(&error))?;
    if out.len() as u64 > limit {
        return Err(CodingError::TooLarge { limit });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Coding; 5] =
        [Coding::Identity, Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

    fn decoded(coding: &str, data: &[u8]) -> Result<Bytes, CodingError> {
        decode(coding.as_bytes(), data, MAX_DECODED)
    }

    #[test]
    fn output_is_the_same_everywhere() {
        let hello = b"hello hello hello";
        assert_eq!(Coding::Gzip.encode(hello)[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255]);
        assert_eq!(Coding::Deflate.encode(hello)[..2], [0x78, 0x01]);
        for coding in ALL {
            assert_eq!(coding.encode(hello), coding.encode(hello));
            assert_eq!(Coding::from_name(coding.as_str().as_bytes()), Some(coding));
        }
    }

    #[test]
    fn gzip_is_tolerant() {
        let text = b"hello world ".repeat(50);
        let gzip = Coding::Gzip.encode(&text);
        let join = |parts: &[&[u8]]| parts.concat();
        for whole in [
            join(&[&gzip]),
            join(&[&gzip, b"junk"]),
            join(&[&gzip, b"\x1f\x8bjunk"]),
            gzip[..gzip.len() - 4].to_vec(),
            Coding::Deflate.encode(&text),
        ] {
            assert_eq!(decoded("gzip", &whole).unwrap(), text);
        }
        assert_eq!(decoded("gzip", &join(&[&gzip, &gzip])).unwrap(), text.repeat(2));
        let part = decoded("GZip", &gzip[..gzip.len() - 12]).unwrap();
        assert!(!part.is_empty() && text.starts_with(&part));
        assert_eq!(decoded("gzip", &gzip[..5]).unwrap(), "");
        assert!(decoded("gzip", b"not gzip").is_err());
        let mut flipped = gzip.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(decoded("gzip", &flipped).is_err());
    }

    #[test]
    fn deflate_is_zlib_or_raw() {
        let text = b"raw data raw data";
        let zlib = Coding::Deflate.encode(text);
        let raw = deflate(Compress::new(Compression::fast(), false), text);
        for data in [&zlib, &raw, &[&raw[..], b"junk"].concat()] {
            assert_eq!(decoded("deflate", data).unwrap(), &text[..]);
            assert_eq!(decoded("deflateRaw", data).unwrap(), &text[..]);
        }
        assert!(decoded("deflate", &zlib[..zlib.len() - 5]).is_err());
        assert!(decoded("deflate", b"junk").is_err());
    }

    #[test]
    fn lists_are_undone_from_the_end() {
        let encoded = encode(b"gzip, br", b"twice").unwrap();
        assert_eq!(encoded, Coding::Brotli.encode(&Coding::Gzip.encode(b"twice")));
        assert_eq!(decoded("gzip , BR,identity,,", &encoded).unwrap(), "twice");
        assert_eq!(decoded(" ", b"as is").unwrap(), "as is");
        assert_eq!(decoded("gzip, foo", b""), Err(CodingError::Unknown("foo".into())));
        assert!(decoded(&"gzip,".repeat(9), b"").is_err());
        assert!(encode(b"utf-8", b"").is_err());
    }

    #[test]
    fn bombs_end_at_the_limit() {
        let zeros = vec![0; 3 << 20];
        for coding in ALL {
            let bomb = coding.encode(&zeros);
            for limit in [0, 1000, (3 << 20) - 1] {
                assert_eq!(coding.decode(&bomb, limit), Err(CodingError::TooLarge { limit }));
            }
            assert_eq!(coding.decode(&bomb, 3 << 20).unwrap(), zeros);
        }
        let members = Coding::Gzip.encode(&[0; 1000]).repeat(100);
        assert_eq!(
            Coding::Gzip.decode(&members, 99_999).unwrap_err(),
            CodingError::TooLarge { limit: 99_999 }
        );
    }

    #[test]
    fn other_codings_refuse_junk() {
        for coding in ["br", "zstd"] {
            assert!(matches!(decoded(coding, b"junk"), Err(CodingError::Corrupt { .. })));
            let data = encode(coding.as_bytes(), &b"cut off ".repeat(100)).unwrap();
            assert!(decoded(coding, &data[..data.len() - 3]).is_err());
            assert_eq!(decoded(coding, b"").unwrap(), "");
        }
        let frames = Coding::Zstd.encode(b"two ").repeat(2);
        assert_eq!(decoded("zstd", &frames).unwrap(), "two two ");
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(data: Vec<u8>, repeat in 1..50_usize) {
            let data = data.repeat(repeat);
            for coding in ALL {
                prop_assert_eq!(coding.decode(&coding.encode(&data), MAX_DECODED).unwrap(), data.clone());
            }
        }

        #[test]
        fn junk_does_no_harm(data: Vec<u8>) {
            for coding in ALL {
                drop(coding.decode(&data, 1 << 16));
                drop(coding.decode(&[b"\x1f\x8b\x08\x00", &data[..]].concat(), 1 << 16));
                drop(coding.decode(&[b"\x78\x01", &data[..]].concat(), 1 << 16));
            }
        }
    }
}
