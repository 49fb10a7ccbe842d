//! The engine: carries connections from accept to close and calls hooks on the way.
//!
//! The way of a request, and the modules it passes:
//!
//! ```text
//! server ─ accept ─► client ─ next_layer ─► tls ─ next_layer ─► http1 ─► exchange ─► upstream ─► server
//!                                                                        │ plan, body, framing
//!                                                                        ▼
//!                                                                      hooks
//! ```
//!
//! [`server`] listens; [`client`](self) runs one layer after the other on an accepted connection; [`tls`] ends the
//! client's TLS with a certificate made for the occasion; [`http1`](self) turns bytes into requests;
//! [`exchange`](self) carries each of them, decides with [`plan`](self) what becomes of its body and gets a connection
//! from [`upstream`]. No module here knows an addon: all are behind [`Hooks`].

mod body;
mod client;
mod connect;
pub mod engine;
pub mod error;
mod exchange;
mod framing;
pub mod hooks;
pub mod hosts;
mod http1;
mod http2;
pub mod inject;
pub mod io;
mod kept;
pub mod mode;
mod next_layer;
mod pass;
mod plan;
mod platform;
pub mod server;
pub mod settings;
mod socks5;
mod tcp;
pub mod tls;
pub mod upstream;
pub mod via;
mod websocket;

pub use error::Failure;
pub use hooks::{Event, Hook, HookSet, Hooks};
pub use inject::InjectError;
pub use mode::{
    Credentials, Mode, ModeError, ModeKind, ReverseScheme, ReverseTarget, UpstreamProxy,
    UpstreamScheme,
};
pub use platform::{SUPPORTS_TRANSPARENT_MODE, can_spoof};
pub use server::{ListenDefaults, ListenError, Proxy};
pub use settings::Settings;
pub use tls::TlsContext;
