//! [`Engine`]: what all connections share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::{
    hooks::{Event, Hooks, Stage},
    inject::Injections,
    platform,
    settings::Settings,
    tls::{Sniffed, TlsContext},
    upstream::{Http1Only, Pool},
};

/// Shared by the listeners and all connections.
pub struct Engine {
    pub(crate) hooks: Arc<dyn Hooks>,
    settings: ArcSwap<Settings>,
    tls: ArcSwapOption<TlsContext>,
    /// Wakes handshakes that came before the CA was there.
    tls_ready: Notify,
    pub(crate) pool: Pool,
    /// What is known of servers' certificates.
    pub(crate) sniffed: Sniffed,
    /// What is known of servers that should speak HTTP/2.
    pub(crate) http1_only: Http1Only,
    pub(crate) injections: Injections,
    listening: RwLock<Vec<SocketAddr>>,
    connections: AtomicUsize,
    exchanges: AtomicUsize,
    /// Counts changes of options: connections made under older ones are not used again.
    generation: AtomicUsize,
}

impl Engine {
    pub(crate) fn new(hooks: Arc<dyn Hooks>, settings: Settings) -> Self {
        Self {
            hooks,
            settings: ArcSwap::from_pointee(settings),
            tls: ArcSwapOption::empty(),
            tls_ready: Notify::new(),
            pool: Pool::default(),
            sniffed: Sniffed::default(),
            http1_only: Http1Only::default(),
            injections: Injections::default(),
            listening: RwLock::default(),
            connections: AtomicUsize::new(0),
            exchanges: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.pool.clear();
        self.sniffed.clear();
    }

    pub(crate) fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    /// Returns the certificates and TLS configurations; waits until they are there.
    pub(crate) async fn tls(&self) -> Arc<TlsContext> {
        loop {
            let ready = self.tls_ready.notified();
            if let Some(tls) = self.tls.load_full() {
                return tls;
            }
            ready.await;
        }
    }

    pub(crate) fn set_tls(&self, tls: TlsContext) {
        self.tls.store(Some(Arc::new(tls)));
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.pool.clear();
        self.tls_ready.notify_waiters();
    }

    /// Tells all listeners about `event`.
    pub(crate) async fn fire(&self, event: Event) {
        self.fire_stage(event, Stage::Whole).await;
    }

    pub(crate) async fn fire_stage(&self, event: Event, stage: Stage) {
        if self.hooks.wanted().has(event.hook())
            && let Some(rest) = Arc::clone(&self.hooks).fire(event, stage)
        {
            // A hook that runs is left to finish, whatever becomes of the exchange that waits for it. That it
            // panicked was told already.
            let _ = tokio::spawn(rest).await;
        }
    }

    pub(crate) fn set_listening(&self, addresses: Vec<SocketAddr>) {
        *self.listening.write() = addresses;
    }

    /// Returns the addresses the proxy listens on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.read().clone()
    }

    /// True if a connection to `address` leads to one of our own listeners.
    pub(crate) fn is_own_address(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listening.read().iter().filter(|own| own.port() == address.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == ip
                || ip.is_unspecified()
                || own.is_unspecified() && (ip.is_loopback() || platform::is_own_ip(ip))
        })
    }

    /// Returns the number of open client connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the number of exchanges that have begun and not ended.
    pub(crate) fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Counts a client connection while the guard lives.
    pub(crate) fn count_connection(&self) -> Counted<'_> {
        Counted::new(&self.connections)
    }

    /// Counts an exchange while the guard lives.
    pub(crate) fn count_exchange(&self) -> Counted<'_> {
        Counted::new(&self.exchanges)
    }
}

/// One more, until it is dropped.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::NoHooks;

    #[test]
    fn own_addresses_are_known_by_any_of_their_names() {
        let engine = Engine::new(Arc::new(NoHooks), Settings::default());
        let own = |text: &str| engine.is_own_address(text.parse().unwrap());
        engine.set_listening(vec!["[::]:8080".parse().unwrap(), "127.0.0.5:90".parse().unwrap()]);
        assert!(own("127.0.0.1:8080") && own("127.9.9.9:8080") && own("[::1]:8080"));
        assert!(own("0.0.0.0:8080") && own("[::ffff:127.0.0.1]:8080"));
        assert!(!own("127.0.0.1:8081") && !own("192.0.2.1:8080"));
        assert!(own("127.0.0.5:90") && !own("127.0.0.1:90"));
    }
}
