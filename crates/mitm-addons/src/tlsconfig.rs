//! TLS as the options say: the certificate authority, custom certificates, versions, verification.
//!
//! Options are checked when they change. The authority itself is loaded, or made, when the proxy runs: the listeners
//! are up meanwhile, and the first handshakes wait for it.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use mitm_addon::{Addon, AddonError, HookResult, Loader, Outcome, WeakMaster};
use mitm_options::{Options, OptionsError, core as opts, expand_user};
use mitm_proxy::TlsContext;
use mitm_tls::{
    CertStore, CertificateAuthority, Downstream, Side, TlsOptions, Upstream, Verification,
    VersionLimit, parse_cert_spec,
};
use parking_lot::Mutex;
use tracing::warn;

/// See the [module](self).
#[derive(Default)]
pub struct TlsConfig {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    master: WeakMaster,
    /// The authority, once the proxy runs, and what it was loaded with.
    authority: Option<(CaSource, Arc<CertificateAuthority>)>,
    /// Warnings given already.
    warned: BTreeSet<String>,
}

/// What decides about the authority.
#[derive(Clone, PartialEq, Eq)]
struct CaSource {
    confdir: PathBuf,
    key_size: u32,
    passphrase: Option<String>,
}

/// The sizes of RSA keys that can be made.
const KEY_SIZES: &[u32] = &[2048, 3072, 4096, 8192];

/// The options that matter here.
const OPTIONS: &[&str] = &[
    "add_upstream_certs_to_client_chain",
    "cert_passphrase",
    "certs",
    "ciphers_client",
    "ciphers_server",
    "client_certs",
    "confdir",
    "key_size",
    "request_client_cert",
    "ssl_insecure",
    "ssl_verify_upstream_trusted_ca",
    "ssl_verify_upstream_trusted_confdir",
    "tls_ecdh_curve_client",
    "tls_ecdh_curve_server",
    "tls_version_client_max",
    "tls_version_client_min",
    "tls_version_server_max",
    "tls_version_server_min",
    "upstream_cert",
];

impl Addon for TlsConfig {
    fn name(&self) -> &'static str {
        "tlsconfig"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        self.state.lock().master = loader.master.downgrade();
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        if !OPTIONS.iter().any(|name| updated.contains(*name)) {
            return Ok(());
        }
        if options.get(&opts::ADD_UPSTREAM_CERTS_TO_CLIENT_CHAIN)
            && !options.get(&opts::UPSTREAM_CERT)
        {
            return Err(OptionsError::invalid(
                "add_upstream_certs_to_client_chain requires upstream_cert to be enabled.",
            ));
        }
        let source = ca_source(options)?;
        for spec in options.get(&opts::CERTS) {
            let (_, path) = parse_cert_spec(&spec);
            if !path.is_file() {
                let path = path.display();
                return Err(OptionsError::invalid(format!(
                    "Certificate file does not exist: {path}"
                )));
            }
        }
        let sides = sides(options)?;
        self.warn(sides.0.warnings().into_iter().chain(sides.1.warnings()));
        let upstream = upstream(options, &sides.1)?;
        let downstream = downstream(&source, &sides.0)?;
        let known = self.state.lock().authority.clone();
        let Some((loaded, authority)) = known else { return Ok(()) };
        let authority = if loaded == source {
            authority
        } else {
            let fresh = load(&source).map_err(OptionsError::invalid)?;
            self.state.lock().authority = Some((source, Arc::clone(&fresh)));
            fresh
        };
        let context = context(options, authority, sides.0, downstream, upstream)?;
        self.put_in_force(context);
        Ok(())
    }

    fn running(&self) -> Outcome {
        let Some(master) = self.state.lock().master.upgrade() else { return Outcome::Done };
        let this = Self { state: Arc::clone(&self.state) };
        Outcome::wait(async move {
            let options = master.options().clone();
            let work = tokio::task::spawn_blocking(move || this.start(&options));
            work.await.map_err(AddonError::new)?.map_err(AddonError::new)
        })
    }
}

impl TlsConfig {
    fn start(&self, options: &Options) -> Result<(), OptionsError> {
        let source = ca_source(options)?;
        let authority = load(&source).map_err(OptionsError::invalid)?;
        if authority.is_expired() {
            warn!(
                "The certificate authority in {} has expired. Clients will not trust it; delete \
                 mitmproxy-ca.pem there to have a new one made.",
                source.confdir.display()
            );
        }
        let (client, server) = sides(options)?;
        let upstream = upstream(options, &server)?;
        let downstream = downstream(&source, &client)?;
        let context = context(options, Arc::clone(&authority), client, downstream, upstream)?;
        self.state.lock().authority = Some((source, authority));
        self.put_in_force(context);
        Ok(())
    }

    fn put_in_force(&self, context: TlsContext) {
        self.warn(context.store.warnings().iter().cloned());
        if let Some(master) = self.state.lock().master.upgrade() {
            master.proxy().set_tls(context);
        }
    }

    /// Logs what was not logged before.
    fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        for text in warnings {
            if self.state.lock().warned.insert(text.clone()) {
                warn!("{text}");
            }
        }
    }
}

fn ca_source(options: &Options) -> Result<CaSource, OptionsError> {
    let key_size = options.get(&opts::KEY_SIZE);
    let key_size = u32::try_from(key_size).ok().filter(|bits| KEY_SIZES.contains(bits));
    let key_size = key_size.ok_or_else(|| {
        OptionsError::invalid(format!(
            "Invalid value for key_size: valid sizes of an RSA key are {KEY_SIZES:?}."
        ))
    })?;
    Ok(CaSource {
        confdir: PathBuf::from(&*expand_user(&options.get(&opts::CONFDIR))),
        key_size,
        passphrase: options.get(&opts::CERT_PASSPHRASE),
    })
}

fn load(source: &CaSource) -> Result<Arc<CertificateAuthority>, String> {
    let CaSource { confdir, key_size, passphrase } = source;
    CertificateAuthority::load_or_create(confdir, "mitmproxy", *key_size, passphrase.as_deref())
        .map(Arc::new)
        .map_err(|error| error.to_string())
}

/// Reads versions, ciphers and curves: towards clients, towards servers.
fn sides(options: &Options) -> Result<(TlsOptions, TlsOptions), OptionsError> {
    let side = |side, [min, max]: [String; 2], ciphers: Option<String>, curve: Option<String>| {
        let invalid = |error: mitm_tls::TlsOptionError| OptionsError::invalid(error.to_string());
        let limit = |name: &str| name.parse::<VersionLimit>().map_err(invalid);
        TlsOptions::new(side)
            .with_versions(limit(&min)?, limit(&max)?)
            .with_ciphers(ciphers.as_deref())
            .with_curve(curve.as_deref())
            .map_err(invalid)
    };
    let client = side(
        Side::Client,
        [options.get(&opts::TLS_VERSION_CLIENT_MIN), options.get(&opts::TLS_VERSION_CLIENT_MAX)],
        options.get(&opts::CIPHERS_CLIENT),
        options.get(&opts::TLS_ECDH_CURVE_CLIENT),
    )?
    .with_request_client_cert(options.get(&opts::REQUEST_CLIENT_CERT));
    let server = side(
        Side::Server,
        [options.get(&opts::TLS_VERSION_SERVER_MIN), options.get(&opts::TLS_VERSION_SERVER_MAX)],
        options.get(&opts::CIPHERS_SERVER),
        options.get(&opts::TLS_ECDH_CURVE_SERVER),
    )?;
    Ok((client, server))
}

fn upstream(options: &Options, server: &TlsOptions) -> Result<Upstream, OptionsError> {
    let path = |value: Option<String>| {
        value.filter(|path| !path.is_empty()).map(|path| PathBuf::from(&*expand_user(&path)))
    };
    let file = path(options.get(&opts::SSL_VERIFY_UPSTREAM_TRUSTED_CA));
    let dir = path(options.get(&opts::SSL_VERIFY_UPSTREAM_TRUSTED_CONFDIR));
    let verification = if options.get(&opts::SSL_INSECURE) {
        Verification::Insecure
    } else if file.is_some() || dir.is_some() {
        Verification::Trusted { file, dir }
    } else {
        Verification::Roots
    };
    let client_certs = path(options.get(&opts::CLIENT_CERTS));
    let passphrase = options.get(&opts::CERT_PASSPHRASE);
    Upstream::with_passphrase(server, verification, client_certs, passphrase.as_deref())
        .map_err(|error| OptionsError::invalid(error.to_string()))
}

fn downstream(source: &CaSource, client: &TlsOptions) -> Result<Downstream, OptionsError> {
    let dhparam = source.confdir.join("mitmproxy-dhparam.pem");
    Downstream::with_dhparam(client, Some(dhparam))
        .map_err(|error| OptionsError::invalid(error.to_string()))
}

fn context(
    options: &Options,
    authority: Arc<CertificateAuthority>,
    client: TlsOptions,
    downstream: Downstream,
    upstream: Upstream,
) -> Result<TlsContext, OptionsError> {
    let invalid = |error: &dyn std::fmt::Display| OptionsError::invalid(error.to_string());
    let custom = options.get(&opts::CERTS);
    let custom = custom.iter().map(|spec| parse_cert_spec(spec));
    let passphrase = options.get(&opts::CERT_PASSPHRASE);
    let store = CertStore::new(authority, custom, passphrase.as_deref())
        .map_err(|error| invalid(&error))?;
    Ok(TlsContext { store: Arc::new(store), downstream, upstream, client_options: client })
}

#[cfg(test)]
mod tests {
    use mitm_addon::testing;

    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        let master = testing::master_with(Arc::new(TlsConfig::default())).unwrap();
        for (specs, text) in [
            (&["certs=/nowhere.pem"][..], "Certificate file does not exist: /nowhere.pem"),
            (&["client_certs=/nowhere.pem"], "/nowhere.pem"),
            (&["ssl_verify_upstream_trusted_ca=/nowhere.pem"], "/nowhere.pem"),
            (&["key_size=1"], "key_size"),
            (&["tls_ecdh_curve_client=x"], "Invalid ECDH curve: 'x'"),
            (&["ciphers_client=NONSENSE"], "ciphers_client 'NONSENSE' names no cipher"),
            (&["ciphers_server=NONSENSE"], "ciphers_server 'NONSENSE' names no cipher"),
            (
                &["tls_version_client_min=TLS1_3", "tls_version_client_max=TLS1_2"],
                "tls_version_client_max TLS1_2",
            ),
            (
                &["add_upstream_certs_to_client_chain=true", "upstream_cert=false"],
                "requires upstream_cert",
            ),
        ] {
            let error = testing::set(&master, specs).unwrap_err().to_string();
            assert!(error.contains(text), "{specs:?}: {error}");
        }
    }

    #[tokio::test]
    async fn the_authority_is_made_when_the_proxy_runs() {
        let dir = tempfile::tempdir().unwrap();
        let addon = Arc::new(TlsConfig::default());
        let master = testing::master_with(addon.clone()).unwrap();
        testing::set(&master, &[&format!("confdir={}", dir.path().display())]).unwrap();
        assert!(!dir.path().join("mitmproxy-ca.pem").exists());
        let Outcome::Wait(rest) = addon.running() else { panic!("it takes time") };
        rest.await.unwrap();
        assert!(dir.path().join("mitmproxy-ca-cert.pem").exists());
    }
}
