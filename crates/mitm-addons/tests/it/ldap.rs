//! Proxy authentication by a real LDAP server.

use std::sync::Arc;

use mitm_addon::{Addon as _, AddonError, Master, Outcome, testing};
use mitm_addons::ProxyAuth;
use mitm_flow::{FlowRef, test_util};
use mitm_testkit::{
    Slapd,
    net::refusing,
    slapd::{ADMIN, ADMIN_PASSWORD, PEOPLE},
};

const USERS: &[(&str, &str, &str)] =
    &[("Alice", "alice", "wonder:land"), ("Bob", "bob", "b*b"), ("Odd", "a(b)", "odd")];

struct Auth {
    addon: Arc<ProxyAuth>,
    master: Master,
}

impl Auth {
    fn new() -> Self {
        let addon = Arc::new(ProxyAuth::default());
        let master = testing::master_with(addon.clone()).unwrap();
        Self { addon, master }
    }

    fn set(&self, spec: &str) {
        testing::set(&self.master, &[&format!("proxyauth={spec}")]).unwrap();
    }

    async fn start(&self) -> Result<(), AddonError> {
        match self.addon.running() {
            Outcome::Wait(trying) => trying.await,
            _ => panic!("the server is asked"),
        }
    }

    /// Says this in a request; returns whether it is let through.
    async fn lets_in(&self, said: &str) -> bool {
        let flow = test_util::http_flow();
        flow.set_live(true);
        let value = format!("Basic {}", base64(said));
        flow.request().unwrap().update(|r| r.headers.set("Proxy-Authorization", value));
        match self.addon.requestheaders(&flow) {
            Outcome::Wait(checking) => checking.await.unwrap(),
            Outcome::Done => {}
            _ => panic!("nothing else happens"),
        }
        expect_stripped(&flow);
        let is_refused = flow.response().is_some_and(|r| r.with(|r| r.status_code == 407));
        assert_ne!(is_refused, flow.metadata().iter().any(|(key, _)| *key == "proxyauth".into()));
        !is_refused
    }
}

fn expect_stripped(flow: &FlowRef) {
    let request = flow.request().unwrap();
    assert!(!request.with(|request| request.headers.contains("Proxy-Authorization")));
}

fn base64(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

fn spec(scheme: &str, host: &str, port: u16, rest: &str) -> String {
    format!("{scheme}:{host}:{port}:{ADMIN}:{ADMIN_PASSWORD}:{PEOPLE}{rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_directory_are_let_in() {
    let Some(slapd) = Slapd::start(USERS) else { return };
    let auth = Auth::new();
    let trust = format!("ssl_verify_upstream_trusted_ca={}", slapd.trust_file().display());
    testing::set(&auth.master, &[&trust]).unwrap();
    for (spec, right) in [
        (spec("ldap", "127.0.0.1", slapd.ldap(), "?search_filter_key=uid"), "alice:wonder:land"),
        (spec("ldaps", "localhost", slapd.ldaps(), "?search_filter_key=uid"), "alice:wonder:land"),
        (spec("ldaps", "127.0.0.1", slapd.ldaps(), ""), "Alice:wonder:land"),
    ] {
        auth.set(&spec);
        auth.start().await.unwrap();
        assert!(auth.lets_in(right).await, "{spec}");
        // Now from memory; and still only the right password.
        assert!(auth.lets_in(right).await);
        let name = right.split(':').next().unwrap();
        for wrong in ["wonder:lan", "", "WONDER:LAND"] {
            assert!(!auth.lets_in(&format!("{name}:{wrong}")).await, "{wrong}");
        }
        for wrong in ["nobody:x", ":", ":wonder:land", ":admin-secret", "admin:admin-secret"] {
            assert!(!auth.lets_in(wrong).await, "{wrong}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_no_filter() {
    let Some(slapd) = Slapd::start(USERS) else { return };
    let auth = Auth::new();
    auth.set(&spec("ldap", "127.0.0.1", slapd.ldap(), "?search_filter_key=uid"));
    assert!(auth.lets_in("bob:b*b").await);
    assert!(auth.lets_in("a(b):odd").await);
    for tried in [
        "*:b*b",
        "b*:b*b",
        "bob)(cn=*:b*b",
        "bob)(|(uid=*:b*b",
        "*)(uid=bob))(|(uid=*:b*b",
        "bob\0:b*b",
        "\\2a:b*b",
        "bob:*",
    ] {
        assert!(!auth.lets_in(tried).await, "{tried:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_asked_lets_nobody_in() {
    let (address, _guard) = refusing();
    let auth = Auth::new();
    auth.set(&spec("ldap", "127.0.0.1", address.port(), ""));
    let error = auth.start().await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1") && !error.contains(ADMIN_PASSWORD), "{error}");
    assert!(!auth.lets_in("alice:wonder:land").await);

    let Some(slapd) = Slapd::start(USERS) else { return };
    // Not trusted, not TLS, a wrong password of the service, a subtree that is none.
    for spec in [
        spec("ldaps", "localhost", slapd.ldaps(), ""),
        spec("ldaps", "localhost", slapd.ldap(), ""),
        spec("ldap", "127.0.0.1", slapd.ldap(), "").replace(ADMIN_PASSWORD, "wrong"),
        spec("ldap", "127.0.0.1", slapd.ldap(), "").replace("ou=people", "ou=nowhere"),
    ] {
        auth.set(&spec);
        let tried = auth.start().await;
        assert!(tried.is_err() || spec.contains("nowhere"), "{spec}");
        assert!(!auth.lets_in("Alice:wonder:land").await, "{spec}");
    }
}

/// What a server must never be able to do is to upset the proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_talks_nonsense_lets_nobody_in() {
    use mitm_testkit::{RawServer, Step};
    let answers: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        // A bind response without content; one that is cut; one with a result code of the wrong type.
        b"\x30\x05\x02\x01\x01\x61\x00",
        b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00",
        b"\x30\x0c\x02\x01\x01\x61\x07\x04\x01\x00\x04\x00\x04\x00",
        // A message of another kind; a length of 2 GB.
        b"\x30\x0c\x02\x01\x01\x64\x07\x0a\x01\x00\x04\x00\x04\x00",
        b"\x30\x84\x7f\xff\xff\xff",
    ];
    for answer in answers {
        let server = RawServer::start(|_| {
            vec![Step::Bytes(1), Step::Send(answer.to_vec()), Step::Finish, Step::End]
        })
        .await;
        let auth = Auth::new();
        auth.set(&spec("ldap", "127.0.0.1", server.port(), ""));
        let error = auth.start().await.unwrap_err().to_string();
        assert!(!auth.lets_in("alice:wonder:land").await, "{answer:?}: {error}");
    }
}
