//! WebSocket connections between a client and a server of another make.

use std::{path::PathBuf, process::Stdio};

use mitm_testkit::{external, peer_python, tls};

use crate::support::{Home, lines_with, run};

const SCRIPT: &str = include_str!("websocket.py");

/// A Python with the package `websockets`.
pub(crate) fn python(home: &Home) -> Option<PathBuf> {
    let python = peer_python()?;
    let mut command = home.command(&python);
    let found = command.args(["-c", "import websockets"]).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    external("websockets, a package of the Python that MITM_PEER_PYTHON names,")
}

#[test]
fn both_ends_understand_each_other() {
    let home = Home::new();
    let Some(python) = python(&home) else { return };
    let identity = home.write_identity("server.pem", &tls::self_signed(&["127.0.0.1"]));
    let proxy = home.start(&["-w", "flows", "--ssl-insecure"]);
    let mut script = home.command(python);
    script.args(["-c", SCRIPT, &proxy.url(), &identity, &home.ca()]);
    let ended = run(&mut script);
    assert_eq!(ended.code, Some(0), "{ended:?} {proxy:?}");

    let output = proxy.finish();
    let again = home.run(&["-nr", "flows", "--set", "flow_detail=3"]);
    assert_eq!((again.code, &*again.stderr), (Some(0), ""), "{}", again.stdout);
    for output in [&output, &again.stdout] {
        // 13 messages of a connection went one way and 12 the other, over four kinds of connections.
        let (sent, echoed) = ("-> WebSocket ", "<- WebSocket ");
        let counts = (lines_with(output, sent), lines_with(output, echoed));
        assert_eq!(counts, (4 * 13, 4 * 12), "{output}");
        assert_eq!(lines_with(output, "4001"), 4, "{output}");
        assert_eq!(lines_with(output, "4002"), 4, "{output}");
    }
    assert_eq!(lines_with(&output, "WebSocket ping from client"), 4, "{output}");
    assert_eq!(lines_with(&output, "WebSocket pong from server"), 4, "{output}");
    assert!(again.stdout.contains("grüße"), "{}", again.stdout);
}
