//! The hooks: every point where addons are told what happens and may change it.
//!
//! [`for_each_hook!`](crate::for_each_hook) is the one list. From it come the [`Hook`] names, the [`Event`]s the engine
//! fires, the methods of the addon trait and the reference page. The engine knows addons only as
//! [`Hooks`]; it asks [`Hooks::wanted`] before it prepares an event, so that a hook nobody listens to costs
//! a bit test.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use mitm_codec::client_hello::ClientHello;
use mitm_flow::{Client, FlowRef, Server, Shared};

/// Calls the macro `$each` with the list of all hooks: documentation, variant, name and payload.
#[macro_export]
macro_rules! for_each_hook {
    ($each:ident) => {
        $each! {
            /// A client connected; nothing was read yet. Setting `client.error` refuses it.
            ClientConnected client_connected(Shared<Client>);
            /// A client connection was closed, by either side.
            ClientDisconnected client_disconnected(Shared<Client>);
            /// About to connect to a server; address, local address and via may be changed, and setting
            /// `server.error` refuses it.
            ServerConnect server_connect(ServerData);
            /// Connected to a server.
            ServerConnected server_connected(ServerData);
            /// Connecting failed or was refused.
            ServerConnectError server_connect_error(ServerData);
            /// An established server connection was closed.
            ServerDisconnected server_disconnected(ServerData);
            /// The head of a request arrived, its body did not. The place to set `request.stream`.
            Requestheaders requestheaders(FlowRef);
            /// A request is complete. Setting a response here answers it.
            Request request(FlowRef);
            /// The head of a response arrived, its body did not. The place to set `response.stream`.
            Responseheaders responseheaders(FlowRef);
            /// A response is complete and not yet sent (if streamed: its end is not yet sent).
            Response response(FlowRef);
            /// A flow failed; `flow.error` says why. Excludes `response`.
            Error error(FlowRef);
            /// A client asks for a tunnel. Setting a response other than 2xx refuses it.
            HttpConnect http_connect(FlowRef);
            /// A CONNECT is about to be sent to an upstream proxy.
            HttpConnectUpstream http_connect_upstream(FlowRef);
            /// A tunnel was granted.
            HttpConnected http_connected(FlowRef);
            /// A tunnel was refused, or its server could not be reached.
            HttpConnectError http_connect_error(FlowRef);
            /// A connection was upgraded to WebSocket.
            WebsocketStart websocket_start(FlowRef);
            /// A complete WebSocket message arrived: the last of `flow.websocket.messages`.
            WebsocketMessage websocket_message(FlowRef);
            /// A WebSocket connection ended.
            WebsocketEnd websocket_end(FlowRef);
            /// A raw TCP conversation begins.
            TcpStart tcp_start(FlowRef);
            /// TCP data arrived: the last of `flow.messages`.
            TcpMessage tcp_message(FlowRef);
            /// A TCP conversation ended.
            TcpEnd tcp_end(FlowRef);
            /// A TCP conversation failed.
            TcpError tcp_error(FlowRef);
            /// A UDP conversation begins.
            UdpStart udp_start(FlowRef);
            /// A datagram arrived: the last of `flow.messages`.
            UdpMessage udp_message(FlowRef);
            /// A UDP conversation ended.
            UdpEnd udp_end(FlowRef);
            /// A UDP conversation failed.
            UdpError udp_error(FlowRef);
            /// A DNS query arrived.
            DnsRequest dns_request(FlowRef);
            /// A DNS response arrived or was set.
            DnsResponse dns_response(FlowRef);
            /// A DNS query could not be answered.
            DnsError dns_error(FlowRef);
            /// A complete `ClientHello` was read.
            TlsClienthello tls_clienthello(Shared<ClientHelloData>);
            /// The TLS handshake with the client is about to begin.
            TlsStartClient tls_start_client(TlsData);
            /// The TLS handshake with the server is about to begin.
            TlsStartServer tls_start_server(TlsData);
            /// The TLS handshake with the client is finished.
            TlsEstablishedClient tls_established_client(TlsData);
            /// The TLS handshake with the server is finished.
            TlsEstablishedServer tls_established_server(TlsData);
            /// The TLS handshake with the client failed.
            TlsFailedClient tls_failed_client(TlsData);
            /// The TLS handshake with the server failed.
            TlsFailedServer tls_failed_server(TlsData);
            /// A QUIC handshake with the client is about to begin.
            QuicStartClient quic_start_client(TlsData);
            /// A QUIC handshake with the server is about to begin.
            QuicStartServer quic_start_server(TlsData);
            /// The protocol of a connection must be decided.
            NextLayer next_layer(Shared<NextLayerData>);
            /// A SOCKS5 client sent a user name and a password.
            Socks5Auth socks5_auth(Shared<Socks5AuthData>);
        }
    };
}

macro_rules! define {
    ($($(#[$doc:meta])* $variant:ident $name:ident($payload:ty);)*) => {
        /// The name of a hook.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Hook {
            $($(#[$doc])* $variant,)*
        }

        impl Hook {
            /// All hooks, in the order of a connection's life.
            pub const ALL: &[Hook] = &[$(Self::$variant),*];

            /// Returns the name scripts use.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)*
                }
            }

            /// Returns the hook called `name`.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $(stringify!($name) => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        /// A hook with what it is about.
        #[derive(Clone)]
        pub enum Event {
            $($(#[$doc])* $variant($payload),)*
        }

        impl Event {
            pub fn hook(&self) -> Hook {
                match self {
                    $(Self::$variant(_) => Hook::$variant,)*
                }
            }
        }
    };
}

for_each_hook!(define);

impl Event {
    /// Returns the flow the event is about, if it is about one.
    pub fn flow(&self) -> Option<&FlowRef> {
        match self {
            Self::Requestheaders(flow)
            | Self::Request(flow)
            | Self::Responseheaders(flow)
            | Self::Response(flow)
            | Self::Error(flow)
            | Self::HttpConnect(flow)
            | Self::HttpConnectUpstream(flow)
            | Self::HttpConnected(flow)
            | Self::HttpConnectError(flow)
            | Self::WebsocketStart(flow)
            | Self::WebsocketMessage(flow)
            | Self::WebsocketEnd(flow)
            | Self::TcpStart(flow)
            | Self::TcpMessage(flow)
            | Self::TcpEnd(flow)
            | Self::TcpError(flow)
            | Self::UdpStart(flow)
            | Self::UdpMessage(flow)
            | Self::UdpEnd(flow)
            | Self::UdpError(flow)
            | Self::DnsRequest(flow)
            | Self::DnsResponse(flow)
            | Self::DnsError(flow) => Some(flow),
            _ => None,
        }
    }
}

/// A set of hooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookSet(u64);

impl HookSet {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u64::MAX);

    pub const fn of(hooks: &[Hook]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < hooks.len() {
            bits |= 1 << hooks[at] as u64;
            at += 1;
        }
        Self(bits)
    }

    pub const fn has(self, hook: Hook) -> bool {
        self.0 >> hook as u64 & 1 == 1
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// The hooks that look at server connections: while somebody listens to them, connections are not shared between
/// clients and certificates are not answered from memory.
pub const SERVER_HOOKS: HookSet = HookSet::of(&[
    Hook::ServerConnect,
    Hook::ServerConnected,
    Hook::ServerConnectError,
    Hook::ServerDisconnected,
    Hook::TlsStartServer,
    Hook::TlsEstablishedServer,
    Hook::TlsFailedServer,
]);

/// A server connection and the client it is for.
#[derive(Clone, Debug)]
pub struct ServerData {
    pub server: Shared<Server>,
    pub client: Shared<Client>,
}

/// A TLS handshake.
#[derive(Clone, Debug)]
pub struct TlsData {
    pub client: Shared<Client>,
    pub server: Shared<Server>,
    /// Which of the two connections the handshake is on.
    pub on_client: bool,
}

/// A `ClientHello`, and what to do about it.
#[derive(Clone, Debug)]
pub struct ClientHelloData {
    pub client: Shared<Client>,
    pub server: Shared<Server>,
    pub client_hello: Arc<ClientHello>,
    /// Set to let the connection pass untouched.
    pub ignore_connection: bool,
    /// Set to finish the handshake with the server first.
    pub establish_server_tls_first: bool,
}

/// A decision about the protocol of a connection.
#[derive(Clone, Debug)]
pub struct NextLayerData {
    pub client: Shared<Client>,
    pub server: Shared<Server>,
    /// What the client sent so far.
    pub data_client: Bytes,
    /// What the server sent so far.
    pub data_server: Bytes,
    /// The choice of the engine; set another to override it.
    pub layer: Option<LayerKind>,
}

/// The layers a decision can choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// TLS with the client, then another decision.
    Tls,
    Http,
    /// Raw TCP, as a flow.
    Tcp,
    /// Raw TCP, unseen.
    Ignore,
}

/// The credentials of a SOCKS5 client.
#[derive(Clone, Debug)]
pub struct Socks5AuthData {
    pub client: Shared<Client>,
    pub username: String,
    pub password: String,
    /// Set to let the client in.
    pub valid: bool,
}

/// What somebody wants of a body; the greatest of all wins.
///
/// A TCP flow has messages instead. From [`Tee`](Self::Tee) on, all of them are kept; below that the flow has the latest
/// only, which is what `tcp_message` is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The body is not looked at: forward it as it comes.
    #[default]
    Nothing,
    /// Only the head is changed: if nobody holds the body, the hook runs before the head is forwarded.
    Head,
    /// The body is read: forward it as it comes and keep a copy.
    Tee,
    /// The body may be changed or decides something: read it whole, run the hook, then forward it.
    Hold,
}

/// The direction of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Request,
    Response,
}

/// Which listeners of a hook an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All: the message is complete and nothing of it was forwarded.
    Whole,
    /// Those that change heads only: the head was not forwarded, the body is not there.
    Head,
    /// The others: the message was forwarded but for its end.
    Tail,
}

/// The end of an event: listeners may need time.
pub type HookFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the engine calls.
pub trait Hooks: Send + Sync + 'static {
    /// Returns the hooks somebody listens to.
    fn wanted(&self) -> HookSet;

    /// Tells the listeners of `stage` about `event`, one after the other; `None` if all are done already.
    fn fire(self: Arc<Self>, event: Event, stage: Stage) -> Option<HookFuture>;

    /// Returns the greatest need for the body of this message, and whether somebody changes its head only.
    fn need(&self, flow: &FlowRef, direction: Direction) -> (Need, bool);

    /// True if a listener that is not built in looks at server connections (see [`SERVER_HOOKS`]).
    fn servers_are_watched(&self) -> bool;
}

/// Nobody listens.
pub struct NoHooks;

impl Hooks for NoHooks {
    fn wanted(&self) -> HookSet {
        HookSet::NONE
    }

    fn fire(self: Arc<Self>, _event: Event, _stage: Stage) -> Option<HookFuture> {
        None
    }

    fn need(&self, _flow: &FlowRef, _direction: Direction) -> (Need, bool) {
        (Need::Nothing, false)
    }

    fn servers_are_watched(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_fit_a_set() {
        assert!(Hook::ALL.len() <= 64);
        for &hook in Hook::ALL {
            assert_eq!(Hook::from_name(hook.name()), Some(hook));
            assert!(HookSet::of(&[hook]).has(hook));
        }
        assert!(!HookSet::of(&[Hook::Request]).has(Hook::Response));
    }
}
