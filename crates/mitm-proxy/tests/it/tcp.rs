//! Raw TCP: messages, hooks, ends, injection; TLS around it and in mid-stream.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use mitm_flow::{FlowKind, FlowRef, spill::SpillStore, websocket::StreamMessage};
use mitm_proxy::{Event, Hook, HookSet, Settings, hooks::Need, hosts::HostList};
use mitm_testkit::{
    RawClient, RawServer,
    Step::{Bytes as Received, Close, End, Finish, Send},
    net, tls,
    wait::{until, within},
};
use mitm_tls::Verification;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::harness::{Proxied, Setup};

/// A reverse proxy for raw TCP, and whose messages are kept.
fn reverse(origin: SocketAddr) -> Setup {
    Setup { mode: format!("reverse:tcp://{origin}"), ..Setup::needing(Need::Tee) }
}

/// The messages of a flow: from whom, and what.
fn messages(flow: &FlowRef) -> Vec<(bool, Bytes)> {
    let read = |message: &StreamMessage| {
        (message.from_client, message.content.bytes().unwrap().unwrap_or_default())
    };
    flow.messages().iter().map(|message| message.with(read)).collect()
}

fn texts(flow: &FlowRef) -> Vec<String> {
    let text = |(from_client, content): (bool, Bytes)| {
        let arrow = if from_client { "->" } else { "<-" };
        format!("{arrow} {}", content.escape_ascii())
    };
    messages(flow).into_iter().map(text).collect()
}

fn is_end(name: &str) -> bool {
    matches!(name, "tcp_end" | "tcp_error")
}

/// Waits until the flow is over, which is told exactly once, and returns by which hook.
async fn end_of_flow(proxy: &Proxied) -> String {
    until("the end of the flow", || proxy.hooks().iter().any(|name| is_end(name))).await;
    proxy.wait_for_hook(Hook::ClientDisconnected).await;
    let mut ends: Vec<String> = proxy.hooks().into_iter().filter(|name| is_end(name)).collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    ends.remove(0)
}

#[tokio::test]
async fn messages_are_recorded_and_can_be_changed() {
    let origin = RawServer::start(|_| vec![Received(4), Send("answer".into()), End]).await;
    let setup = reverse(origin.address());
    let react = |event: &Event| {
        if let Event::TcpMessage(flow) = event {
            let message = flow.last_message().unwrap();
            message.update(|message| {
                if message.content.in_memory().is_some_and(|content| content == "question") {
                    message.content = Bytes::from_static(b"why?").into();
                } else if !message.from_client {
                    message.content = Bytes::from_static(b"because").into();
                }
            });
        }
    };
    let proxy = Setup { react: Box::new(react), ..setup }.start().await;
    let mut client = proxy.client().await;
    client.send("question").await;
    assert_eq!(client.read_exactly(7).await, b"because");
    client.finish().await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(end_of_flow(&proxy).await, "tcp_end");
    assert_eq!(origin.received(), [b"why?"]);
    let flow = proxy.flow(0);
    assert_eq!(texts(&flow), ["-> why?", "<- because"]);
    assert_eq!(flow.kind(), FlowKind::Tcp);
    assert!(!flow.is_live() && flow.error().is_none());
    let server = flow.server().get();
    assert_eq!(server.peername.unwrap().port, origin.port());
    assert!(server.timestamp_end.is_some());
}

#[tokio::test]
async fn an_empty_message_is_not_sent() {
    let origin = RawServer::start(|_| vec![Received(2), Close]).await;
    let react = |event: &Event| {
        if let Event::TcpMessage(flow) = event {
            flow.last_message().unwrap().update(|message| {
                if message.content.in_memory().is_some_and(|content| content == "secret") {
                    message.content = Bytes::new().into();
                }
            });
        }
    };
    let proxy = Setup { react: Box::new(react), ..reverse(origin.address()) }.start().await;
    let mut client = proxy.client().await;
    client.send("secret").await;
    until("the message", || proxy.flows() > 0 && texts(&proxy.flow(0)).len() == 1).await;
    client.send("ok").await;
    assert_eq!(client.read_to_end().await, b"");
    assert_eq!(origin.received(), [b"ok"]);
}

#[tokio::test]
async fn one_side_may_end_before_the_other() {
    for wanted in [HookSet::ALL, HookSet::NONE] {
        let script = |_| vec![End, Send("late ".into()), Send("answer".into()), Close];
        let origin = RawServer::start(script).await;
        let proxy = Setup { wanted, ..reverse(origin.address()) }.start().await;
        let mut client = proxy.client().await;
        client.send("all there is").await;
        client.finish().await;
        assert_eq!(within("the answer", client.read_to_end()).await, b"late answer");
        assert_eq!(origin.received(), [b"all there is"]);

        let origin = RawServer::start(|_| vec![Send("bye".into()), Finish, End]).await;
        let proxy = Setup { wanted, ..reverse(origin.address()) }.start().await;
        let mut client = proxy.client().await;
        assert_eq!(within("the end", client.read_to_end()).await, b"bye");
        client.send("still here").await;
        client.finish().await;
        until("the rest", || origin.received()[0] == b"still here").await;
    }
}

#[tokio::test]
async fn a_client_that_only_listens_is_served() {
    let origin = RawServer::start(|_| vec![End, Send("the time".into()), Close]).await;
    let proxy = reverse(origin.address()).start().await;
    let mut client = proxy.client().await;
    client.finish().await;
    assert_eq!(within("the answer", client.read_to_end()).await, b"the time");
    assert_eq!(texts(&proxy.flow(0)), ["<- the time"]);
}

#[tokio::test]
async fn a_kill_ends_both_connections_and_sends_nothing() {
    let origin = RawServer::start(|_| vec![Received(5), Send("again".into()), End]).await;
    let react = |event: &Event| {
        if let Event::TcpMessage(flow) = event
            && !flow.last_message().unwrap().with(|message| message.from_client)
        {
            flow.kill().unwrap();
        }
    };
    let proxy = Setup { react: Box::new(react), ..reverse(origin.address()) }.start().await;
    let mut client = proxy.client().await;
    client.send("hello").await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(end_of_flow(&proxy).await, "tcp_error");
    assert_eq!(&*proxy.flow(0).error().unwrap().msg, "Connection killed.");
    until("the origin's end", || origin.open_connections() == 0).await;
}

#[tokio::test]
async fn a_kill_from_outside_ends_a_quiet_conversation() {
    let origin = RawServer::start(|_| vec![Received(5), End]).await;
    let proxy = reverse(origin.address()).start().await;
    let mut client = proxy.client().await;
    client.send("hello").await;
    until("the message", || origin.received().first().is_some_and(|bytes| bytes == b"hello")).await;
    proxy.flow(0).kill().unwrap();
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(end_of_flow(&proxy).await, "tcp_error");
}

#[tokio::test]
async fn an_intercepted_message_waits_for_however_long() {
    let origin = RawServer::start(|_| vec![Received(5), Send("there".into()), End]).await;
    let react = |event: &Event| {
        if let Event::TcpMessage(flow) = event {
            flow.intercept();
        }
    };
    let settings = Settings { idle_timeout: Duration::from_millis(300), ..Settings::default() };
    let setup = reverse(origin.address());
    let proxy = Setup { settings, react: Box::new(react), ..setup }.start().await;
    let mut client = proxy.client().await;
    client.send("hello").await;
    until("the interception", || proxy.flows() > 0 && proxy.flow(0).is_intercepted()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(origin.received(), [b""]);
    let flow = proxy.flow(0);
    flow.last_message().unwrap().update(|message| message.content = Bytes::from("HELLO").into());
    flow.resume();
    until("the answer", || flow.is_intercepted()).await;
    assert_eq!(origin.received(), [b"HELLO"]);
    flow.resume();
    assert_eq!(client.read_exactly(5).await, b"there");
    // Now it is quiet, and that is an end.
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(end_of_flow(&proxy).await, "tcp_end");
}

#[tokio::test]
async fn messages_are_injected_in_both_directions() {
    let origin = RawServer::start(|_| vec![Received(9), End]).await;
    let react = |event: &Event| {
        if let Event::TcpMessage(flow) = event {
            flow.last_message().unwrap().update(|message| {
                let content = message.content.bytes().unwrap().unwrap();
                message.content = content.to_ascii_uppercase().into();
            });
        }
    };
    let proxy = Setup { react: Box::new(react), ..reverse(origin.address()) }.start().await;
    let mut client = proxy.client().await;
    client.send("one ").await;
    until("the first", || origin.received().first().is_some_and(|bytes| bytes == b"ONE ")).await;
    let flow = proxy.flow(0);
    proxy.proxy.inject_tcp(&flow, false, Bytes::from_static(b"two, ")).unwrap();
    until("the second", || origin.received()[0] == b"ONE TWO, ").await;
    proxy.proxy.inject_tcp(&flow, true, Bytes::from_static(b"three")).unwrap();
    assert_eq!(client.read_exactly(5).await, b"THREE");
    assert_eq!(texts(&flow), ["-> ONE ", "-> TWO, ", "<- THREE"]);
    client.finish().await;
    end_of_flow(&proxy).await;
    assert!(proxy.proxy.inject_tcp(&flow, true, Bytes::from_static(b"late")).is_err());
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_an_error_of_the_flow() {
    let (address, _socket) = net::refusing();
    let settings = Settings { eager: false, ..Settings::default() };
    let proxy = Setup { settings, ..reverse(address) }.start().await;
    let mut client = proxy.client().await;
    client.send("hello?").await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(end_of_flow(&proxy).await, "tcp_error");
    let error = proxy.flow(0).error().unwrap();
    assert!(error.msg.contains(&address.to_string()), "{error:?}");
    assert_eq!(
        proxy.hooks(),
        [
            "client_connected",
            "next_layer",
            "tcp_start",
            "server_connect",
            "server_connect_error",
            "tcp_error",
            "client_disconnected"
        ]
    );
}

#[tokio::test]
async fn large_conversations_are_whole_and_do_not_stay_in_memory() {
    const LEN: usize = 8 << 20;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    SpillStore::set_global(SpillStore::open(dir.path()).unwrap());
    let data: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
    let answer = data.clone();
    let origin = RawServer::start(move |_| vec![Received(LEN), Send(answer.clone()), Close]).await;
    let proxy = reverse(origin.address()).start().await;
    let mut client = proxy.client().await;
    client.send(&data).await;
    assert!(within("the answer", client.read_to_end()).await == data);
    client.finish().await;
    assert_eq!(end_of_flow(&proxy).await, "tcp_end");
    assert!(origin.received() == [data.clone()]);
    let flow = proxy.flow(0);
    let memory: usize = flow
        .messages()
        .iter()
        .filter_map(|message| message.get().content.in_memory().map(Bytes::len))
        .sum();
    assert!(memory <= (1 << 20) + 65_535, "{memory} bytes are in memory");
    for side in [true, false] {
        let parts = messages(&flow).into_iter().filter(|(from_client, _)| *from_client == side);
        let parts: Vec<Bytes> = parts.map(|(_, content)| content).collect();
        assert!(parts.iter().all(|part| (1..=65_535).contains(&part.len())));
        assert!(parts.concat() == data);
    }
}

#[tokio::test]
async fn nobody_keeps_what_nobody_reads() {
    let origin = RawServer::start(|_| vec![Received(6), End]).await;
    let setup = Setup { need: Need::Nothing, ..reverse(origin.address()) };
    let proxy = setup.start().await;
    let mut client = proxy.client().await;
    client.send("one").await;
    until("the first", || origin.received().first().is_some_and(|bytes| bytes == b"one")).await;
    client.send("two").await;
    until("the second", || origin.received()[0] == b"onetwo").await;
    assert_eq!(texts(&proxy.flow(0)), ["-> two"]);
}

/// A client that does not read is still heard, and so is a server.
#[tokio::test]
async fn a_direction_that_is_stuck_does_not_stop_the_other() {
    let origin = RawServer::start(|_| vec![Received(2), Send(vec![7; 32 << 20]), End]).await;
    let proxy = Setup { need: Need::Nothing, ..reverse(origin.address()) }.start().await;
    let mut client = proxy.client().await;
    client.send("go").await;
    client.read_exactly(1).await;
    client.send(" stop").await;
    until("the request to stop", || origin.received()[0] == b"go stop").await;
}

#[tokio::test]
async fn a_reset_ends_the_conversation() {
    let origin = RawServer::start(|_| vec![Received(2), End]).await;
    let proxy = reverse(origin.address()).start().await;
    let mut client = proxy.client().await;
    client.send("go").await;
    until("the message", || origin.received().first().is_some_and(|bytes| bytes == b"go")).await;
    client.reset();
    assert_eq!(end_of_flow(&proxy).await, "tcp_end");
    until("the origin's end", || origin.open_connections() == 0).await;
}

#[tokio::test]
async fn hosts_of_raw_tcp_are_not_read_as_http() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        vec![Received(4), Send("anything".into()), End]
    })
    .await;
    let tcp_hosts = HostList::new(&[r"^origin\.TEST$"]).unwrap();
    let settings = Settings { tcp_hosts, ..Settings::default() };
    let proxy = Setup { settings, ..Setup::needing(Need::Tee) }.start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    let mut client = proxy.client().await;
    client.tunnel(&origin.address().to_string()).await.unwrap();
    let mut client = client.start_tls(tls::client_config(&pem, &[]), "origin.test").await.unwrap();
    client.send("GET ").await;
    assert_eq!(client.read_exactly(8).await, b"anything");
    assert_eq!(texts(&proxy.flow(1)), ["-> GET ", "<- anything"]);
    assert!(proxy.flow(1).server().with(|server| server.tls));
}

#[tokio::test]
async fn reverse_tls_ends_what_the_client_sends_and_begins_what_the_server_wants() {
    let identity = tls::self_signed(&["127.0.0.1"]);
    let origin = RawServer::start_tls(identity.server_config(&[]), |_| {
        vec![Send("* OK\r\n".into()), Received(4), Send("pong".into()), End]
    })
    .await;
    let mode = format!("reverse:tls://{}", origin.address());
    let proxy = Setup { mode, ..Setup::needing(Need::Tee) }.start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    // The server's greeting comes to a plain client that says nothing, and to one that begins with TLS.
    for (number, begins_tls) in [false, true].into_iter().enumerate() {
        let mut client = proxy.client().await;
        if begins_tls {
            let config = tls::client_config(&pem, &[]);
            client = client.start_tls(config, "127.0.0.1").await.unwrap();
        }
        assert_eq!(within("the greeting", client.read_exactly(6)).await, b"* OK\r\n");
        client.send("ping").await;
        assert_eq!(client.read_exactly(4).await, b"pong");
        assert_eq!(texts(&proxy.flow(number)), ["<- * OK\\r\\n", "-> ping", "<- pong"]);
    }
    assert_eq!(origin.connections(), 2);
}

/// As IMAP over TLS does. The second connection meets whatever was remembered of the first.
#[tokio::test]
async fn a_server_that_speaks_first_inside_of_tls_is_heard_each_time() {
    let identity = tls::self_signed(&["origin.test"]);
    let origin =
        RawServer::start_tls(identity.server_config(&[]), |_| vec![Send("* OK\r\n".into()), End])
            .await;
    for wanted in [HookSet::ALL, HookSet::NONE] {
        let proxy = Setup { wanted, ..Setup::needing(Need::Tee) }.start().await;
        let dir = tempfile::tempdir().unwrap();
        let pem = proxy.set_tls(dir.path(), Verification::Insecure);
        for _ in 0..3 {
            let mut client = proxy.client().await;
            client.tunnel(&origin.address().to_string()).await.unwrap();
            let config = tls::client_config(&pem, &[]);
            let mut client = client.start_tls(config, "origin.test").await.unwrap();
            assert_eq!(within("the greeting", client.read_exactly(6)).await, b"* OK\r\n");
        }
    }
}

#[tokio::test]
async fn without_raw_tcp_everything_is_http() {
    let settings = Settings { rawtcp: false, ..Settings::default() };
    let origin = RawServer::start(|_| vec![End]).await;
    let proxy = Setup { settings, ..Setup::default() }.start().await;
    let mut client = proxy.client().await;
    client.tunnel(&origin.address().to_string()).await.unwrap();
    client.send("\0\x01\x02\x03\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 400);
    assert!(!proxy.hooks().contains(&"tcp_start".to_owned()));
}

async fn switching(settings: Settings) -> (Proxied, RawServer, RawClient) {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let origin = RawServer::start(move |_| {
        use mitm_testkit::Step::Request;
        vec![Request, Send([switch, "hi"].concat().into()), End]
    })
    .await;
    let proxy = Setup { settings, ..Setup::needing(Need::Tee) }.start().await;
    let mut client = proxy.client().await;
    let to = origin.address();
    client
        .send(format!(
            "GET http://{to}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        ))
        .await;
    (proxy, origin, client)
}

#[tokio::test]
async fn an_unknown_protocol_after_an_upgrade_is_raw_tcp() {
    let (proxy, origin, mut client) = switching(Settings::default()).await;
    client.read_until(b"\r\n\r\n").await;
    assert_eq!(client.read_exactly(2).await, b"hi");
    client.send("there").await;
    until("the message", || origin.received()[0].ends_with(b"there")).await;
    client.finish().await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    assert_eq!(end_of_flow(&proxy).await, "tcp_end");
    assert_eq!(texts(&proxy.flow(1)), ["<- hi", "-> there"]);
    assert!(!proxy.flow(0).is_live());
}

#[tokio::test]
async fn an_unknown_protocol_after_an_upgrade_is_refused_without_raw_tcp() {
    let settings = Settings { rawtcp: false, ..Settings::default() };
    let (proxy, origin, mut client) = switching(settings).await;
    client.read_until(b"\r\n\r\n").await;
    assert_eq!(within("the end", client.read_to_end()).await, b"");
    until("the origin's end", || origin.open_connections() == 0).await;
    assert!(!proxy.hooks().contains(&"tcp_start".to_owned()));
}

/// Speaks something like SMTP; returns the lines that came, those after STARTTLS in TLS.
async fn mail_server(names: &[&str]) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let acceptor = TlsAcceptor::from(tls::self_signed(names).server_config(&[]));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"220 mail\r\n").await.unwrap();
        let mut lines = vec![String::new(), String::new()];
        let mut plain = BufReader::new(tcp);
        plain.read_line(&mut lines[0]).await.unwrap();
        plain.write_all(b"220 go ahead\r\n").await.unwrap();
        let mut inner = BufReader::new(acceptor.accept(plain.into_inner()).await.unwrap());
        inner.read_line(&mut lines[1]).await.unwrap();
        inner.write_all(b"250 at your service\r\n").await.unwrap();
        inner.flush().await.unwrap();
        // Its end is the client's.
        let _ = inner.read_line(&mut String::new()).await;
        lines
    });
    (address, serving)
}

async fn start_tls_in_mid_stream(
    setup: Setup,
    through_tunnel: bool,
    server: SocketAddr,
) -> Proxied {
    let proxy = setup.start().await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    let mut client = proxy.client().await;
    if through_tunnel {
        client.tunnel(&server.to_string()).await.unwrap();
    }
    assert_eq!(client.read_until(b"\r\n").await, b"220 mail\r\n");
    client.send("STARTTLS\r\n").await;
    assert_eq!(client.read_until(b"\r\n").await, b"220 go ahead\r\n");
    let config = tls::client_config(&pem, &[]);
    let mut client = client.start_tls(config, "mail.test").await.unwrap();
    client.send("EHLO client\r\n").await;
    assert_eq!(client.read_until(b"\r\n").await, b"250 at your service\r\n");
    proxy
}

#[tokio::test]
async fn tls_in_mid_stream_is_intercepted() {
    for eager in [true, false] {
        let (server, serving) = mail_server(&["mail.test"]).await;
        let mut setup = Setup::needing(Need::Tee);
        // Without the server's greeting there is no such protocol, so the connection must be there.
        setup.settings.eager = true;
        if !eager {
            setup.mode = format!("reverse:tcp://{server}");
        }
        let proxy = start_tls_in_mid_stream(setup, eager, server).await;
        let lines = within("the server's end", serving).await.unwrap();
        assert_eq!(lines, ["STARTTLS\r\n", "EHLO client\r\n"]);
        let first = usize::from(eager);
        let (plain, inner) = (proxy.flow(first), proxy.flow(first + 1));
        assert_eq!(
            texts(&plain),
            ["<- 220 mail\\r\\n", "-> STARTTLS\\r\\n", "<- 220 go ahead\\r\\n"]
        );
        assert_eq!(texts(&inner), ["-> EHLO client\\r\\n", "<- 250 at your service\\r\\n"]);
        assert!(inner.server().with(|server| server.tls));
        let hooks = proxy.hooks();
        assert_eq!(hooks.iter().filter(|name| *name == "server_connect").count(), 1, "{hooks:?}");
        let from = hooks.iter().position(|name| name == "tcp_start").unwrap();
        assert_eq!(
            hooks[from..from + 15],
            [
                "tcp_start",
                "tcp_message",
                "tcp_message",
                "tcp_message",
                "tcp_end",
                "next_layer",
                "tls_clienthello",
                "tls_start_server",
                "tls_established_server",
                "tls_start_client",
                "tls_established_client",
                "next_layer",
                "tcp_start",
                "tcp_message",
                "tcp_message",
            ]
        );
    }
}

#[tokio::test]
async fn what_only_looks_like_tls_in_mid_stream_is_a_message() {
    let origin = RawServer::start(|_| vec![Received(7), Send("?".into()), End]).await;
    let proxy = reverse(origin.address()).start().await;
    let mut client = proxy.client().await;
    client.send("a").await;
    until("the first", || origin.received().first().is_some_and(|bytes| bytes == b"a")).await;
    // The beginning of a hello that does not go on.
    client.send(b"\x16\x03\x01\x00\x40\x01").await;
    assert_eq!(within("the answer", client.read_exactly(1)).await, b"?");
    client.send(b"\x16\x03\x01\x00\x02\x01\x00 no hello").await;
    until("the last", || origin.received()[0].ends_with(b" no hello")).await;
    assert_eq!(texts(&proxy.flow(0)).len(), 4);
}

/// `ClientHello`s of clients with large key shares come in several packets.
#[tokio::test]
async fn a_hello_in_pieces_is_one() {
    let (server, serving) = mail_server(&["mail.test"]).await;
    let proxy = Setup { mode: format!("reverse:tcp://{server}"), ..Setup::needing(Need::Tee) }
        .start()
        .await;
    let dir = tempfile::tempdir().unwrap();
    let pem = proxy.set_tls(dir.path(), Verification::Insecure);
    // Between the client and the proxy: passes the hello in two pieces.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let between = listener.local_addr().unwrap();
    let to = proxy.address;
    let passing = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let proxy = tokio::net::TcpStream::connect(to).await.unwrap();
        proxy.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_proxy, mut to_proxy) = proxy.into_split();
        let down = async { tokio::io::copy(&mut from_proxy, &mut to_client).await };
        let up = async {
            let mut buffer = vec![0; 16 << 10];
            loop {
                let read = tokio::io::AsyncReadExt::read(&mut from_client, &mut buffer).await?;
                if read == 0 {
                    return to_proxy.shutdown().await;
                }
                for piece in buffer[..read].chunks(100) {
                    to_proxy.write_all(piece).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let _ = tokio::join!(down, up);
    });
    let mut client = RawClient::connect(between).await;
    assert_eq!(client.read_until(b"\r\n").await, b"220 mail\r\n");
    client.send("STARTTLS\r\n").await;
    assert_eq!(client.read_until(b"\r\n").await, b"220 go ahead\r\n");
    let config: Arc<_> = tls::client_config(&pem, &[]);
    let mut client = client.start_tls(config, "mail.test").await.unwrap();
    client.send("EHLO client\r\n").await;
    assert_eq!(client.read_until(b"\r\n").await, b"250 at your service\r\n");
    drop(client);
    within("the server's end", serving).await.unwrap();
    within("the end of the way", passing).await.unwrap();
    assert_eq!(proxy.flows(), 2);
}
