//! Comparing secrets, and remembering which were right for a while, without keeping or comparing them as they are.

use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, hmac, rand};
use quick_cache::sync::Cache;

use super::credentials::Credentials;

/// How many accepted credentials are remembered.
const REMEMBERED: usize = 256;

/// Turns texts into tags that say nothing about them. The key is a new one each time.
pub(super) struct Tagger(hmac::Key);

/// What stands for a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tag([u8; 32]);

impl Tagger {
    /// # Errors
    /// The system has no randomness to give.
    pub(super) fn new() -> Result<Self, String> {
        hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map(Self)
            .map_err(|_| "there is no source of randomness".to_owned())
    }

    pub(super) fn tag(&self, text: &[u8]) -> Tag {
        self.tag_parts(&[text])
    }

    fn tag_of(&self, Credentials { name, password }: &Credentials) -> Tag {
        let length = (name.len() as u64).to_be_bytes();
        self.tag_parts(&[&length, name.as_bytes(), password.as_bytes()])
    }

    fn tag_parts(&self, parts: &[&[u8]]) -> Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        Tag(tag)
    }
}

impl Tag {
    /// Compares in a time that does not depend on where they differ.
    pub(super) fn is(&self, other: &Self) -> bool {
        same(&self.0, &other.0)
    }
}

/// Compares digests in a time that depends on their lengths only.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// Credentials that were found to be right lately.
pub(super) struct Accepted {
    tagger: Tagger,
    since: Cache<Tag, Instant>,
    /// How long that is taken for true; `None` for as long as the validator lives.
    lifetime: Option<Duration>,
}

impl Accepted {
    pub(super) fn new(lifetime: Option<Duration>) -> Result<Self, String> {
        Ok(Self { tagger: Tagger::new()?, since: Cache::new(REMEMBERED), lifetime })
    }

    pub(super) fn has(&self, credentials: &Credentials) -> bool {
        let since = self.since.get(&self.tagger.tag_of(credentials));
        since.is_some_and(|since| self.lifetime.is_none_or(|lifetime| since.elapsed() < lifetime))
    }

    pub(super) fn put(&self, credentials: &Credentials) {
        self.since.insert(self.tagger.tag_of(credentials), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials { name: name.into(), password: password.into() }
    }

    #[test]
    fn only_what_was_accepted_is_known_and_only_for_its_time() {
        let forever = Accepted::new(None).unwrap();
        forever.put(&credentials("ab", "c"));
        assert!(forever.has(&credentials("ab", "c")));
        assert!(!forever.has(&credentials("a", "bc")) && !forever.has(&credentials("ab", "d")));
        let never = Accepted::new(Some(Duration::ZERO)).unwrap();
        never.put(&credentials("a", "b"));
        assert!(!never.has(&credentials("a", "b")));
        for number in 0..10_000 {
            forever.put(&credentials("n", &number.to_string()));
        }
        assert!(forever.since.len() <= 2 * REMEMBERED);
    }
}
