//! Apache's variant of MD5-based crypt, `$apr1$SALT$HASH`, as `htpasswd` makes it by default.
//!
//! A thousand rounds of MD5 over password and salt in an order that changes from round to round; the digest is written
//! six bits a character in an alphabet and a byte order of its own.

use md5::{Digest as _, Md5};

/// What such a hash begins with.
pub(super) const PREFIX: &str = "$apr1$";

const ROUNDS: usize = 1_000;
/// Longer salts are cut.
const SALT_MAX: usize = 8;
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Which bytes of the digest make up each group of characters, from the highest; the last group is one byte.
const GROUPS: [&[usize]; 6] =
    [&[0, 6, 12], &[1, 7, 13], &[2, 8, 14], &[3, 9, 15], &[4, 10, 5], &[11]];

/// A hash with its salt.
pub(super) struct Apr1 {
    salt: Vec<u8>,
    hash: [u8; 22],
}

impl Apr1 {
    /// Reads `$apr1$SALT$HASH`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (salt, hash) = text.strip_prefix(PREFIX)?.split_once('$')?;
        let hash: [u8; 22] = hash.as_bytes().try_into().ok()?;
        if !hash.iter().all(|byte| ALPHABET.contains(byte)) {
            return None;
        }
        let salt = salt.as_bytes();
        Some(Self { salt: salt.get(..SALT_MAX).unwrap_or(salt).to_vec(), hash })
    }

    pub(super) fn verify(&self, password: &[u8]) -> bool {
        super::cache::same(&hash(password, &self.salt), &self.hash)
    }
}

fn hash(password: &[u8], salt: &[u8]) -> [u8; 22] {
    let inner: [u8; 16] = Md5::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize()
        .into();
    let mut outer = Md5::new().chain_update(password).chain_update(PREFIX).chain_update(salt);
    for piece in vec![0; password.len()].chunks(inner.len()) {
        outer.update(inner.get(..piece.len()).unwrap_or(&inner));
    }
    let mut left = password.len();
    while left > 0 {
        let first = password.get(..1).unwrap_or_default();
        outer.update(if left & 1 == 1 { &[0] } else { first });
        left >>= 1;
    }
    let mut digest: [u8; 16] = outer.finalize().into();
    for round in 0..ROUNDS {
        let (first, last): (&[u8], &[u8]) =
            if round % 2 == 1 { (password, &digest) } else { (&digest, password) };
        let mut md5 = Md5::new().chain_update(first);
        if round % 3 != 0 {
            md5.update(salt);
        }
        if round % 7 != 0 {
            md5.update(password);
        }
        digest = md5.chain_update(last).finalize().into();
    }
    encode(&digest)
}

fn encode(digest: &[u8; 16]) -> [u8; 22] {
    let mut out = [0; 22];
    let mut places = out.iter_mut();
    for group in GROUPS {
        let bytes = group.iter().filter_map(|&at| digest.get(at));
        let mut bits = bytes.fold(0_usize, |bits, &byte| bits << 8 | usize::from(byte));
        let characters = if group.len() == 1 { 2 } else { 4 };
        for place in places.by_ref().take(characters) {
            *place = ALPHABET.get(bits & 63).copied().unwrap_or_default();
            bits >>= 6;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl passwd -apr1 -salt SALT PASSWORD`.
    const KNOWN: &[(&str, &str)] = &[
        ("", "$apr1$x$tMwYqBfQwi3FYAr0aJc8M/"),
        ("a", "$apr1$x$16j9.5e7KiXmuYFAYpPJM/"),
        ("a", "$apr1$salt12$yurFcKiQ7MstMiyTR25rT/"),
        ("test", "$apr1$x$MaNxRCuijmLhGdSKbVDfn0"),
        ("pass:word", "$apr1$x$K97/cen5PRFES0CKVIGt./"),
        ("0123456789abcdef", "$apr1$x$7smHx4qPUie9g3UogSau.0"),
        ("0123456789abcdefg", "$apr1$x$y1frZ/zxCWRlgd5m1aCya."),
        ("a much longer password than sixteen bytes, by far", "$apr1$x$t3Af5D1jqtBu0zBbsJK/y1"),
        ("pässwörd", "$apr1$x$Kzn.cSDdCrYQZfFg5UXZM."),
    ];

    #[test]
    fn hashes_of_another_program() {
        for (password, text) in KNOWN {
            let hash = Apr1::parse(text).unwrap();
            assert!(hash.verify(password.as_bytes()), "{password} {text}");
            assert!(!hash.verify(format!("{password}x").as_bytes()));
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "$apr1$",
            "$apr1$salt$",
            "$apr1$salt$short",
            "$1$salt$xxxxxxxxxxxxxxxxxxxxxx",
            "$apr1$salt$xxxxxxxxxxxxxxxxxxxxx!",
            "$apr1$salt$xxxxxxxxxxxxxxxxxxxxxxx",
        ] {
            assert!(Apr1::parse(text).is_none(), "{text}");
        }
    }
}
