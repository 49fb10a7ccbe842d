//! The events of a flow that was not observed but loaded, in the order in which they would have happened.

use std::sync::Arc;

use mitm_flow::{Facts, FlowKind, FlowRef};
use mitm_proxy::{
    Event, Hooks,
    hooks::{Hook, Stage},
};

/// What of a flow decides about its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub kind: FlowKind,
    pub has_response: bool,
    pub has_error: bool,
    pub is_websocket: bool,
}

impl Shape {
    pub fn of(facts: &impl Facts) -> Self {
        Self {
            kind: facts.kind(),
            has_response: facts.has_response(),
            has_error: facts.has_error(),
            is_websocket: facts.is_websocket(),
        }
    }
}

/// Fires the events of `flow`, each after the listeners of the one before are done.
///
/// The messages of a conversation are taken away first and put back one by one, so that the last one is always the
/// one that an event is about.
pub async fn play(hooks: &Arc<dyn Hooks>, flow: &FlowRef, shape: Shape) {
    let fire = async |event: Event| {
        if hooks.wanted().has(event.hook())
            && let Some(rest) = Arc::clone(hooks).fire(event, Stage::Whole)
        {
            rest.await;
        }
    };
    match shape.kind {
        FlowKind::Http => {
            fire(Event::Requestheaders(flow.clone())).await;
            fire(Event::Request(flow.clone())).await;
            if shape.has_response {
                fire(Event::Responseheaders(flow.clone())).await;
                fire(Event::Response(flow.clone())).await;
            }
            if shape.is_websocket {
                fire(Event::WebsocketStart(flow.clone())).await;
                if hooks.wanted().has(Hook::WebsocketMessage)
                    && let Some(websocket) = flow.websocket()
                {
                    let messages = websocket.update(|data| std::mem::take(&mut data.messages));
                    for message in messages {
                        websocket.update(|data| data.messages.push(message));
                        fire(Event::WebsocketMessage(flow.clone())).await;
                    }
                }
                fire(Event::WebsocketEnd(flow.clone())).await;
            } else if shape.has_error {
                fire(Event::Error(flow.clone())).await;
            }
        }
        FlowKind::Tcp => {
            fire(Event::TcpStart(flow.clone())).await;
            if hooks.wanted().has(Hook::TcpMessage) {
                let messages = flow.messages();
                flow.set_messages(Vec::new());
                for message in messages {
                    flow.push_message(message);
                    fire(Event::TcpMessage(flow.clone())).await;
                }
            }
            let end = if shape.has_error { Event::TcpError } else { Event::TcpEnd };
            fire(end(flow.clone())).await;
        }
        FlowKind::Udp => {
            fire(Event::UdpStart(flow.clone())).await;
            if hooks.wanted().has(Hook::UdpMessage) {
                let messages = flow.messages();
                flow.set_messages(Vec::new());
                for message in messages {
                    flow.push_message(message);
                    fire(Event::UdpMessage(flow.clone())).await;
                }
            }
            let end = if shape.has_error { Event::UdpError } else { Event::UdpEnd };
            fire(end(flow.clone())).await;
        }
        FlowKind::Dns => {
            fire(Event::DnsRequest(flow.clone())).await;
            if shape.has_response {
                fire(Event::DnsResponse(flow.clone())).await;
            }
            if shape.has_error {
                fire(Event::DnsError(flow.clone())).await;
            }
        }
    }
}
