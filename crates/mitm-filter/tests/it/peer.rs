//! Runs a script of `peer/` with the Python that has mitmproxy.

use std::{
    env,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde_json::Value as Json;

/// Runs `script` with `job` as its input. `None`, with a line that says so, if there is no such Python.
pub(crate) fn run(script: &str, job: &Json) -> Option<Json> {
    let Some(python) = env::var_os("MITM_PEER_PYTHON") else {
        assert!(
            env::var_os("MITM_REQUIRE_EXTERNAL").is_none_or(|value| value != "1"),
            "MITM_PEER_PYTHON must name a Python that has mitmproxy 11.0.2"
        );
        eprintln!("skipped: MITM_PEER_PYTHON does not name a Python that has mitmproxy 11.0.2");
        return None;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer").join(script);
    let mut child = Command::new(python)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let job = job.to_string();
    // Closing it is the end of the input.
    let writer = thread::spawn(move || stdin.write_all(job.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}
