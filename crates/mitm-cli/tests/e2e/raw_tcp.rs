//! Raw TCP with mitmdump: printed, recorded, read again by others.

use mitm_flow::SnapshotData;
use mitm_flowfile::FlowReader;
use mitm_testkit::{
    RawClient, RawServer,
    Step::{Bytes, End, Send},
    peer_python,
};
use nix::sys::signal::Signal;

use crate::support::{Home, Proxy, run};

const SCRIPT: &str = r#"
import sys
from mitmproxy.io import FlowReader

with open(sys.argv[1], "rb") as file:
    for flow in FlowReader(file).stream():
        print(flow.type, flow.server_conn.address[1], flow.error)
        for message in flow.messages:
            print(message.from_client, message.content)
"#;

async fn talk(proxy: &Proxy) {
    let mut client = RawClient::connect(proxy.address).await;
    assert_eq!(client.read_exactly(9).await, b"220 hi\x1b\r\n");
    client.send("\0QUIT").await;
    assert_eq!(client.read_exactly(3).await, b"bye");
    client.finish().await;
    assert_eq!(client.read_to_end().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_printed_and_recorded() {
    let home = Home::new();
    let origin = RawServer::start(|_| {
        vec![Send("220 hi\x1b\r\n".into()), Bytes(5), Send("bye".into()), End]
    })
    .await;
    let port = origin.port();
    let file = home.path("flows");
    let words = [
        "--mode",
        &format!("reverse:tcp://127.0.0.1:{port}"),
        "--tcp",
        "^127",
        "-w",
        file.to_str().unwrap(),
        "--set",
        "flow_detail=3",
    ];
    let proxy = home.start(&words);
    talk(&proxy).await;
    // Both of the same client connection, in the order of its end.
    proxy.wait_for_log("client disconnect");
    let ended = proxy.stop(Signal::SIGINT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let log = ended.stdout;
    let server = format!("127.0.0.1:{port}");
    // The dumper's lines, with contents, and those of the event log.
    for line in [
        format!(" <- tcp <- {server}\n"),
        format!(" -> tcp -> {server}\n"),
        format!("] <- tcp <- {server}: 220 hi\\x1b\\r\\n\n"),
        format!("] -> tcp -> {server}: \\x00QUIT\n"),
    ] {
        assert!(log.contains(&line), "no {line:?} in\n{log}");
    }
    assert!(!log.contains('\x1b') && !log.contains('\0'));

    let flows: Vec<_> =
        FlowReader::new(std::fs::File::open(&file).unwrap()).collect::<Result<_, _>>().unwrap();
    let [flow] = &flows[..] else { panic!("{} flows", flows.len()) };
    let SnapshotData::Tcp(messages) = flow.snapshot().unwrap().data else {
        panic!("it is no TCP flow")
    };
    let messages: Vec<_> = messages
        .iter()
        .map(|message| (message.from_client, message.content.bytes().unwrap().unwrap()))
        .collect();
    let text = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
    assert_eq!(
        messages,
        [(false, text("220 hi\x1b\r\n")), (true, text("\0QUIT")), (false, text("bye"))]
    );

    // What is read from the file is printed like what came by the wire.
    let read = home.run(&["-n", "-r", file.to_str().unwrap()]);
    assert_eq!(read.stdout.matches(" tcp ").count(), 3, "{read:?}");

    let Some(python) = peer_python() else { return };
    let seen = run(home.command(python).arg("-c").arg(SCRIPT).arg(&file));
    assert_eq!(
        seen.stdout,
        format!("tcp {port} None\nFalse b'220 hi\\x1b\\r\\n'\nTrue b'\\x00QUIT'\nFalse b'bye'\n"),
        "{}",
        seen.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_valid_is_refused_by_its_name() {
    let home = Home::new();
    for option in ["ignore_hosts", "allow_hosts", "tcp_hosts"] {
        let ended = home.run(&["-n", "--set", &format!("{option}=(oops")]);
        assert_ne!(ended.code, Some(0));
        let said = format!("Invalid value for {option}: '(oops' is no regular expression");
        assert!(ended.stderr.contains(&said) || ended.stdout.contains(&said), "{ended:?}");
    }
}
