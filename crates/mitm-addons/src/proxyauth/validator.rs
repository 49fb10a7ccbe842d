//! [`Validator`]: who decides whether credentials are right.

use std::sync::Arc;

use mitm_options::{Options, expand_user};
use tokio::task::spawn_blocking;

use super::{
    cache::{Accepted, Tag, Tagger},
    credentials::Credentials,
    gate::Gate,
    htpasswd::Htpasswd,
    ldap::Ldap,
};

/// What the option `proxyauth` says.
pub(super) enum Validator {
    /// Whatever is said, as long as something is.
    Any,
    Single(Box<SingleUser>),
    File(Arc<FileUsers>),
    Ldap(Box<Ldap>),
}

/// One user, whose name and password are not kept as they are.
pub(super) struct SingleUser {
    tagger: Tagger,
    name: Tag,
    password: Tag,
}

/// The users of a file. Hashes are made to take long, so only two are computed at once, on threads that may take their
/// time, and who was right is remembered.
pub(super) struct FileUsers {
    users: Htpasswd,
    accepted: Accepted,
    gate: Gate,
}

const HASHES_AT_ONCE: usize = 2;

impl Validator {
    /// Reads the value of the option.
    ///
    /// # Errors
    /// It is none, or names a file that is none.
    pub(super) fn parse(spec: &str, options: &Options) -> Result<Self, String> {
        if spec == "any" {
            return Ok(Self::Any);
        }
        if spec.starts_with("ldap:") || spec.starts_with("ldaps:") {
            return Ldap::parse(spec, options).map(|ldap| Self::Ldap(Box::new(ldap)));
        }
        if let Some(path) = spec.strip_prefix('@') {
            let users = Htpasswd::read(&expand_user(path))
                .map_err(|error| format!("Could not open htpasswd file: {path}: {error}"))?;
            return Ok(Self::File(Arc::new(FileUsers {
                users,
                accepted: Accepted::new(None)?,
                gate: Gate::new(HASHES_AT_ONCE),
            })));
        }
        let (name, password) = spec.split_once(':').ok_or_else(|| {
            "Invalid proxyauth specification. Valid is USER:PASSWORD, any, @HTPASSWD_FILE, or \
             ldap[s]:HOST[:PORT]:BIND_DN:PASSWORD:SUBTREE."
                .to_owned()
        })?;
        let tagger = Tagger::new()?;
        let (name, password) = (tagger.tag(name.as_bytes()), tagger.tag(password.as_bytes()));
        Ok(Self::Single(Box::new(SingleUser { tagger, name, password })))
    }

    /// Decides, if that takes no time.
    pub(super) fn check_now(&self, credentials: &Credentials) -> Option<bool> {
        match self {
            Self::Any => Some(true),
            Self::Single(user) => Some(user.is(credentials)),
            Self::File(file) => file.accepted.has(credentials).then_some(true),
            Self::Ldap(ldap) => ldap.check_now(credentials),
        }
    }

    /// Decides.
    pub(super) async fn check(&self, credentials: &Arc<Credentials>) -> bool {
        if let Some(known) = self.check_now(credentials) {
            return known;
        }
        match self {
            Self::Any | Self::Single(_) => false,
            Self::File(file) => file.check(credentials).await,
            Self::Ldap(ldap) => ldap.check(credentials).await,
        }
    }

    /// Finds out whether the validator can do its work.
    ///
    /// # Errors
    /// It cannot, for now at least.
    pub(super) async fn try_out(&self) -> Result<(), String> {
        match self {
            Self::Any | Self::Single(_) | Self::File(_) => Ok(()),
            Self::Ldap(ldap) => ldap.try_out().await,
        }
    }
}

impl SingleUser {
    fn is(&self, credentials: &Credentials) -> bool {
        let is_name = self.name.is(&self.tagger.tag(credentials.name.as_bytes()));
        let is_password = self.password.is(&self.tagger.tag(credentials.password.as_bytes()));
        is_name & is_password
    }
}

impl FileUsers {
    async fn check(self: &Arc<Self>, credentials: &Arc<Credentials>) -> bool {
        let Some(_turn) = self.gate.enter().await else { return false };
        // A browser says the same on several connections at once.
        if self.accepted.has(credentials) {
            return true;
        }
        let (this, said) = (Arc::clone(self), Arc::clone(credentials));
        let is_right = spawn_blocking(move || this.users.verify(&said)).await.unwrap_or(false);
        if is_right {
            self.accepted.put(credentials);
        }
        is_right
    }
}
