//! Injection: messages that users and scripts put into live connections.
//!
//! A layer that carries messages registers its flow and gets one bounded queue per direction. Whoever injects finds
//! it by the flow's id. What comes out of a queue is treated as if the other side had sent it: it passes the
//! hook. That an injected message is marked as such is up to the layer.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use mitm_flow::{FlowId, FlowKind, FlowRef};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::{engine::Engine, server::Proxy};

/// So many messages may wait in each direction.
const QUEUE: usize = 64;

/// Why a message was not injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InjectError {
    #[error("Cannot inject WebSocket messages into non-WebSocket flows.")]
    NotWebSocket,
    /// A peer would close the connection over it (RFC 6455 §8.1).
    #[error("Text messages must be UTF-8.")]
    NotText,
    #[error("Cannot inject TCP messages into non-TCP flows.")]
    NotTcp,
    #[error("Flow is not from a live connection.")]
    NotLive,
    /// Messages injected before were not sent yet: the connection is slow, or the flow is intercepted.
    #[error("Flow has too many injected messages that were not sent yet.")]
    Busy,
}

/// A message to be sent.
#[derive(Debug)]
pub(crate) struct Injected {
    pub(crate) content: Bytes,
    /// Of a WebSocket message: text or binary.
    pub(crate) is_text: bool,
}

/// The flows that messages can be injected into.
#[derive(Default)]
pub(crate) struct Injections {
    flows: Mutex<HashMap<FlowId, Queues>>,
}

struct Queues {
    to_client: mpsc::Sender<Injected>,
    to_server: mpsc::Sender<Injected>,
}

/// Keeps a flow open for injection; dropping it ends that.
pub(crate) struct Registration {
    engine: Arc<Engine>,
    id: FlowId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let queues = self.engine.injections.flows.lock().remove(&self.id);
        drop(queues);
    }
}

/// Opens a flow for injection: returns what comes for the client, and what comes for the server.
pub(crate) fn register(
    engine: &Arc<Engine>,
    flow: &FlowRef,
) -> (Registration, mpsc::Receiver<Injected>, mpsc::Receiver<Injected>) {
    let (to_client, for_client) = mpsc::channel(QUEUE);
    let (to_server, for_server) = mpsc::channel(QUEUE);
    let id = flow.id();
    engine.injections.flows.lock().insert(id.clone(), Queues { to_client, to_server });
    (Registration { engine: Arc::clone(engine), id }, for_client, for_server)
}

impl Injections {
    fn put(&self, flow: &FlowRef, to_client: bool, message: Injected) -> Result<(), InjectError> {
        let id = flow.id();
        let flows = self.flows.lock();
        let queues = flows.get(&id).ok_or(InjectError::NotLive)?;
        let queue = if to_client { &queues.to_client } else { &queues.to_server };
        queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => InjectError::Busy,
            mpsc::error::TrySendError::Closed(_) => InjectError::NotLive,
        })
    }
}

impl Proxy {
    /// Sends a message into a live WebSocket connection, as if the other side had sent it.
    ///
    /// # Errors
    /// The flow has no WebSocket, is over, or has too many injected messages waiting; the text is none.
    pub fn inject_websocket(
        &self,
        flow: &FlowRef,
        to_client: bool,
        content: Bytes,
        is_text: bool,
    ) -> Result<(), InjectError> {
        if flow.websocket().is_none() {
            return Err(InjectError::NotWebSocket);
        }
        if is_text && std::str::from_utf8(&content).is_err() {
            return Err(InjectError::NotText);
        }
        self.engine().injections.put(flow, to_client, Injected { content, is_text })
    }

    /// Sends data into a live TCP connection, as if the other side had sent it.
    ///
    /// # Errors
    /// The flow is not one of raw TCP, is over, or has too many injected messages waiting.
    pub fn inject_tcp(
        &self,
        flow: &FlowRef,
        to_client: bool,
        content: Bytes,
    ) -> Result<(), InjectError> {
        if flow.kind() != FlowKind::Tcp {
            return Err(InjectError::NotTcp);
        }
        self.engine().injections.put(flow, to_client, Injected { content, is_text: false })
    }
}

#[cfg(test)]
mod tests {
    use mitm_flow::{Address, Client, FlowData, Server, Shared};

    use super::*;
    use crate::{hooks::NoHooks, settings::Settings};

    #[test]
    fn only_registered_flows_take_messages() {
        let proxy = Proxy::new(Arc::new(NoHooks), Settings::default());
        let address = Address::new("127.0.0.1", 1);
        let client: Shared<Client> = Client::new(address.clone(), address, 0.0).into();
        let server: Shared<Server> = Server::new(None).into();
        let flow = FlowRef::new(client, server, FlowData::Tcp(Vec::new()));
        let content = Bytes::from_static(b"x");
        let inject = |flow: &FlowRef| proxy.inject_tcp(flow, true, content.clone());
        assert_eq!(inject(&flow), Err(InjectError::NotLive));
        assert_eq!(
            proxy.inject_websocket(&flow, true, content.clone(), true),
            Err(InjectError::NotWebSocket)
        );
        let (registration, mut for_client, mut for_server) = register(proxy.engine(), &flow);
        assert_eq!(inject(&flow), Ok(()));
        assert_eq!(for_client.try_recv().unwrap().content, "x");
        assert!(for_server.try_recv().is_err());
        for _ in 0..QUEUE {
            assert_eq!(inject(&flow), Ok(()));
        }
        assert_eq!(inject(&flow), Err(InjectError::Busy));
        drop(registration);
        assert_eq!(inject(&flow), Err(InjectError::NotLive));
    }
}
