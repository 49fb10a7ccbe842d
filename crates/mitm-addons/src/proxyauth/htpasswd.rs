//! Password files as Apache's `htpasswd` makes them: a line `USER:HASH` for each user.
//!
//! | hash | made by |
//! |---|---|
//! | `$2y$`, `$2b$`, `$2a$` | bcrypt: `htpasswd -B` |
//! | `$apr1$` | iterated MD5: `htpasswd` |
//! | `{SHA}` | SHA-1 without salt: `htpasswd -s` |
//!
//! A file with any other kind of hash is refused as a whole, so that no user is locked out without anybody noticing. The
//! file is read when the option is set. Users are looked up, and hashes compared, in a time that does not tell how
//! close a guess was; for a user that is not there the work of another one is done.

use std::{collections::HashMap, fs::File, io::Read as _, path::Path, str::FromStr as _};

use aws_lc_rs::digest;
use data_encoding::BASE64;

use super::{
    apr1::{self, Apr1},
    cache::{Tag, Tagger, same},
    credentials::Credentials,
};

/// Larger files are refused.
const FILE_MAX: u64 = 64 << 20;
/// `htpasswd` itself takes no longer passwords, and the work of a check grows with the length.
const PASSWORD_MAX: usize = 1024;

/// The users of a file.
pub(super) struct Htpasswd {
    tagger: Tagger,
    users: HashMap<Tag, Hash>,
    /// Checked in place of a user that is not there: the first of the file.
    decoy: Option<Tag>,
}

enum Hash {
    Sha1(Vec<u8>),
    Bcrypt(String),
    Apr1(Apr1),
}

impl Htpasswd {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is not understood: the reason, naming the user.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = File::open(path).map_err(|error| error.to_string())?;
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
        if text.len() as u64 > FILE_MAX {
            return Err("it is too large".to_owned());
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut file = Self { tagger: Tagger::new()?, users: HashMap::new(), decoy: None };
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, rest) =
                line.split_once(':').ok_or_else(|| format!("line {number} is not USER:HASH"))?;
            let hash = rest.split(':').next().unwrap_or_default();
            let hash = Hash::parse(hash)
                .ok_or_else(|| format!("Unsupported htpasswd format for user '{user}'"))?;
            let tag = file.tagger.tag(user.as_bytes());
            file.users.insert(tag, hash);
            file.decoy.get_or_insert(tag);
        }
        Ok(file)
    }

    /// Checks credentials. This may take a tenth of a second of computing.
    pub(super) fn verify(&self, Credentials { name, password }: &Credentials) -> bool {
        if password.len() > PASSWORD_MAX {
            return false;
        }
        let found = self.users.get(&self.tagger.tag(name.as_bytes()));
        let decoy = || self.decoy.and_then(|tag| self.users.get(&tag));
        let is_right = found.or_else(decoy).is_some_and(|hash| hash.verify(password.as_bytes()));
        is_right && found.is_some()
    }
}

impl Hash {
    fn parse(text: &str) -> Option<Self> {
        if let Some(sha1) = text.strip_prefix("{SHA}") {
            let hash = BASE64.decode(sha1.as_bytes()).ok()?;
            return (hash.len() == digest::SHA1_OUTPUT_LEN).then_some(Self::Sha1(hash));
        }
        if text.starts_with(apr1::PREFIX) {
            return Apr1::parse(text).map(Self::Apr1);
        }
        if ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| text.starts_with(prefix)) {
            return bcrypt::HashParts::from_str(text).ok().map(|_| Self::Bcrypt(text.to_owned()));
        }
        None
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Sha1(hash) => {
                same(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, password).as_ref(), hash)
            }
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Apr1(hash) => hash.verify(password),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(file: &Htpasswd, name: &str, password: &str) -> bool {
        file.verify(&Credentials { name: name.into(), password: password.into() })
    }

    #[test]
    fn all_kinds_of_hashes() {
        // Made with `openssl passwd` and the system's crypt.
        let file = Htpasswd::parse(
            "# users\n\n  sha:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=  \r\n\
             bcrypt:$2b$05$abcdefghijklmnopqrstuuMceFj4VbmHOj8C7PetMxzZkwre/z.Ri:rest\n\
             apr:$apr1$salt12$yurFcKiQ7MstMiyTR25rT/\n\
             twice:$apr1$x$tMwYqBfQwi3FYAr0aJc8M/\ntwice:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n",
        )
        .unwrap();
        assert!(verify(&file, "sha", "test") && !verify(&file, "sha", "Test"));
        assert!(verify(&file, "apr", "a") && !verify(&file, "apr", ""));
        assert!(
            verify(&file, "twice", "test") && !verify(&file, "twice", ""),
            "the last one counts"
        );
        assert!(verify(&file, "bcrypt", "test") && !verify(&file, "bcrypt", "test2"));
        for nobody in ["nobody", "", "SHA", "# users"] {
            assert!(!verify(&file, nobody, "test"), "{nobody}");
        }
        assert!(!verify(&file, "sha", &"x".repeat(100_000)));
        assert!(!verify(&Htpasswd::parse("").unwrap(), "", ""));
    }

    #[test]
    fn bcrypt_of_each_version() {
        let hash = bcrypt::hash_with_salt("pass:wörd", 4, [7; 16]).unwrap();
        let versions = [bcrypt::Version::TwoA, bcrypt::Version::TwoB, bcrypt::Version::TwoY];
        for version in versions {
            let text = format!("u:{}", hash.format_for_version(version));
            let file = Htpasswd::parse(&text).unwrap();
            assert!(verify(&file, "u", "pass:wörd") && !verify(&file, "u", "pass"), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for text in [
            "malformed",
            "malformed:",
            "malformed:secret",
            "malformed:{SHA}x",
            "malformed:{SHA}AAAA",
            "malformed:$2y$05$short",
            "malformed:$2y$99",
            "malformed:$apr1$x",
            "malformed:$5$rounds=1000$x$y",
            "malformed:$2ü$05$dMvSVrrqrOXsnJmsrrMPOuoCV9sXlLP3bUbDNMUNFPIHTqTxEJYV",
        ] {
            let text = format!("good:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n{text}");
            let error = Htpasswd::parse(&text).err().unwrap();
            assert!(error.contains("malformed") || error.contains("line 2"), "{text}: {error}");
        }
    }

    #[test]
    fn files_that_cannot_be_read() {
        assert!(Htpasswd::read(Path::new("/nowhere/htpasswd")).is_err());
        assert!(Htpasswd::read(Path::new("/")).is_err());
    }
}
