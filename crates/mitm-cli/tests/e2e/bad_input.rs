//! What goes wrong is said, costs nothing that was good, and ends as it should.

use std::{
    fs::{self, File},
    net::TcpListener,
    time::Duration,
};

use mitm_flowfile::FlowReader;
use mitm_testkit::{Nginx, RawClient, RawServer, Step, external, net, nginx::HELLO};
use nix::sys::signal::Signal;

use crate::support::{Home, Proxy, curl, fetch, lines_with, run, status};

const ANYWHERE: [&str; 4] = ["--listen-host", "127.0.0.1", "-p", "0"];

/// Runs to the end, which is a failure that says this.
fn refused(home: &Home, words: &[&str], text: &[&str]) -> String {
    let ended = home.run(words);
    assert!(matches!(ended.code, Some(1 | 2)), "{words:?}: {ended:?}");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    for text in text {
        assert!(said.contains(text), "{words:?}: no {text:?} in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_port_in_use() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let words = ["--listen-host", "127.0.0.1", "-p", &port, "-w", "flows"];
    refused(&home, &words, &[&address.to_string(), "in use"]);
    // The same of one of several.
    let modes = ["regular@127.0.0.1:0", &format!("socks5@{address}"), "reverse:http://h@0"];
    let words: Vec<&str> = modes.iter().flat_map(|mode| ["--mode", mode]).collect();
    refused(&home, &words, &["SOCKS v5 proxy", &address.to_string(), "in use"]);
}

#[test]
fn paths_that_cannot_be_written() {
    let home = Home::new();
    let file = home.write("file", "precious");
    for path in ["/proc/nowhere/flows", "file/flows", "."] {
        for flag in ["-w", "-a"] {
            refused(&home, &[&ANYWHERE[..], &[flag, path]].concat(), &[path]);
        }
    }
    assert_eq!(fs::read(file).unwrap(), b"precious");
}

#[test]
fn files_that_are_no_flow_files() {
    let home = Home::new();
    home.write("text", "GET / HTTP/1.1\r\n\r\n");
    home.write("binary", [0x7f, b'E', b'L', b'F', 0, 1, 2, 3]);
    home.write("number", "1:1#");
    home.write("huge", "999999999999:");
    home.write("deep", format!("{}{}", "9999:".repeat(5000), "]".repeat(5000)));
    for name in ["missing", "text", "binary", "number", "huge", "deep", "."] {
        let said = refused(&home, &["-nr", name, "-w", "out"], &[]);
        assert!(said.contains(name), "{name}: {said}");
    }
    let mut command = home.mitmdump(&["-n", "-r", "-"]);
    let ended = run(command.stdin(File::open(home.path("text")).unwrap()));
    assert_eq!(ended.code, Some(1), "{ended:?}");
}

#[test]
fn filters_and_options_that_mean_nothing() {
    let home = Home::new();
    let said = refused(&home, &["-n", "~m get & ~zz"], &["Invalid filter expression"]);
    let mut lines = said.lines().skip_while(|line| *line != "~m get & ~zz");
    lines.next().unwrap_or_else(|| panic!("the filter is not shown: {said}"));
    let caret = lines.next().expect("a line with the caret");
    assert_eq!((caret.trim(), caret.find('^')), ("^", Some(9)), "{said}");
    refused(&home, &["-n", "--no-such-flag"], &["--no-such-flag"]);
    refused(&home, &["-n", "--set", "flow_detail=lots"], &["flow_detail", "integer"]);
    // an option that some addon may bring later is only warned about
    let ended = home.run(&["-n", "-r", "/dev/null", "--set", "no_such_option=1"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(lines_with(&ended.stdout, "no_such_option"), 1, "{ended:?}");
}

/// Three flows in `flows`, whose bytes are returned with the offset of the last.
fn record(home: &Home, nginx: &Nginx) -> (Vec<u8>, u64) {
    let proxy = home.start(&["-w", "flows"]);
    for path in ["/", "/status/404", "/gzip"] {
        status(home, &proxy, &[&nginx.http_url(path)]);
    }
    proxy.finish();
    let mut reader = FlowReader::open(home.path("flows")).unwrap();
    let mut last = 0;
    while let Some(record) = reader.next_record().unwrap() {
        last = record.offset();
    }
    (fs::read(home.path("flows")).unwrap(), last)
}

#[test]
fn a_corrupt_tail_costs_only_itself() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let (bytes, last) = record(&home, &nginx);
    let end = bytes.len();
    let cut = |by: usize| bytes[..end - by].to_vec();
    let with = |tail: &[u8]| [&bytes, tail].concat();
    for (tail, content, good, offset) in [
        ("cut by a byte", cut(1), 2, last),
        ("cut in the middle", cut(700), 2, last),
        ("zeros", with(&[0; 100]), 3, end as u64),
        ("words", with(b"and so on"), 3, end as u64),
        ("a length without an end", with(b"77777777777777777777"), 3, end as u64),
        ("half a flow", with(&bytes[..300]), 3, end as u64),
    ] {
        home.write("broken", &content);
        let said = refused(&home, &["-nr", "broken", "-w", "saved"], &["broken"]);
        assert_eq!(lines_with(&said, "<< "), good, "{tail}: {said}");
        assert!(said.contains(&offset.to_string()), "{tail}: no {offset} in {said}");
        let saved = home.run(&["-nr", "saved"]);
        assert_eq!(saved.code, Some(0), "{tail}: {saved:?}");
        assert_eq!(lines_with(&saved.stdout, "<< "), good, "{tail}: {}", saved.stdout);
    }
}

#[test]
fn a_server_that_refuses() {
    if external("curl").is_none() {
        return;
    }
    let home = Home::new();
    let (address, _bound) = net::refusing();
    let proxy = home.start(&["-w", "flows"]);
    let (code, page) = status(&home, &proxy, &[&format!("http://{address}/")]);
    assert_eq!(code, 502, "{page}");
    for word in [&*address.to_string(), "refused"] {
        assert!(page.contains(word), "no {word} in {page}");
    }
    // within a tunnel the CONNECT is answered so
    let mut client = curl(&home, &proxy).unwrap();
    let ended = run(client.arg(format!("https://{address}/")));
    assert_eq!(ended.code, Some(56), "{ended:?}");
    assert!(ended.stderr.contains("502"), "{ended:?}");
    // a name that nobody has
    let (code, page) = status(&home, &proxy, &["http://no-such-host.invalid/"]);
    assert_eq!(code, 502, "{page}");
    assert!(page.contains("no-such-host.invalid"), "{page}");
    proxy.finish();
    let again = home.run(&["-nr", "flows"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(lines_with(&again.stdout, "GET "), 2, "{}", again.stdout);
    assert_eq!(lines_with(&again.stdout, "refused"), 1, "{}", again.stdout);
}

/// The only flow of the file, as error and content of request and response.
fn only_flow(home: &Home) -> (Option<String>, [Vec<u8>; 2]) {
    let mut reader = FlowReader::open(home.path("flows")).unwrap();
    let flow = reader.next_record().unwrap().expect("a flow").into_flow().unwrap();
    assert!(reader.next_record().unwrap().is_none(), "another flow");
    let request = flow.request().map(|request| request.get().body);
    let response = flow.response().map(|response| response.get().body);
    let content = [request, response]
        .map(|body| body.and_then(|body| body.bytes().unwrap()).unwrap_or_default().to_vec());
    (flow.error().map(|error| error.msg.to_string()), content)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_within_a_body() {
    if external("curl").is_none() {
        return;
    }
    for (framing, body) in [
        ("Content-Length: 100", "the beginning"),
        ("Transfer-Encoding: chunked", "d\r\nthe beginning\r\n"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
        let origin = RawServer::answering_once(answer).await;
        let url = format!("http://{}/", origin.address());

        // the client sees what the server did
        let home = Home::new();
        let proxy = home.start(&["-w", "flows"]);
        let ended = run(curl(&home, &proxy).unwrap().arg(&url));
        assert_eq!((ended.code, &*ended.stdout), (Some(18), "the beginning"), "{ended:?}");
        proxy.finish();
        let (error, [_, kept]) = only_flow(&home);
        assert!(error.is_some(), "{framing}");
        assert_eq!(kept, b"the beginning", "{framing}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none() {
    let home = Home::new();
    let origin = RawServer::answering_once("HTTP/1.1 twohundred OK\r\n\r\n").await;
    let proxy = home.start(&["-w", "flows"]);
    let mut client = RawClient::connect(proxy.address).await;
    let answer = client.request("GET / HTTP/1.1\r\nBad header: x\r\n\r\n").await;
    assert_eq!(answer.status(), 400, "{answer:?}");
    let mut client = RawClient::connect(proxy.address).await;
    let request = format!("GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address());
    let answer = client.request(request).await;
    assert_eq!(answer.status(), 502, "{answer:?}");
    drop(client);
    tokio::task::spawn_blocking(|| proxy.finish()).await.unwrap();
    let (error, _) = only_flow(&home);
    assert!(error.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_within_a_body() {
    let home = Home::new();
    let origin = RawServer::start(|_| vec![Step::End]).await;
    let proxy = home.start(&["-w", "flows"]);
    let mut client = RawClient::connect(proxy.address).await;
    let host = origin.address();
    let request =
        format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nbegun");
    client.send(request).await;
    mitm_testkit::wait::until("the beginning is forwarded", || {
        origin.received().first().is_some_and(|bytes| bytes.ends_with(b"begun"))
    })
    .await;
    client.reset();
    let proxy = tokio::task::spawn_blocking(move || {
        proxy.wait_for_log("client disconnect");
        proxy
    })
    .await
    .unwrap();
    tokio::task::spawn_blocking(|| proxy.finish()).await.unwrap();
    let (error, [kept, _]) = only_flow(&home);
    assert!(error.is_some());
    assert_eq!(kept, b"begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_within_an_upload() {
    let home = Home::new();
    let origin = RawServer::start(|_| vec![Step::Bytes(70), Step::Reset]).await;
    let proxy = home.start(&["-w", "flows"]);
    let mut client = RawClient::connect(proxy.address).await;
    let host = origin.address();
    let head =
        format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\n");
    let answer = client.request(head + &"begun ".repeat(10)).await;
    assert_eq!(answer.status(), 502, "{answer:?}");
    tokio::task::spawn_blocking(|| proxy.finish()).await.unwrap();
    let (error, [kept, _]) = only_flow(&home);
    assert!(error.is_some());
    assert_eq!(String::from_utf8(kept).unwrap(), "begun ".repeat(10));
}

#[test]
fn a_full_disk_stops_the_recording_only() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let proxy = home.start(&["-w", "/dev/full"]);
    // the first is served while the authority is still being made
    let first = run(curl(&home, &proxy).unwrap().arg(nginx.http_url("/")));
    assert_eq!((first.code, &*first.stdout), (Some(0), HELLO), "{first:?} {proxy:?}");
    for path in ["/large", "/", "/large", "/"] {
        let body = fetch(&home, &proxy, &[&nginx.http_url(path)]);
        assert!(body == HELLO || body.len() == 1 << 20);
    }
    proxy.wait_for_log("/dev/full");
    let ended = proxy.stop(Signal::SIGINT);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(lines_with(&ended.stdout, "<< 200 OK"), 5, "{ended:?}");
    // said once, not for each flow
    assert_eq!(lines_with(&ended.stdout, "/dev/full"), 1, "{ended:?}");
}

/// A proxy for which files can have 8192 blocks (of 512 bytes or of 1 KiB): what it writes beyond fails.
fn with_little_room(home: &Home, words: &[&str]) -> Proxy {
    let proxy = home.proxy(words);
    let mut command = home.command("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$@\"", "sh"]);
    Proxy::spawn(command.arg(proxy.get_program()).args(proxy.get_args()))
}

#[test]
fn a_recording_that_has_no_more_room_ends_with_a_whole_flow() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let home = Home::new();
    let proxy = with_little_room(&home, &["-w", "flows"]);
    for _ in 0..12 {
        assert_eq!(fetch(&home, &proxy, &[&nginx.http_url("/large")]).len(), 1 << 20);
    }
    proxy.wait_for_log("Error while writing to flows");
    let ended = proxy.stop(Signal::SIGINT);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(lines_with(&ended.stdout, "<< 200 OK"), 12, "{ended:?}");
    let again = home.run(&["-nr", "flows"]);
    assert_eq!((again.code, &*again.stderr), (Some(0), ""), "{}", again.stdout);
    let flows = lines_with(&again.stdout, "<< 200 OK 1.0m");
    assert!((3..=7).contains(&flows), "{}", again.stdout);
}

#[test]
fn bodies_that_cannot_be_stored_are_forwarded_and_missing() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    let big = vec![b'b'; 32 << 20];
    fs::write(nginx.root().join("big"), &big).unwrap();
    let home = Home::new();
    let proxy = with_little_room(&home, &["-w", "flows"]);
    for (path, len) in [("/", HELLO.len()), ("/big", big.len()), ("/", HELLO.len())] {
        assert_eq!(fetch(&home, &proxy, &[&nginx.http_url(path)]).len(), len, "{proxy:?}");
    }
    let ended = proxy.stop(Signal::SIGINT);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(lines_with(&ended.stdout, "Cannot store large bodies"), 1, "{ended:?}");
    let again = home.run(&["-nr", "flows"]);
    assert_eq!((again.code, &*again.stderr), (Some(0), ""), "{}", again.stdout);
    assert_eq!(lines_with(&again.stdout, "<< 200 OK 17b"), 2, "{}", again.stdout);
    assert_eq!(lines_with(&again.stdout, "<< 200 OK (content missing)"), 1, "{}", again.stdout);
}

fn proxy_and_flow(home: &Home, nginx: &Nginx) -> Proxy {
    let proxy = home.start(&["-w", "flows"]);
    fetch(home, &proxy, &[&nginx.http_url("/")]);
    proxy
}

#[test]
fn signals_end_it_with_the_file_complete() {
    let (Some(nginx), Some(_)) = (Nginx::start(), external("curl")) else { return };
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let home = Home::new();
        let ended = proxy_and_flow(&home, &nginx).stop(signal);
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{signal}: {ended:?}");
        assert_eq!(only_flow(&home), (None, [Vec::new(), HELLO.as_bytes().to_vec()]), "{signal}");
    }
    // even at once nothing is lost that had ended a moment before
    let home = Home::new();
    let proxy = proxy_and_flow(&home, &nginx);
    std::thread::sleep(Duration::from_millis(500));
    proxy.stop(Signal::SIGKILL);
    assert_eq!(only_flow(&home), (None, [Vec::new(), HELLO.as_bytes().to_vec()]));
}
