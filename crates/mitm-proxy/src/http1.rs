//! HTTP/1 with a client: reads requests, one after the other, and hands them to the [exchange](crate::exchange).

use std::{io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use mitm_codec::http1::{
    self, Framing, HeadError, HeadReader, Piece, RequestHead, Target, Version, parse_host_port,
};
use mitm_flow::{Body, FlowRef, Headers, Request, Response, now, status};
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::{
    body::{BodyReader, BodyWriter, Next},
    connect::{self, Verdict},
    error::{Failure, write_error_page},
    exchange::{After, Context, Incoming, Outgoing, exchange, origin::AnswerHead},
    http2,
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
            match ask_for_tunnel(ctx, &head, target, reader, writer, upstreams).await {
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

/// Reads a request head; `None` if the client closed, was silent for too long, or began and did not come to the end.
async fn read_head(ctx: &Context, reader: &mut Reader) -> Result<Option<RequestHead>, HeadError> {
    let mut heads = HeadReader::new();
    let mut begun: Option<Instant> = None;
    loop {
        if !reader.buf.is_empty()
            && let Some(head) = heads.request(&mut reader.buf, &ctx.settings.rules)?
        {
            return Ok(Some(head));
        }
        let read = if reader.buf.is_empty() && begun.is_none() {
            reader.rest();
            reader.fill_within(ctx.settings.idle_timeout).await
        } else {
            // The clock is asked only for a head that did not come in one piece.
            let begun = *begun.get_or_insert_with(Instant::now);
            reader.fill_until(begun.checked_add(ctx.settings.handshake_timeout)).await
        };
        match read {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let reason =
                    if begun.is_some() { "no complete request head in time" } else { "inactivity" };
                info!(client = %client_name(&ctx.client), "Closing connection due to {reason}.");
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

    fn is_http1(&self) -> bool {
        true
    }

    async fn gone(&mut self, close_counts: bool) -> Failure {
        while self.reader.buf.len() < EARLY_BYTES {
            match self.reader.fill().await {
                Ok(1..) => {}
                Ok(0) if !close_counts => break,
                Ok(0) | Err(_) => return Failure::ClientGone,
            }
        }
        std::future::pending().await
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
    async fn informational(&mut self, head: &AnswerHead) -> Result<(), Failure> {
        let is_http1 = Version::from_bytes(&head.version).is_some();
        let (version, reason) = if is_http1 {
            (&head.version[..], &head.reason[..])
        } else {
            (&b"HTTP/1.1"[..], status::reason(head.status).unwrap_or_default().as_bytes())
        };
        http1::write_response_head(self.writer.out(), version, head.status, reason, &head.headers);
        self.flush().await
    }

    fn head(&mut self, response: &Response, body: BodyWriter, delimited: bool) {
        self.body = body;
        self.delimited = delimited;
        self.sends = self.writer.sends();
        let translated;
        let response = if Version::from_bytes(&response.http_version).is_some() {
            response
        } else {
            let mut response = Response { body: Body::missing(), ..response.clone() };
            http2::response_to_http1(&mut response);
            translated = response;
            &translated
        };
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

    async fn data(&mut self, data: &Bytes) -> Result<(), Failure> {
        self.body.data(self.writer, data).await.map_err(|error| Failure::client(&error))
    }

    fn end(&mut self, wire: Option<&Bytes>, trailers: Option<&Headers>) {
        // Trailers that would be other lines than they say are left out: the body is complete without them.
        let trailers =
            trailers.filter(|trailers| wire.is_some() || http1::check_fields(trailers).is_ok());
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
async fn ask_for_tunnel(
    ctx: &Context,
    head: &RequestHead,
    (host, port): (Arc<str>, u16),
    reader: &mut Reader,
    writer: &mut Writer,
    upstreams: &Upstreams,
) -> Connect {
    let request = Request {
        method: head.method.clone(),
        authority: head.target.clone(),
        host,
        port,
        http_version: Bytes::from_static(head.version.as_bytes()),
        headers: head.headers.clone(),
        body: Body::empty(),
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
    let verdict = connect::decide(ctx, request, upstreams, client_closes(reader)).await;
    match verdict {
        Verdict::Gone => Connect::Closed,
        Verdict::Refused(response, body) => {
            write_response(writer, *response, &body);
            refused(head, reader, writer).await
        }
        Verdict::Granted(flow, destination) => {
            writer.out().extend_from_slice(b"HTTP/1.1 200 Connection established\r\n\r\n");
            if writer.flush().await.is_err() {
                return Connect::Closed;
            }
            connect::granted(ctx, flow).await;
            Connect::Granted(destination)
        }
    }
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
