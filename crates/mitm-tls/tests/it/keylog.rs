//! The key log of a process. The environment decides it, so the handshake runs in a child.

use std::{env, process::Command, sync::Arc};

use mitm_flow::connection::Address;
use mitm_tls::{Downstream, Side, TlsOptions, Upstream, UpstreamKey, Verification};

use crate::support::{handshake, request, store};

const CHILD: &str = "MITM_TEST_KEYLOG_CHILD";

#[test]
fn both_sides_log_to_the_same_file() {
    if env::var_os(CHILD).is_some() {
        return shake_hands();
    }
    let dir = tempfile::tempdir().unwrap();
    for (variable, file) in [("SSLKEYLOGFILE", "a/keys"), ("MITMPROXY_SSLKEYLOGFILE", "b/keys")] {
        let path = dir.path().join(file);
        let status = Command::new(env::current_exe().unwrap())
            .args(["--exact", "keylog::both_sides_log_to_the_same_file"])
            .env(CHILD, "1")
            .env("SSLKEYLOGFILE", dir.path().join("unused"))
            .env(variable, &path)
            .output()
            .unwrap();
        assert!(status.status.success());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with('\n'));
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("CLIENT_TRAFFIC_SECRET_0 ")).collect();
        // Client and server agree on the secret.
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0], lines[1]);
    }
}

fn shake_hands() {
    let leaf = store().get(&request(&["a.example"])).unwrap();
    let server = Downstream::new(&TlsOptions::new(Side::Client)).unwrap().config(&leaf, None);
    let options = TlsOptions::new(Side::Server);
    let upstream = Upstream::new(&options, Verification::Insecure, None).unwrap();
    let client = upstream.config(&UpstreamKey::new(Address::new("a.example", 443))).unwrap();
    handshake(Arc::clone(&client.config), server, client.server_name).unwrap();
}
