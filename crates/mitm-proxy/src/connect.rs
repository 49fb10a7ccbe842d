//! CONNECT: a client asks for a tunnel to a server. Who reads the request and writes the answer is the HTTP version's
//! business.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use mitm_flow::{Address, FlowError, FlowRef, Headers, Request, Response, Server, Shared};

use crate::{
    error::Failure,
    exchange::Context,
    hooks::Event,
    upstream::{Destination, Upstreams},
};

/// What is answered.
pub(crate) enum Verdict {
    /// The tunnel is granted. [`granted`] must be called when the client was told.
    Granted(Running, Destination),
    /// It is refused, with this answer.
    Refused(Box<Response>, Bytes),
    /// Nothing: the flow was killed, or the client is gone.
    Gone,
}

/// Decides about a CONNECT. `gone` ends when the client leaves.
pub(crate) async fn decide(
    ctx: &Context,
    request: Request,
    upstreams: &Upstreams,
    gone: impl Future<Output = ()>,
) -> Verdict {
    let mut gone = pin!(gone);
    let engine = &ctx.engine;
    let address = Address::new(Arc::clone(&request.host), request.port);
    let flow = FlowRef::http(ctx.client.clone(), Server::new(Some(address)).into(), request);
    let running = Running(flow.clone());
    engine.fire(Event::HttpConnect(flow.clone())).await;
    let settled = tokio::select! {
        biased;
        settled = ctx.settle(&flow) => settled,
        () = &mut gone => Err(Failure::ClientGone),
    };
    if settled.is_err() {
        return Verdict::Gone;
    }
    let destination = flow.request().map(|request| {
        request.with(|request| Destination::plain(Arc::clone(&request.host), request.port))
    });
    let Some(destination) = destination else { return Verdict::Gone };
    let destination = Destination { via: ctx.via(false), ..destination };
    if let Some(response) = flow.response() {
        let response = response.get();
        if !(200..300).contains(&response.status_code) {
            engine.fire(Event::HttpConnectError(flow.clone())).await;
            let body = response.body.bytes().ok().flatten().unwrap_or_default();
            return Verdict::Refused(Box::new(response), body);
        }
    } else if wants_connection(ctx, &destination) {
        let server = Server::new(Some(destination.address()));
        let connecting = tokio::select! {
            biased;
            conn = upstreams.fresh(&destination, server.into()) => conn,
            () = flow.wait_for_kill() => return Verdict::Gone,
            () = gone => return Verdict::Gone,
        };
        match connecting {
            Ok(conn) => {
                flow.set_server(conn.server.clone());
                upstreams.put_new(conn);
            }
            Err(failure) => {
                let text = format!(
                    "{failure} If you plan to redirect requests away from this server, set \
                     connection_strategy to lazy."
                );
                let response = Response::make(502, text.clone(), Headers::new());
                flow.set_response(Some(Shared::new(response.clone())));
                flow.set_error(Some(FlowError::new(failure.to_string())));
                engine.fire(Event::HttpConnectError(flow.clone())).await;
                return Verdict::Refused(Box::new(response), text.into());
            }
        }
    }
    if flow.response().is_none() {
        flow.set_response(Some(Shared::new(Response {
            reason: "Connection established".into(),
            ..Response::make(200, Bytes::new(), Headers::new())
        })));
    }
    Verdict::Granted(running, destination)
}

/// Tells that a client knows of its tunnel.
pub(crate) async fn granted(ctx: &Context, running: Running) {
    ctx.engine.fire(Event::HttpConnected(running.0.clone())).await;
}

/// The flow of a CONNECT, which is over when this is dropped.
pub(crate) struct Running(FlowRef);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set_live(false);
    }
}

/// True if the server is connected before CONNECT is answered: eager, and not known from a moment ago.
fn wants_connection(ctx: &Context, destination: &Destination) -> bool {
    ctx.settings.eager
        && destination.via.is_none()
        && !ctx.settings.is_reserved(&destination.host)
        && !ctx.engine.sniffed.knows_address(&ctx.engine, destination)
}
