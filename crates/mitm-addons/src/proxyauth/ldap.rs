//! Users of a directory: `ldap[s]:HOST[:PORT]:BIND_DN:PASSWORD:SUBTREE[?search_filter_key=ATTRIBUTE]`.
//!
//! To check somebody the server is asked three times, on a connection of its own: bind as `BIND_DN`, search `SUBTREE`
//! for the entry whose `ATTRIBUTE` (default `cn`) is the user's name, bind as that entry with the password. The name is
//! escaped in the filter, and an empty password, which a server takes for an anonymous bind, is never sent.
//!
//! With `ldaps` the server's certificate is verified by the authorities of `ssl_verify_upstream_trusted_ca` and
//! `ssl_verify_upstream_trusted_confdir` if those are set, else by those of the system; `ssl_insecure` is for
//! traffic and does not reach here. A server that cannot be reached, or fails, lets nobody in; the log says so.

use std::{path::PathBuf, sync::Arc, time::Duration};

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchOptions, ldap_escape};
use mitm_flow::Address;
use mitm_options::{Options, core as opts, expand_user};
use mitm_tls::{Side, TlsOptions, Upstream, UpstreamKey, Verification, is_valid_host};
use tokio::{task::spawn_blocking, time::timeout};
use tracing::warn;

use super::{cache::Accepted, credentials::Credentials, gate::Gate};

/// The options that matter to `ldaps`.
pub(super) const TRUST: &[&str] =
    &["ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir"];

/// How long a check may take, from connecting to the last answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many checks run at once; others wait.
const AT_ONCE: usize = 16;
/// How long who was let in is let in without asking the server again.
const REMEMBERED: Duration = Duration::from_secs(30);
/// "More entries match than you asked for" (RFC 4511, appendix A).
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const INVALID_CREDENTIALS: u32 = 49;

/// A directory server.
pub(super) struct Ldap {
    server: Arc<Server>,
    accepted: Accepted,
    gate: Gate,
}

struct Server {
    spec: Spec,
    tls: Option<Upstream>,
}

/// A specification, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    is_tls: bool,
    host: String,
    port: u16,
    bind_dn: String,
    password: String,
    subtree: String,
    attribute: String,
}

impl Spec {
    /// Reads a specification; `None` if it is none.
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, host, port, bind_dn, password, subtree) = match parts[..] {
            [scheme, host, bind_dn, password, subtree] => {
                (scheme, host, None, bind_dn, password, subtree)
            }
            [scheme, host, port, bind_dn, password, subtree] => {
                (scheme, host, Some(port), bind_dn, password, subtree)
            }
            _ => return None,
        };
        let is_tls = match scheme {
            "ldap" => false,
            "ldaps" => true,
            _ => return None,
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if is_tls => 636,
            None => 389,
        };
        let (subtree, query) = subtree.split_once('?').unwrap_or((subtree, ""));
        let mut attribute = "cn";
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            attribute =
                pair.strip_prefix("search_filter_key=").filter(|name| is_attribute(name))?;
        }
        if !is_valid_host(host) {
            return None;
        }
        Some(Self {
            is_tls,
            host: host.to_owned(),
            port,
            bind_dn: bind_dn.to_owned(),
            password: password.to_owned(),
            subtree: subtree.to_owned(),
            attribute: attribute.to_owned(),
        })
    }

    /// The search for a user (RFC 4515).
    fn filter(&self, name: &str) -> String {
        format!("({}={})", self.attribute, ldap_escape(name))
    }
}

/// An attribute's name, or the number of its kind (RFC 4512 §1.4).
fn is_attribute(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b';'))
}

impl Ldap {
    /// Reads a specification. The server is not asked yet.
    ///
    /// # Errors
    /// The specification is none, or the trusted authorities cannot be read.
    pub(super) fn parse(text: &str, options: &Options) -> Result<Self, String> {
        let invalid = || {
            // The password has no place in a message: it may end in a log.
            let scheme = text.split(':').next().unwrap_or_default();
            format!(
                "Invalid LDAP specification: valid is \
                 {scheme}:HOST[:PORT]:BIND_DN:PASSWORD:SUBTREE[?search_filter_key=ATTRIBUTE]."
            )
        };
        let spec = Spec::parse(text).ok_or_else(invalid)?;
        let tls = if spec.is_tls { Some(trust(options)?) } else { None };
        Ok(Self {
            server: Arc::new(Server { spec, tls }),
            accepted: Accepted::new(Some(REMEMBERED))?,
            gate: Gate::new(AT_ONCE),
        })
    }

    pub(super) fn check_now(&self, credentials: &Credentials) -> Option<bool> {
        if credentials.name.is_empty() || credentials.password.is_empty() {
            return Some(false);
        }
        self.accepted.has(credentials).then_some(true)
    }

    /// Asks the server. Nobody is let in if that fails.
    pub(super) async fn check(&self, credentials: &Arc<Credentials>) -> bool {
        let Some(_turn) = self.gate.enter().await else { return false };
        // Somebody may have asked the same meanwhile.
        if let Some(known) = self.check_now(credentials) {
            return known;
        }
        match self.ask(Some(Arc::clone(credentials))).await {
            Ok(true) => {
                self.accepted.put(credentials);
                true
            }
            Ok(false) => false,
            Err(error) => {
                warn!("{error}");
                false
            }
        }
    }

    /// Binds as the service, to see whether that works.
    pub(super) async fn try_out(&self) -> Result<(), String> {
        self.ask(None).await.map(|_| ())
    }

    /// In a task of its own: what the server sends may upset the library, and must not upset a flow.
    async fn ask(&self, credentials: Option<Arc<Credentials>>) -> Result<bool, String> {
        let server = Arc::clone(&self.server);
        let asking = tokio::spawn(async move {
            match timeout(PATIENCE, server.ask(credentials.as_deref())).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
        });
        let answer = match asking.await {
            Ok(answer) => answer,
            Err(_) => Err("its answer is not understood".to_owned()),
        };
        answer.map_err(|error| {
            let Spec { host, port, .. } = &self.server.spec;
            format!("The LDAP server {host}:{port} cannot check users: {error}")
        })
    }
}

fn trust(options: &Options) -> Result<Upstream, String> {
    let path = |value: Option<String>| {
        value.filter(|path| !path.is_empty()).map(|path| PathBuf::from(&*expand_user(&path)))
    };
    let file = path(options.get(&opts::SSL_VERIFY_UPSTREAM_TRUSTED_CA));
    let dir = path(options.get(&opts::SSL_VERIFY_UPSTREAM_TRUSTED_CONFDIR));
    let verification = if file.is_some() || dir.is_some() {
        Verification::Trusted { file, dir }
    } else {
        Verification::Roots
    };
    Upstream::new(&TlsOptions::new(Side::Server), verification, None)
        .map_err(|error| error.to_string())
}

impl Server {
    /// Binds as the service, and, if there is somebody to check, searches and binds as that one.
    async fn ask(self: Arc<Self>, credentials: Option<&Credentials>) -> Result<bool, String> {
        let Spec { is_tls, host, port, .. } = &self.spec;
        let mut settings = LdapConnSettings::new();
        if *is_tls {
            let this = Arc::clone(&self);
            // The system's certificates take a while.
            let config = spawn_blocking(move || {
                let tls = this.tls.as_ref()?;
                let key = UpstreamKey::new(Address::new(this.spec.host.as_str(), this.spec.port));
                Some(tls.config(&key).map_err(|error| error.to_string()))
            });
            let config = config.await.ok().flatten().ok_or("TLS is not set up")??;
            settings = settings.set_config(config.config);
        }
        let url = format!("{}://{host}:{port}", if *is_tls { "ldaps" } else { "ldap" });
        let opening = LdapConnAsync::with_settings(settings, &url);
        let (connection, mut ldap) = opening.await.map_err(|error| describe(&error))?;
        let asking = async {
            let bind = ldap.simple_bind(&self.spec.bind_dn, &self.spec.password).await;
            bind.and_then(ldap3::LdapResult::success).map_err(|error| {
                format!("the bind as '{}' failed: {}", self.spec.bind_dn, describe(&error))
            })?;
            let Some(Credentials { name, password }) = credentials else { return Ok(true) };
            ldap.with_search_options(SearchOptions::new().sizelimit(1));
            // No attributes: only the entry's name is wanted.
            let (subtree, filter) = (&self.spec.subtree, self.spec.filter(name));
            let found = ldap.search(subtree, Scope::Subtree, &filter, ["1.1"]).await;
            let ldap3::SearchResult(entries, result) = found.map_err(|error| describe(&error))?;
            if result.rc != SIZE_LIMIT_EXCEEDED {
                result.success().map_err(|error| {
                    format!("the search in '{subtree}' failed: {}", describe(&error))
                })?;
            }
            let mut names = entries.into_iter().filter_map(distinguished_name);
            // An empty one would be bound to anonymously.
            let Some(dn) = names.find(|dn| !dn.is_empty()) else { return Ok(false) };
            let bound = ldap.simple_bind(&dn, password).await.map_err(|error| describe(&error))?;
            match bound.rc {
                0 => Ok(true),
                INVALID_CREDENTIALS => Ok(false),
                _ => bound.success().map(|_| false).map_err(|error| describe(&error)),
            }
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            ended = connection.drive() => Err(match ended {
                Ok(()) => "it closed the connection".to_owned(),
                Err(error) => describe(&error),
            }),
        }
    }
}

/// Returns the name of an entry; `None` for what is no entry, such as a reference to another server.
fn distinguished_name(entry: ldap3::ResultEntry) -> Option<String> {
    let parts = entry.0.match_id(SEARCH_RESULT_ENTRY)?.expect_constructed()?;
    String::from_utf8(parts.into_iter().next()?.expect_primitive()?).ok()
}

/// The tag of such a message (RFC 4511 §4.5.2).
const SEARCH_RESULT_ENTRY: u64 = 4;

fn describe(error: &LdapError) -> String {
    match error {
        LdapError::LdapResult { result } if result.text.is_empty() => {
            format!("result code {}", result.rc)
        }
        LdapError::LdapResult { result } => {
            format!("result code {}: {}", result.rc, result.text.escape_debug())
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications() {
        let spec = Spec::parse("ldap:localhost:cn=admin,dc=x:secret:ou=people,dc=x").unwrap();
        assert_eq!((spec.is_tls, &*spec.host, spec.port), (false, "localhost", 389));
        assert_eq!((&*spec.bind_dn, &*spec.password), ("cn=admin,dc=x", "secret"));
        assert_eq!((&*spec.subtree, &*spec.attribute), ("ou=people,dc=x", "cn"));
        let spec = Spec::parse("ldaps:h:1636:dn:p:dc=x?search_filter_key=uid").unwrap();
        assert_eq!((spec.is_tls, spec.port, &*spec.attribute), (true, 1636, "uid"));
        assert_eq!(Spec::parse("ldaps:h:dn:p:dc=x").unwrap().port, 636);
        for bad in [
            "ldap",
            "ldap:",
            "ldap:h",
            "ldap:h:dn:p",
            "ldap:h:1:dn:p:s:x",
            "ldap:h:port:dn:p:s",
            "ldap:h:0:dn:p:s",
            "ldap:h:65536:dn:p:s",
            "ldap::dn:p:s",
            "ldap:h/x:dn:p:s",
            "ldapx:h:dn:p:s",
            "ldap:h:dn:p:s?key=1",
            "ldap:h:dn:p:s?search_filter_key=",
            "ldap:h:dn:p:s?search_filter_key=uid)(cn",
        ] {
            assert_eq!(Spec::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_cannot_end_the_filter() {
        let spec = Spec::parse("ldap:h:dn:p:s?search_filter_key=uid").unwrap();
        assert_eq!(spec.filter("user"), "(uid=user)");
        assert_eq!(spec.filter("*)(uid=\\x\0"), r"(uid=\2a\29\28uid=\5cx\00)");
    }
}
