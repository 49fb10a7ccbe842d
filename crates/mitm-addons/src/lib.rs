//! The built-in addons, one file each, and the chains the programs put them in.
//!
//! Every feature that users know is here: an addon declares its options and commands beside the code that uses
//! them, and asks the engine for no more than it needs. The order of a chain matters: of those that act in the
//! same hook, the first wins.
//!
//! Nothing here knows how the engine moves bytes, and no program-specific face is here either.

pub mod core;
pub mod dumper;
pub mod errorcheck;
pub mod eventstore;
mod filters;
mod inject;
pub mod intercept;
pub mod keepserving;
mod modes;
pub mod output;
mod platform;
pub mod proxyauth;
pub mod proxyserver;
pub mod readfile;
pub mod save;
pub mod termlog;
pub mod tlsconfig;
pub mod upstream_auth;

use std::sync::Arc;

use mitm_addon::{addon::AddonRef, log::EventLog};

pub use crate::{
    core::Core, dumper::Dumper, errorcheck::ErrorCheck, eventstore::EventStore,
    intercept::Intercept, keepserving::KeepServing, output::Output, proxyauth::ProxyAuth,
    proxyserver::ProxyServer, readfile::ReadFile, save::Save, termlog::TermLog,
    tlsconfig::TlsConfig, upstream_auth::UpstreamAuth,
};

/// Returns the addons that all programs have, in the order of the chain.
pub fn default_addons() -> Vec<AddonRef> {
    vec![
        Arc::new(Core),
        Arc::new(ProxyAuth::default()),
        Arc::new(ProxyServer::default()),
        Arc::new(Save::default()),
        Arc::new(TlsConfig::default()),
        Arc::new(UpstreamAuth::default()),
    ]
}

/// The addons of `mitmdump`.
pub struct DumpAddons {
    /// In the order of the chain.
    pub addons: Vec<AddonRef>,
    /// To be asked during the start.
    pub error_check: Arc<ErrorCheck>,
}

/// Makes the addons of `mitmdump`, which prints to `output`. Errors that are logged from now on count.
pub fn dump_addons(log: &EventLog, output: &Output) -> DumpAddons {
    let error_check = Arc::new(ErrorCheck::new(log, false));
    let readfile = ReadFile::with_stdin();
    let mut addons: Vec<AddonRef> = vec![Arc::new(TermLog::new(output.clone()))];
    addons.extend(default_addons());
    addons.push(Arc::new(Dumper::new(output.clone())));
    addons.push(Arc::new(KeepServing::new(&readfile)));
    addons.push(Arc::new(readfile));
    addons.push(error_check.clone());
    DumpAddons { addons, error_check }
}
