//! Many clients that keep their connections and say nothing.
//!
//! `MITM_IDLE_CLIENTS` is their number. Each is a TLS client in a tunnel that has loaded a page.

use std::{env, fs, sync::Arc};

use mitm_testkit::{Nginx, RawClient, nginx::HELLO, tls};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ClientConfig;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::support::{Home, Proxy, note, text};

fn clients() -> usize {
    let number = env::var("MITM_IDLE_CLIENTS").ok();
    number.map_or(200, |number| number.parse().expect("MITM_IDLE_CLIENTS: a number"))
}

/// Each client takes one descriptor here and one in nginx, which inherits the limit.
fn raise_the_limit_of_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let needed = 2 * clients() as u64 + 500;
    assert!(hard > needed, "{needed} descriptors are needed, {hard} allowed");
}

async fn connect(proxy: &Proxy, target: &str, config: Arc<ClientConfig>) -> RawClient {
    let mut client = RawClient::connect(proxy.address).await;
    client.tunnel(target).await.expect("a tunnel");
    let mut client = client.start_tls(config, "localhost").await.expect("a trusted certificate");
    load(&mut client).await;
    client
}

async fn load(client: &mut RawClient) {
    let answer = client.request("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!((answer.status(), answer.body.as_slice()), (200, HELLO.as_bytes()));
}

async fn many_are_cheap(strategy: &str) {
    raise_the_limit_of_descriptors();
    let Some(nginx) = Nginx::start_with("keepalive_timeout 3600s;") else { return };
    let home = Home::new();
    let proxy = home.start(&[
        "--upstream-trusted-ca",
        &text(&nginx.trust_file()),
        "--set",
        &format!("connection_strategy={strategy}"),
    ]);
    let target = nginx.https().port();
    let target = format!("localhost:{target}");
    // what is there once, and what a burst of handshakes needs while it lasts
    let config = tls::client_config(&fs::read_to_string(home.ca()).unwrap(), &[]);
    let mut warm = Vec::new();
    for _ in 0..10 {
        warm.push(connect(&proxy, &target, config.clone()).await);
    }
    let before = proxy.memory("VmRSS");

    let at_once = Arc::new(Semaphore::new(32));
    let proxy = Arc::new(proxy);
    let mut connecting = JoinSet::new();
    for _ in 0..clients() {
        let permit = at_once.clone().acquire_owned().await.unwrap();
        let (proxy, target, config) = (proxy.clone(), target.clone(), config.clone());
        connecting.spawn(async move {
            let client = connect(&proxy, &target, config).await;
            drop(permit);
            client
        });
    }
    let mut idle = connecting.join_all().await;
    let after = proxy.memory("VmRSS");
    let each = after.saturating_sub(before) / idle.len() as u64;
    note(&format!(
        "{strategy}: {} idle clients, {} descriptors, {} KiB each, {} MiB in all (peak {} MiB)",
        idle.len(),
        proxy.descriptors(),
        each / 1024,
        after >> 20,
        proxy.memory("VmHWM") >> 20
    ));

    // it answers new clients and old ones
    drop(connect(&proxy, &target, config).await);
    for client in idle.iter_mut().step_by(clients().div_ceil(20)) {
        load(client).await;
    }
    assert!(each < 100 * 1024, "{each} bytes for each idle connection");
    drop((idle, warm));
    tokio::task::spawn_blocking(|| Arc::into_inner(proxy).expect("no client has it").finish())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_cheap_when_connecting_eagerly() {
    many_are_cheap("eager").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_cheap_when_connecting_lazily() {
    many_are_cheap("lazy").await;
}
