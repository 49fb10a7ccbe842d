//! The engine's options: parsed on each change and put in force; listeners follow `mode` and its kin.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use mitm_addon::{Addon, HookResult, Loader, WeakMaster};
use mitm_flow::spill::SpillStore;
use mitm_options::{Options, OptionsError, core as opts, expand_user};
use mitm_proxy::{Mode, ModeKind, Settings};
use parking_lot::Mutex;

/// See the [module](self).
#[derive(Default)]
pub struct ProxyServer {
    master: Mutex<WeakMaster>,
}

impl Addon for ProxyServer {
    fn name(&self) -> &'static str {
        "proxyserver"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        *self.master.lock() = loader.master.downgrade();
        crate::inject::register(loader);
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        let settings = Settings::from_options(options)?;
        check_modes(options)?;
        check_source(options)?;
        if updated.contains(opts::SPILL_DIR.name()) || updated.contains(opts::SPILL_LIMIT.name()) {
            set_spill_store(options)?;
        }
        let Some(master) = self.master.lock().upgrade() else { return Ok(()) };
        master.proxy().configure(settings);
        let listening = [
            opts::MODE.name(),
            opts::LISTEN_HOST.name(),
            opts::LISTEN_PORT.name(),
            opts::SERVER.name(),
        ];
        if listening.iter().any(|name| updated.contains(*name)) {
            master.listen_later();
        }
        Ok(())
    }
}

/// Refuses modes that cannot be read, and two on one address.
fn check_modes(options: &Options) -> Result<(), OptionsError> {
    let host = options.get(&opts::LISTEN_HOST);
    let port = options.get(&opts::LISTEN_PORT);
    if port.is_some_and(|port| u16::try_from(port).is_err()) {
        return Err(OptionsError::invalid("Invalid value for listen_port: a port is 0 to 65535."));
    }
    let mut seen = BTreeSet::new();
    for spec in options.get(&opts::MODE) {
        let mode = Mode::parse(&spec).map_err(|error| OptionsError::invalid(error.to_string()))?;
        if mode.kind == ModeKind::Transparent && !mitm_proxy::SUPPORTS_TRANSPARENT_MODE {
            return Err(OptionsError::invalid("Transparent mode not supported on this platform."));
        }
        let host = mode.host.as_deref().unwrap_or(&host);
        let port = match (mode.port, port) {
            (Some(port), _) => i64::from(port),
            (None, Some(port)) => port,
            (None, None) => i64::from(mode.default_port()),
        };
        let host = if host.is_empty() { "*" } else { host };
        if port != 0 && !seen.insert(format!("{host}:{port}")) {
            return Err(OptionsError::invalid(format!(
                "Cannot spawn multiple servers on the same address: {host}:{port}"
            )));
        }
    }
    Ok(())
}

/// Refuses to connect from the address of the client where that is not possible.
fn check_source(options: &Options) -> Result<(), OptionsError> {
    if !options.get(&opts::SPOOF_SOURCE_ADDRESS) || !options.get(&opts::SERVER) {
        return Ok(());
    }
    if options.get(&opts::CONNECT_ADDR).is_some_and(|address| !address.is_empty()) {
        return Err(OptionsError::invalid(
            "spoof_source_address and connect_addr contradict each other.",
        ));
    }
    mitm_proxy::can_spoof()
        .map_err(|error| OptionsError::invalid(format!("Cannot use spoof_source_address: {error}")))
}

fn set_spill_store(options: &Options) -> Result<(), OptionsError> {
    if let Some(dir) = options.get(&opts::SPILL_DIR).filter(|dir| !dir.is_empty()) {
        let dir = expand_user(&dir);
        let store = SpillStore::open(Path::new(&*dir)).map_err(|error| {
            OptionsError::invalid(Arc::from(format!(
                "Cannot use spill_dir {}: {error}",
                dir.display()
            )))
        })?;
        SpillStore::set_global(store);
    }
    let Some(limit) = options.size(&opts::SPILL_LIMIT)? else { return Ok(()) };
    let limit = u64::try_from(limit).map_err(|_| {
        OptionsError::invalid("Invalid value for spill_limit: it must not be negative.")
    })?;
    if let Ok(store) = SpillStore::global() {
        store.set_cap(Some(limit));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use mitm_addon::testing;

    use super::*;

    #[test]
    fn bad_values_are_refused_by_name() {
        let master = testing::master_with(Arc::new(ProxyServer::default())).unwrap();
        for (spec, text) in [
            ("mode=bogus", "Invalid proxy mode specification: bogus (unknown mode)"),
            ("mode=reverse:gopher://h", "(Invalid server scheme: gopher). Valid is MODE"),
            ("mode=dns", "(dns mode is not supported yet)"),
            ("listen_port=70000", "listen_port"),
            ("connect_addr=nowhere", "connect_addr"),
            ("body_size_limit=1x", "Invalid body_size_limit specification: 1x"),
            ("stream_large_bodies=-1", "stream_large_bodies"),
            ("tcp_timeout=-1", "tcp_timeout"),
        ] {
            let error = testing::set(&master, &[spec]).unwrap_err().to_string();
            assert!(error.contains(text), "{spec}: {error}");
        }
        let both = testing::set(&master, &["spoof_source_address", "connect_addr=127.0.0.1"]);
        assert!(both.unwrap_err().to_string().contains("contradict each other"));
        let twice = testing::set(&master, &["mode=regular", "mode=REGULAR@8080"]).unwrap_err();
        assert!(twice.to_string().contains("*:8080"), "{twice}");
        testing::set(&master, &["body_size_limit=1m", "connect_addr=127.0.0.1"]).unwrap();
    }
}
