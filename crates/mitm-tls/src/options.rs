//! [`TlsOptions`]: versions, ciphers and curve of one side, as the options of the same names give
//! them.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::{CipherSuite, SupportedProtocolVersion, crypto::CryptoProvider, version};

use crate::{
    ossl,
    suites::{self, CURVES, CURVES_OF_TLS13, SUITES},
};

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Towards the client; we are its server.
    Client,
    /// Towards the server; we are its client.
    Server,
}

impl Side {
    /// How option names end or are marked: `ciphers_client`, `tls_version_server_min`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A value of `tls_version_{client,server}_{min,max}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VersionLimit {
    Unbounded,
    Ssl3,
    Tls1,
    Tls1_1,
    Tls1_2,
    Tls1_3,
}

impl VersionLimit {
    /// All of them under the names options have.
    pub const NAMES: [(Self, &'static str); 6] = [
        (Self::Unbounded, "UNBOUNDED"),
        (Self::Ssl3, "SSL3"),
        (Self::Tls1, "TLS1"),
        (Self::Tls1_1, "TLS1_1"),
        (Self::Tls1_2, "TLS1_2"),
        (Self::Tls1_3, "TLS1_3"),
    ];
}

impl FromStr for VersionLimit {
    type Err = TlsOptionError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(limit, _)| *limit).ok_or_else(|| TlsOptionError::Version(name.to_owned()))
    }
}

impl fmt::Display for VersionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::NAMES.iter().find(|(limit, _)| limit == self).map_or("", |(_, name)| name),
        )
    }
}

/// A value that options do not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsOptionError {
    #[error("Invalid TLS version: '{0}'. Valid versions are: {names}", names = version_names())]
    Version(String),
    #[error("Invalid ECDH curve: '{0}'. Valid curves are: {names}", names = curve_names())]
    Curve(String),
}

/// What the options say about one side.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsOptions {
    pub side: Side,
    pub min: VersionLimit,
    pub max: VersionLimit,
    /// `ciphers_*`, in OpenSSL's syntax.
    ciphers: Option<String>,
    /// `tls_ecdh_curve_*`, one of the known names.
    curve: Option<&'static str>,
    /// Ask clients for a certificate; any is taken, and none.
    pub request_client_cert: bool,
}

impl TlsOptions {
    /// The defaults: TLS 1.2 and up, everything rustls has, and behind it what OpenSSL adds.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            min: VersionLimit::Tls1_2,
            max: VersionLimit::Unbounded,
            ciphers: None,
            curve: None,
            request_client_cert: false,
        }
    }

    #[must_use]
    pub fn with_versions(self, min: VersionLimit, max: VersionLimit) -> Self {
        Self { min, max, ..self }
    }

    /// Takes the value of `ciphers_client` or `ciphers_server`.
    #[must_use]
    pub fn with_ciphers(self, ciphers: Option<&str>) -> Self {
        let ciphers = ciphers.map(str::trim).filter(|list| !list.is_empty()).map(str::to_owned);
        Self { ciphers, ..self }
    }

    /// Takes the value of `tls_ecdh_curve_client` or `tls_ecdh_curve_server`.
    pub fn with_curve(self, curve: Option<&str>) -> Result<Self, TlsOptionError> {
        let curve = curve
            .map(|name| {
                let found = CURVES.iter().find(|(known, _)| *known == name);
                found.map(|(known, _)| *known).ok_or_else(|| TlsOptionError::Curve(name.to_owned()))
            })
            .transpose()?;
        Ok(Self { curve, ..self })
    }

    #[must_use]
    pub fn with_request_client_cert(self, request_client_cert: bool) -> Self {
        Self { request_client_cert, ..self }
    }

    /// Returns what the user should know: that the options leave nothing, or ask for versions that nothing here
    /// speaks.
    pub fn warnings(&self) -> Vec<String> {
        let rustls = self.profile();
        let old = self.min != VersionLimit::Unbounded && self.min < VersionLimit::Tls1_2;
        if rustls.is_ok() && !old {
            return Vec::new();
        }
        match ossl::offer(self) {
            Err(reason) if rustls.is_err() => {
                vec![format!("No TLS connections are possible: {reason}.")]
            }
            Err(reason) => vec![format!("No old versions of TLS are possible: {reason}.")],
            Ok(_) => Vec::new(),
        }
    }

    pub(crate) fn cipher_string(&self) -> Option<&str> {
        self.ciphers.as_deref()
    }

    pub(crate) fn curve(&self) -> Option<&'static str> {
        self.curve
    }

    /// Whether connections to servers are for OpenSSL from the start: rustls would not offer what was asked
    /// for.
    pub(crate) fn ask_for_openssl(&self) -> bool {
        self.min < VersionLimit::Tls1_2
            || self.profile().is_err()
            || self.ciphers.is_some() && !self.rustls_has_all_ciphers()
    }

    fn rustls_has_all_ciphers(&self) -> bool {
        ossl::offer(self).is_ok_and(|offer| {
            offer
                .suites
                .iter()
                .all(|suite| SUITES.iter().any(|known| u16::from(known.suite()) == suite.number))
        })
    }

    /// Whether a version is within the limits.
    pub(crate) fn allows(&self, limit: VersionLimit) -> bool {
        let max = self.max();
        self.min <= limit && (max == VersionLimit::Unbounded || limit <= max)
    }

    /// The highest version: not TLS 1.3 with a curve that it left behind, unless nothing else is allowed.
    pub(crate) fn max(&self) -> VersionLimit {
        let goes_on = self.curve.is_none_or(|curve| CURVES_OF_TLS13.contains(&curve));
        if goes_on || self.min == VersionLimit::Tls1_3 {
            return self.max;
        }
        match self.max {
            VersionLimit::Unbounded | VersionLimit::Tls1_3 => VersionLimit::Tls1_2,
            max => max,
        }
    }

    /// Works out what rustls is to be configured with, or why it cannot be.
    pub(crate) fn profile(&self) -> Result<Profile, String> {
        let side = self.side.as_str();
        let mut versions = Vec::with_capacity(2);
        if self.allows(VersionLimit::Tls1_3) {
            versions.push(&version::TLS13);
        }
        if self.allows(VersionLimit::Tls1_2) {
            versions.push(&version::TLS12);
        }
        if versions.is_empty() {
            return Err(format!(
                "tls_version_{side}_min {} and tls_version_{side}_max {} leave neither TLS 1.2 nor \
                 TLS 1.3",
                self.min, self.max
            ));
        }
        let tls12 = self.tls12_suites()?;
        if tls12.as_ref().is_some_and(Vec::is_empty) {
            versions.retain(|version| **version == version::TLS13);
        }
        if versions.is_empty() {
            return Err(format!(
                "ciphers_{side} names no cipher that rustls has for TLS 1.2, and \
                 tls_version_{side}_max excludes TLS 1.3"
            ));
        }
        let group = match self.curve {
            None => None,
            Some(name) => {
                let known = CURVES.iter().find(|(known, _)| *known == name);
                let group = known.and_then(|(_, group)| *group);
                let unsupported = || format!("tls_ecdh_curve_{side} {name} is not supported");
                Some(group.ok_or_else(unsupported)?)
            }
        };
        Ok(Profile { provider: Arc::new(suites::provider(tls12.as_deref(), group)), versions })
    }

    /// The TLS 1.2 suites of `ciphers_*` that rustls has; `None` if the option is not set.
    fn tls12_suites(&self) -> Result<Option<Vec<CipherSuite>>, String> {
        let Some(list) = &self.ciphers else { return Ok(None) };
        let side = self.side.as_str();
        if ["@SECLEVEL=3", "@SECLEVEL=4", "@SECLEVEL=5"].iter().any(|level| list.contains(level)) {
            return Err(format!("ciphers_{side} asks for a security level that rustls has not"));
        }
        let offer = ossl::offer(self)?;
        let wanted = offer.suites.iter().filter_map(|wanted| {
            let known = SUITES.iter().find(|known| u16::from(known.suite()) == wanted.number)?;
            known.tls13().is_none().then(|| known.suite())
        });
        Ok(Some(wanted.collect()))
    }
}

/// What rustls is configured with.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
}

fn version_names() -> String {
    VersionLimit::NAMES.map(|(_, name)| name).join(", ")
}

fn curve_names() -> String {
    CURVES.map(|(name, _)| name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_tls_1_2_and_up() {
        let profile = TlsOptions::new(Side::Client).profile().unwrap();
        assert_eq!(profile.versions.len(), 2);
        assert_eq!(profile.provider.cipher_suites.len(), SUITES.len());
    }

    #[test]
    fn limits_choose_the_versions() {
        use VersionLimit::{Ssl3, Tls1, Tls1_1, Tls1_2, Tls1_3, Unbounded};
        for (min, max, count) in [
            (Unbounded, Unbounded, 2),
            (Ssl3, Tls1_2, 1),
            (Tls1_3, Unbounded, 1),
            (Tls1_3, Tls1_2, 0),
            (Tls1, Tls1_1, 0),
        ] {
            let options = TlsOptions::new(Side::Server).with_versions(min, max);
            let versions = options.profile().map_or(0, |profile| profile.versions.len());
            assert_eq!(versions, count, "{min} {max}");
        }
        let options = TlsOptions::new(Side::Server).with_versions(Tls1, Tls1_1);
        assert!(options.profile().unwrap_err().contains("tls_version_server_max TLS1_1"));
        assert!(options.warnings().is_empty() && options.ask_for_openssl());
        let warnings =
            TlsOptions::new(Side::Server).with_versions(Tls1_3, Tls1_2).warnings().concat();
        assert!(warnings.contains("tls_version_server_max TLS1_2"), "{warnings}");
    }

    #[test]
    fn cipher_lists_are_in_openssl_syntax() {
        let options = |list| TlsOptions::new(Side::Client).with_ciphers(Some(list));
        let profile = options("AES128-SHA:ECDHE-RSA-AES256-GCM-SHA384").profile().unwrap();
        assert_eq!(profile.provider.cipher_suites.len(), 4);
        assert_eq!(options("AES128-SHA").profile().unwrap().versions.len(), 1);
        let profile = options("HIGH:!aNULL:!ECDSA").profile().unwrap();
        assert_eq!(profile.provider.cipher_suites.len(), 6);
        let error = options("NONSENSE").profile().unwrap_err();
        assert!(error.contains("ciphers_client") && error.contains("NONSENSE"), "{error}");
        assert!(options("ECDHE+AESGCM:@SECLEVEL=3").profile().is_err());
        assert!(options("AES128-SHA").ask_for_openssl());
        assert!(!options("ECDHE-RSA-AES256-GCM-SHA384").ask_for_openssl());
    }

    #[test]
    fn curves_are_checked_by_name() {
        let options = TlsOptions::new(Side::Client);
        let error = options.clone().with_curve(Some("prime256v1")).unwrap_err().to_string();
        assert!(error.starts_with("Invalid ECDH curve: 'prime256v1'. Valid curves are: secp"));
        let profile = options.clone().with_curve(Some("secp256r1")).unwrap().profile().unwrap();
        assert_eq!(profile.provider.kx_groups.len(), 1);
        assert!(options.with_curve(Some("secp521r1")).unwrap().profile().is_err());
    }
}
