//! An authority that mitmproxy made is used as it is.

use std::{fs, path::Path, process::Command, sync::Arc};

use mitm_tls::{CertStore, CertificateAuthority, Downstream, Side, TlsOptions};

use crate::support::{client, fixtures, handshake, name, pem, request, skip};

fn check(dir: &Path) {
    let before = fs::read(dir.join("mitmproxy-ca.pem")).unwrap();
    let ca = CertificateAuthority::load_or_create(dir, "mitmproxy", 2048, None).unwrap();
    assert_eq!(fs::read(dir.join("mitmproxy-ca.pem")).unwrap(), before);
    assert_eq!(
        pem(ca.cert()).trim(),
        fs::read_to_string(dir.join("mitmproxy-ca-cert.pem")).unwrap().trim()
    );
    let trusted = ca.cert().clone();
    let store = CertStore::new(Arc::new(ca), [], None).unwrap();
    let leaf = store.get(&request(&["a.example"])).unwrap();
    let server = Downstream::new(&TlsOptions::new(Side::Client)).unwrap().config(&leaf, None);
    let client = Arc::new(client(&trusted, &[&rustls::version::TLS13]));
    handshake(client, server, name("a.example")).unwrap();
}

#[test]
fn the_committed_one() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["mitmproxy-ca.pem", "mitmproxy-ca-cert.pem"] {
        let from = fixtures().join("made-by-mitmproxy").join(file);
        fs::copy(from, dir.path().join(file)).unwrap();
    }
    check(dir.path());
    assert!(dir.path().join("mitmproxy-dhparam.pem").exists());
}

#[test]
fn one_made_just_now() {
    let Some(python) = std::env::var_os("MITM_PEER_PYTHON") else {
        return skip("MITM_PEER_PYTHON, a Python with mitmproxy, is not set");
    };
    let dir = tempfile::tempdir().unwrap();
    let script = "import sys, pathlib; from mitmproxy import certs; \
                  certs.CertStore.create_store(pathlib.Path(sys.argv[1]), 'mitmproxy', 2048)";
    let output = Command::new(&python).args(["-c", script]).arg(dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", crate::support::text(&output));
    check(dir.path());

    // And the other way round: mitmproxy reads ours and signs with it.
    let ours = dir.path().join("ours");
    CertificateAuthority::load_or_create(&ours, "mitmproxy", 2048, None).unwrap();
    let script = "import sys, pathlib; from mitmproxy import certs; \
                  s = certs.CertStore.from_store(pathlib.Path(sys.argv[1]), 'mitmproxy', 2048); \
                  print(s.get_cert('a.example', []).cert.cn)";
    let output = Command::new(&python).args(["-c", script]).arg(&ours).output().unwrap();
    let text = crate::support::text(&output);
    assert!(output.status.success() && text.contains("a.example"), "{text}");
}
