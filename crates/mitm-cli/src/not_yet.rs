//! What users of mitmproxy know and this version does not have yet: the single place that says so.
//!
//! Nothing is accepted that would have no effect. Flags to come are marked in the
//! [table of flags](crate::flags::TABLE); here are the options. Those that are declared already but that nobody reads are
//! refused by an addon, [`NotYet`], wherever they are set; those that are not declared are named by
//! [`is_option_to_come`].

use std::collections::BTreeSet;

use mitm_addon::Addon;
use mitm_options::{Options, OptionsError};

/// What is said about each.
pub const MESSAGE: &str = concat!(
    "not supported yet by mitm-rs ",
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);

/// Declared, but read by nobody. (`http2`, `http3` and `websocket` are not here: set to anything but their default they
/// ask for what is so.)
pub const UNREAD: &[&str] =
    &["normalize_outbound_headers", "protobuf_definitions", "proxy_debug", "udp_hosts"];

/// Not declared.
pub const TO_COME: &[&str] = &[
    "anticache",
    "anticomp",
    "block_global",
    "block_list",
    "block_private",
    "client_replay",
    "client_replay_concurrency",
    "command_history",
    "dns_name_servers",
    "dns_use_hosts_file",
    "export_preserve_original_ip",
    "hardump",
    "keep_alt_svc_header",
    "map_local",
    "map_remote",
    "modify_body",
    "modify_headers",
    "onboarding",
    "onboarding_host",
    "scripts",
    "server_replay",
    "server_replay_extra",
    "server_replay_ignore_content",
    "server_replay_ignore_host",
    "server_replay_ignore_params",
    "server_replay_ignore_payload_params",
    "server_replay_ignore_port",
    "server_replay_kill_extra",
    "server_replay_nopop",
    "server_replay_refresh",
    "server_replay_reuse",
    "server_replay_use_headers",
    "stickyauth",
    "stickycookie",
    "strip_ech",
];

/// Returns whether mitmproxy has an option of this name that is not declared here.
pub fn is_option_to_come(name: &str) -> bool {
    TO_COME.binary_search(&name).is_ok()
}

/// Refuses options that nobody reads.
pub struct NotYet;

impl Addon for NotYet {
    fn name(&self) -> &'static str {
        "not_yet"
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        let refused =
            |name: &&&str| updated.contains(**name) && options.has_changed(name) == Some(true);
        match UNREAD.iter().find(refused) {
            None => Ok(()),
            Some(name) => Err(OptionsError::invalid(format!("{name}: {MESSAGE}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::testing;

    use super::*;

    #[test]
    fn tables_are_sorted() {
        assert!(UNREAD.is_sorted());
        assert!(TO_COME.is_sorted());
    }

    #[test]
    fn unread_options_keep_their_defaults() {
        let master = testing::master_with(Arc::new(NotYet)).unwrap();
        for name in UNREAD {
            assert!(master.options().contains(name), "{name}");
        }
        testing::set(&master, &["udp_hosts", "proxy_debug=false"]).unwrap();
        let error = testing::set(&master, &["proxy_debug"]).unwrap_err().to_string();
        assert_eq!(error, "proxy_debug: not supported yet by mitm-rs 0.1");
        assert_eq!(master.options().has_changed("proxy_debug"), Some(false));
    }
}
