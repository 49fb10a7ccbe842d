//! What mitmproxy 11.0.2 reads in a flow file.

use std::path::Path;

use mitm_testkit::peer_python;

use crate::support::{Home, run};

const SCRIPT: &str = r#"
import hashlib, sys
from mitmproxy.io import FlowReader

def digest(message):
    content = message and message.raw_content
    return "-" if content is None else hashlib.sha256(content).hexdigest()

with open(sys.argv[1], "rb") as file:
    for flow in FlowReader(file).stream():
        request, response = flow.request, flow.response
        print(
            request.method, request.url, response.status_code if response else "-",
            digest(request), digest(response), bool(flow.error), sep="\t",
        )
"#;

/// A flow as mitmproxy sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) url: String,
    /// `-` without a response.
    pub(crate) status: String,
    /// SHA-256 in hex, `-` for content that was not kept.
    pub(crate) request: String,
    pub(crate) response: String,
    pub(crate) has_error: bool,
}

/// Reads a file with mitmproxy, `None` where it is not installed.
pub(crate) fn read(home: &Home, file: &Path) -> Option<Vec<Seen>> {
    let python = peer_python()?;
    let ended = run(home.command(python).arg("-c").arg(SCRIPT).arg(file));
    assert_eq!(ended.code, Some(0), "mitmproxy cannot read the file: {}", ended.stderr);
    let flows = ended.stdout.lines().map(|line| {
        let parts: Vec<&str> = line.split('\t').collect();
        let [method, url, status, request, response, error] = parts[..] else { panic!("{line}") };
        Seen {
            method: method.to_owned(),
            url: url.to_owned(),
            status: status.to_owned(),
            request: request.to_owned(),
            response: response.to_owned(),
            has_error: error == "True",
        }
    });
    Some(flows.collect())
}
