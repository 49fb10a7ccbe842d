//! HTTP/1 with a client: reads requests, one after the other, and hands them to the [exchange](crate::exchange).

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use mitm_codec::http1::{
    self, Framing, HeadError, HeadReader, Piece, RequestHead, ResponseHead, Target, parse_host_port,
};
use mitm_flow::{FlowError, FlowRef, Headers, Request, Response, Server, Shared, now};
use tokio::time::timeout;
use tracing::info;

use crate::{
    body::{BodyReader, BodyWriter, Next},
    error::{Failure, write_error_page},
    exchange::{After, Context, Incoming, Outgoing, exchange},
    hooks::Event,
    io::{Reader, Writer},
    upstream::{Destination, ServerConn, Upstreams, client_name},
};

/// How the layer ended.
pub(crate) enum End {
    /// The connection is to be closed.
    Closed,
    /// The connection is to be closed without a proper end.
    Aborted,
    /// CONNECT was granted: what follows is for `Destination`.
    Tunnel(Destination),
    /// The server switched protocols: both connections are raw now. The flow is that of the request, and live.
    Upgrade(Box<ServerConn>, FlowRef),
}

/// How much a client may send ahead while its request is being answered.
const EARLY_BYTES: usize = 64 << 10;

/// Serves requests until the connection ends or becomes something else.
pub(crate) async fn serve(
    ctx: &mut Context,
    reader: &mut Reader,
    writer: &mut Writer,
    upstreams: &Upstreams,
) -> End {
    loop {
        ctx.settings = ctx.engine.settings();
        let head = tokio::select! {
            biased;
            head = read_head(ctx, reader) => head,
            () = watch_all(upstreams) => unreachable!("idle connections are watched without end"),
        };
        let head = match head {
            Ok(Some(head)) => head,
            Ok(None) => {
                if !reader.buf.is_empty() {
                    info!(
                        client = %client_name(&ctx.client),
                        "Client closed connection before completing request headers."
                    );
                }
                return End::Closed;
            }
            Err(error) => {
                refuse(ctx, writer, &error.to_string()).await;
                return End::Closed;
            }
        };
        if &head.method[..] == b"CONNECT" {
            let Target::Authority { host, port } = &head.form else { return End::Closed };
            if ctx.target.is_some() {
                refuse(ctx, writer, "Received a CONNECT request inside of a tunnel.").await;
                return End::Closed;
            }
            let target = (Arc::clone(host), *port);
            match connect(ctx, &head, target, reader, writer, upstreams).await {
                Connect::Granted(destination) => return End::Tunnel(destination),
                Connect::Refused => continue,
                Connect::Closed => return End::Closed,
            }
        }
        let request = match request_of(ctx, &head) {
            Ok(request) => request,
            Err(text) => {
                refuse(ctx, writer, &text).await;
                return End::Closed;
            }
        };
        let validate = ctx.settings.rules.validate;
        let framing = http1::request_framing(&head.method, head.version, &head.headers, validate)
            .map_err(|error| Failure::request_framing(&error));
        let body = BodyReader::new(framing.clone().unwrap_or(Framing::Length(0)), validate);
        let silence = ctx.settings.idle_timeout;
        let framed = framing.clone().unwrap_or(Framing::Length(0));
        let mut incoming = H1Incoming { reader, body, framed, silence };
        let mut outgoing = H1Outgoing {
            writer,
            body: BodyWriter::Nothing,
            delimited: true,
            sends: 0,
            head_only: &head.method[..] == b"HEAD",
        };
        drop(head);
        let future = exchange(ctx, request, framing, &mut incoming, &mut outgoing, upstreams);
        let after = future.await;
        let delimited = outgoing.delimited;
        match after {
            After::Abort => {
                if !delimited {
                    writer.reset_on_close();
                }
                return End::Aborted;
            }
            After::KeepAlive if !reader.eof || !reader.buf.is_empty() => {}
            After::KeepAlive | After::Close => return End::Closed,
            After::Drain => {
                drain(reader, writer).await;
                return End::Closed;
            }
            After::Upgrade(conn, flow) => return End::Upgrade(conn, flow),
        }
    }
}

async fn watch_all(upstreams: &Upstreams) {
    loop {
        upstreams.watch_idle().await;
    }
}

/// Reads a request head; `None` if the client closed or was silent for too long.
async fn read_head(ctx: &Context, reader: &mut Reader) -> Result<Option<RequestHead>, HeadError> {
    let mut heads = HeadReader::new();
    loop {
        if !reader.buf.is_empty()
            && let Some(head) = heads.request(&mut reader.buf, &ctx.settings.rules)?
        {
            return Ok(Some(head));
        }
        reader.rest();
        match reader.fill_within(ctx.settings.idle_timeout).await {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                info!(client = %client_name(&ctx.client), "Closing connection due to inactivity.");
                return Ok(None);
            }
            Ok(0) | Err(_) => return Ok(None),
        }
    }
}

/// Answers a request that never becomes a flow.
async fn refuse(ctx: &Context, writer: &mut Writer, text: &str) {
    info!(client = %client_name(&ctx.client), "{text}");
    write_error_page(writer.out(), 400, text, false);
    // The connection is closed next, whether or not the client reads this.
    let _ = writer.flush().await;
}

/// Sends what is left and reads a little of what the client still sends, so that closing does not reset the
/// connection before the client has seen the answer.
async fn drain(reader: &mut Reader, writer: &mut Writer) {
    writer.shutdown().await;
    let reading = async {
        let mut left = EARLY_BYTES;
        while left > 0 {
            reader.buf.clear();
            match reader.fill().await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Silence is an end as well.
    let _ = timeout(Duration::from_secs(1), reading).await;
}

/// Makes the request of a flow from a head; the error is the text of a 400.
fn request_of(ctx: &Context, head: &RequestHead) -> Result<Request, String> {
    let mut request = Request {
        method: head.method.clone(),
        http_version: Bytes::from_static(head.version.as_bytes()),
        headers: head.headers.clone(),
        timestamp_start: now(),
        ..Request::default()
    };
    match &head.form {
        Target::Absolute { scheme, authority, host, port, path } => {
            if !matches!(&scheme[..], b"http" | b"https") {
                return Err(format!("Invalid request scheme: {}", String::from_utf8_lossy(scheme)));
            }
            request.path = path.clone();
            request.scheme = scheme.clone();
            request.host = Arc::clone(host);
            request.port = *port;
            if !request.headers.contains("host") {
                // The server is asked in origin form, which needs it (RFC 9112 §3.2.2).
                request.headers.insert(0, "Host", authority.clone());
            }
            if ctx.target.is_some() {
                // Whoever asks a server in absolute form shall be heard in absolute form.
                request.authority = authority.clone();
            }
        }
        Target::Origin | Target::Asterisk => {
            request.path = head.target.clone();
            if ctx.target.is_none() {
                let host = head.headers.get("host").and_then(|value| parse_host_port(value));
                let Some((host, port)) = host else {
                    return Err("HTTP request has no host header, destination unknown.".into());
                };
                request.scheme = Bytes::from_static(b"http");
                request.port = port.unwrap_or(80);
                request.host = host;
            }
        }
        Target::Authority { .. } => return Err("Bad HTTP request line.".into()),
    }
    ctx.lead(&mut request);
    Ok(request)
}

struct H1Incoming<'a> {
    reader: &'a mut Reader,
    body: BodyReader,
    framed: Framing,
    /// How long the client may be silent within its body.
    silence: Duration,
}

impl Incoming for H1Incoming<'_> {
    fn next(&mut self) -> Result<Option<Next>, Failure> {
        self.body.next(self.reader).map_err(|error| {
            if self.reader.eof { Failure::ClientGone } else { Failure::request_body(&error) }
        })
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        match self.reader.fill_within(self.silence).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::client(&error)),
        }
    }

    fn is_complete(&self) -> bool {
        self.body.is_complete(self.framed)
    }

    async fn gone(&mut self, close_counts: bool) {
        while self.reader.buf.len() < EARLY_BYTES {
            match self.reader.fill().await {
                Ok(1..) => {}
                Ok(0) if !close_counts => break,
                Ok(0) | Err(_) => return,
            }
        }
        std::future::pending::<()>().await;
    }
}

struct H1Outgoing<'a> {
    writer: &'a mut Writer,
    body: BodyWriter,
    /// The client finds the end of the response without the connection being closed.
    delimited: bool,
    /// The writer's [`sends`](Writer::sends) when it took the head.
    sends: u64,
    head_only: bool,
}

impl Outgoing for H1Outgoing<'_> {
    async fn informational(&mut self, head: &ResponseHead) -> Result<(), Failure> {
        let version = head.version.as_bytes();
        http1::write_response_head(
            self.writer.out(),
            version,
            head.status,
            &head.reason,
            &head.headers,
        );
        self.flush().await
    }

    fn head(&mut self, response: &Response, body: BodyWriter, delimited: bool) {
        self.body = body;
        self.delimited = delimited;
        self.sends = self.writer.sends();
        http1::write_response_head(
            self.writer.out(),
            &response.http_version,
            response.status_code,
            &response.reason,
            &response.headers,
        );
    }

    async fn piece(&mut self, piece: &Piece) -> Result<(), Failure> {
        self.body.piece(self.writer, piece).await.map_err(|error| Failure::client(&error))
    }

    async fn data(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.body.data(self.writer, data).await.map_err(|error| Failure::client(&error))
    }

    fn end(&mut self, wire: Option<&Bytes>, trailers: Option<&Headers>) {
        self.body.end(self.writer, wire, trailers);
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().await.map_err(|error| Failure::client(&error))
    }

    fn retract(&mut self) -> bool {
        let unsent = self.writer.sends() == self.sends;
        if unsent {
            self.writer.out().clear();
        }
        unsent
    }

    async fn error_page(&mut self, status: u16, message: &str) {
        write_error_page(self.writer.out(), status, message, self.head_only);
        // The connection is closed next, whether or not the client reads this.
        let _ = self.writer.flush().await;
    }
}

enum Connect {
    Granted(Destination),
    /// Answered; the connection stays open for another request.
    Refused,
    Closed,
}

/// Answers a CONNECT.
async fn connect(
    ctx: &Context,
    head: &RequestHead,
    (host, port): (Arc<str>, u16),
    reader: &mut Reader,
    writer: &mut Writer,
    upstreams: &Upstreams,
) -> Connect {
    let engine = &ctx.engine;
    let request = Request {
        method: head.method.clone(),
        authority: head.target.clone(),
        host,
        port,
        http_version: Bytes::from_static(head.version.as_bytes()),
        headers: head.headers.clone(),
        body: mitm_flow::Body::empty(),
        timestamp_start: now(),
        timestamp_end: Some(now()),
        ..Request::default()
    };
    let framing = http1::request_framing(
        &head.method,
        head.version,
        &head.headers,
        ctx.settings.rules.validate,
    );
    if let Err(error) = framing {
        refuse(ctx, writer, &Failure::request_framing(&error).to_string()).await;
        return Connect::Closed;
    }
    let address = mitm_flow::Address::new(Arc::clone(&request.host), port);
    let flow = FlowRef::http(ctx.client.clone(), Server::new(Some(address)).into(), request);
    engine.fire(Event::HttpConnect(flow.clone())).await;
    let settled = tokio::select! {
        biased;
        settled = ctx.settle(&flow) => settled,
        () = client_closes(reader) => Err(Failure::ClientGone),
    };
    if settled.is_err() {
        return Connect::Closed;
    }
    let destination = flow.request().map(|request| {
        request.with(|request| Destination::plain(Arc::clone(&request.host), request.port))
    });
    let Some(destination) = destination else { return Connect::Closed };
    let destination = Destination { via: ctx.via(false), ..destination };
    if let Some(response) = flow.response() {
        let response = response.get();
        if !(200..300).contains(&response.status_code) {
            engine.fire(Event::HttpConnectError(flow.clone())).await;
            let body = response.body.bytes().ok().flatten().unwrap_or_default();
            write_response(writer, response, &body);
            flow.set_live(false);
            return refused(head, reader, writer).await;
        }
    } else if wants_connection(ctx, &destination) {
        let server = Server::new(Some(destination.address()));
        let connecting = tokio::select! {
            biased;
            conn = upstreams.fresh(&destination, server.into()) => conn,
            () = flow.wait_for_kill() => return Connect::Closed,
            () = client_closes(reader) => return Connect::Closed,
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
                write_response(writer, response, text.as_bytes());
                flow.set_live(false);
                return refused(head, reader, writer).await;
            }
        }
    }
    if flow.response().is_none() {
        flow.set_response(Some(Shared::new(Response {
            reason: "Connection established".into(),
            ..Response::make(200, Bytes::new(), Headers::new())
        })));
    }
    writer.out().extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
    if writer.flush().await.is_err() {
        return Connect::Closed;
    }
    engine.fire(Event::HttpConnected(flow.clone())).await;
    flow.set_live(false);
    Connect::Granted(destination)
}

/// Sends the refusal of a tunnel. The connection goes on only if nothing was meant for the tunnel already: it must not be
/// taken for another request.
async fn refused(head: &RequestHead, reader: &Reader, writer: &mut Writer) -> Connect {
    let is_plain = reader.buf.is_empty()
        && !head.headers.contains("content-length")
        && !head.headers.contains("transfer-encoding")
        && http1::keep_alive(head.version.as_bytes(), &head.headers);
    match writer.flush().await {
        Ok(()) if is_plain => Connect::Refused,
        Ok(()) | Err(_) => Connect::Closed,
    }
}

/// True if the server is connected before CONNECT is answered: eager, and not known from a moment ago.
fn wants_connection(ctx: &Context, destination: &Destination) -> bool {
    ctx.settings.eager
        && destination.via.is_none()
        && !ctx.settings.is_reserved(&destination.host)
        && !ctx.engine.sniffed.knows_address(&ctx.engine, destination)
}

async fn client_closes(reader: &mut Reader) {
    while reader.buf.len() < EARLY_BYTES {
        if !matches!(reader.fill().await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

fn write_response(writer: &mut Writer, mut response: Response, body: &[u8]) {
    response.headers.remove("transfer-encoding");
    response.headers.set("content-length", body.len().to_string());
    let out: &mut BytesMut = writer.out();
    http1::write_response_head(
        out,
        &response.http_version,
        response.status_code,
        &response.reason,
        &response.headers,
    );
    out.extend_from_slice(body);
}
