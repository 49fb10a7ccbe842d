//! One exchange: a client on a pipe in memory, an origin on loopback that answers at once.

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use divan::{Bencher, counter::ItemsCount};
use mitm_proxy::{
    Mode, Proxy, Settings,
    hooks::NoHooks,
    io::{Io, split},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

fn main() {
    divan::main();
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: application/json\r\n\
    Content-Length: 28\r\nConnection: keep-alive\r\n\r\n{\"hello\":\"world\",\"n\":123456}";

/// Answers every read with the same response: requests here come one at a time, in one piece.
async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buf = [0; 4096];
                while matches!(stream.read(&mut buf).await, Ok(1..)) {
                    if stream.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[divan::bench]
fn keep_alive_get(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().expect("a runtime");
    let (mut reader, mut writer, request) = runtime.block_on(async {
        let origin = origin().await;
        let proxy = Proxy::new(Arc::new(NoHooks), Settings::default());
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let mode = Arc::new(Mode::parse("regular").expect("a mode"));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        tokio::spawn(async move {
            proxy.serve(Io::Any(Box::new(theirs)), mode, peer, peer).await;
        });
        let (reader, writer) = split(Io::Any(Box::new(ours)), BytesMut::new());
        let request = format!(
            "GET http://{origin}/json HTTP/1.1\r\nHost: {origin}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
        );
        (reader, writer, request)
    });
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        runtime.block_on(async {
            writer.write(request.as_bytes()).await.expect("the proxy reads");
            writer.flush().await.expect("the proxy reads");
            while reader.buf.len() < ANSWER.len() {
                reader.fill().await.expect("the proxy answers");
            }
            reader.buf.clear();
        });
    });
}
