//! Modes that change while the proxy runs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mitm_addon::{Master, testing};
use mitm_addons::ProxyServer;
use mitm_testkit::{
    RawClient, RawServer,
    net::free_port,
    wait::{until, within},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const NO: &str = "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n";

fn listening(master: &Master) -> Vec<SocketAddr> {
    master.proxy().listening()
}

/// Sets options and waits until the proxy listens at this many addresses.
async fn set(master: &Master, specs: &[&str], count: usize) -> Vec<SocketAddr> {
    let before = listening(master);
    testing::set(master, specs).unwrap();
    let what = format!("{specs:?} is in force");
    until(&what, || listening(master).len() == count && listening(master) != before).await;
    listening(master)
}

async fn answers(client: &mut RawClient, target: &str) -> bool {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n\r\n");
    client.request(request).await.content() == b"hello"
}

async fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}

#[tokio::test]
async fn modes_change_while_clients_stay() {
    let origin = RawServer::answering(OK).await;
    let url = format!("http://{}/", origin.address());
    let reverse = format!("mode=reverse:http://{}@127.0.0.1:0", origin.address());
    let master = testing::master_with(Arc::new(ProxyServer::default())).unwrap();
    testing::set(&master, &["mode=regular@127.0.0.1:0"]).unwrap();
    let runs = tokio::spawn({
        let master = master.clone();
        async move { master.run(|| None).await }
    });
    until("it runs", || master.is_running()).await;
    let [regular] = listening(&master)[..] else { panic!("one mode") };
    let mut stays = RawClient::connect(regular).await;
    assert!(answers(&mut stays, &url).await);

    // Two others take its place. Who is connected is served on, and by the mode that was asked.
    let addresses = set(&master, &["mode=socks5@127.0.0.1:0", &reverse], 2).await;
    let [socks, reversed] = addresses[..] else { panic!("two modes") };
    assert!(is_closed(regular).await);
    assert!(answers(&mut stays, &url).await);
    let mut client = RawClient::connect(reversed).await;
    assert!(answers(&mut client, "/").await);
    let mut client = RawClient::connect(socks).await;
    client.send(b"\x05\x01\x00").await;
    assert_eq!(client.read_exactly(2).await, b"\x05\x00");
    let port = origin.port().to_be_bytes();
    client.send([&b"\x05\x01\x00\x01\x7f\x00\x00\x01"[..], &port].concat()).await;
    assert_eq!(client.read_exactly(10).await[..2], *b"\x05\x00");
    assert!(answers(&mut client, "/").await);

    // What is still asked for stays where it is.
    let addresses = set(&master, &[&reverse, "mode=regular@127.0.0.1:0"], 2).await;
    assert_eq!(addresses[0], reversed);
    assert!(is_closed(socks).await && answers(&mut client, "/").await);

    // A mistake changes nothing.
    let twice = format!("{reverse}0");
    for specs in [&["mode=bogus"][..], &["mode=regular@1", "mode=socks5@1"], &[&twice, "mode="]] {
        testing::set(&master, specs).unwrap_err();
    }
    assert_eq!(listening(&master), addresses);

    // A port that is taken keeps that mode from listening, and no other.
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let wants = format!("mode=socks5@{}", taken.local_addr().unwrap());
    assert_eq!(set(&master, &[&wants, &reverse], 1).await, [reversed]);
    assert!(answers(&mut RawClient::connect(reversed).await, "/").await);

    // Turned off and on again, it asks for a port once more.
    assert_eq!(set(&master, &["server=false"], 0).await, []);
    assert!(is_closed(reversed).await);
    drop(taken);
    assert_eq!(set(&master, &["server=true"], 2).await.len(), 2);

    master.shutdown();
    assert_eq!(within("the run ends", runs).await.unwrap(), 0);
    assert_eq!(listening(&master), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_changes_holds() {
    let origins = [RawServer::answering(OK).await, RawServer::answering(NO).await];
    let port = free_port();
    let regular = format!("mode=regular@127.0.0.1:{port}");
    // They want the same port: one has to be gone before the next comes.
    let reverse = origins
        .each_ref()
        .map(|origin| format!("mode=reverse:http://{}@127.0.0.1:{port}", origin.address()));
    let master = testing::master_with(Arc::new(ProxyServer::default())).unwrap();
    testing::set(&master, &[&regular]).unwrap();
    let runs = tokio::spawn({
        let master = master.clone();
        async move { master.run(|| None).await }
    });
    until("it runs", || master.is_running()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    for turn in 0..200 {
        let (mode, answer) = if turn % 2 == 0 { (&reverse[0], OK) } else { (&reverse[1], NO) };
        testing::set(&master, &[&regular]).unwrap();
        // At any point of what the first has to do.
        (0..turn * 40).for_each(|_| std::hint::spin_loop());
        testing::set(&master, &[mode]).unwrap();
        let holds = async {
            loop {
                if listening(&master) == [address]
                    && let Ok(mut stream) = TcpStream::connect(address).await
                    && stream.write_all(b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").await.is_ok()
                {
                    let mut start = [0; 12];
                    let read = stream.read_exact(&mut start).await;
                    if read.is_ok() && start == answer.as_bytes()[..12] {
                        return;
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        within("the last mode is in force", holds).await;
    }
    master.shutdown();
    assert_eq!(within("the run ends", runs).await.unwrap(), 0);
}
