//! HTTP/2 with a client: each stream is an [exchange](crate::exchange).

use std::{
    future::poll_fn, panic::AssertUnwindSafe, pin::Pin, sync::Arc, task::Poll, time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use mitm_codec::http1::{Piece, Rules, parse_host_port};
use mitm_flow::{Client, Headers, Request, Response, Shared, now};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error, info};

use super::{
    BUSY_MAX, BodyError, BodyIn, CONNECTION_WINDOW, FRAME_MAX, SEND_BUFFER, STREAM_WINDOW,
    STREAMS_MAX, convert, describe, name, poll_send, send_data, send_end, tunnel::Tunnel,
};
use crate::{
    body::{BodyWriter, Next},
    client,
    connect::{self, Verdict},
    error::{Failure, SERVER, page},
    exchange::{After, Context, Incoming, Outgoing, exchange, origin::AnswerHead},
    io::{self, Buffered, Io, Reader, Writer},
    upstream::{Upstreams, client_name},
};

/// How long what is left of a request is taken after its answer.
const REST: Duration = Duration::from_secs(1);
/// How long a connection may take to say good-bye.
const LINGER: Duration = Duration::from_secs(2);

/// Serves streams until the connection ends. `read` is what was read from it already.
pub(crate) async fn serve(ctx: Context, io: Io, read: BytesMut, upstreams: &Upstreams) {
    let client = client_name(&ctx.client);
    let settings = Arc::clone(&ctx.settings);
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(settings.rules.limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(Buffered::new(read, io));
    let mut connection = match timeout(settings.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            info!(client = %client, "{}", describe(&error));
            return;
        }
        Err(_) => {
            info!(client = %client, "Closing connection due to inactivity.");
            return;
        }
    };
    // In this task, as all of a client connection: what they send gathers, and no other thread must be woken for it.
    let mut streams: FuturesUnordered<Pin<Box<dyn Future<Output = Ended> + Send>>> =
        FuturesUnordered::new();
    let mut patience = settings.idle_timeout;
    let mut haste = Haste::default();
    let ended = loop {
        let is_full = streams.len() >= BUSY_MAX as usize;
        tokio::select! {
            biased;
            Some(ended) = streams.next() => {
                if ended.is_err() {
                    error!(client = %client, "A stream failed, which is an error of this program.");
                }
                haste.note(ended.unwrap_or(false));
                if haste.is_flood() {
                    info!(
                        client = %client,
                        "HTTP/2 connection closed: the client gives up at once most of what it asks for."
                    );
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    let closed = poll_fn(|cx| connection.poll_closed(cx));
                    // It is told if it listens.
                    let _ = timeout(LINGER, closed).await;
                    break Ok(());
                }
            }
            accepted = accept(&mut connection, is_full) => match accepted {
                Some(Ok((request, respond))) => {
                    let ctx = Context { settings: ctx.engine.settings(), ..ctx.clone() };
                    let stream = stream(ctx, request, respond, upstreams.clone());
                    streams.push(Box::pin(AssertUnwindSafe(stream).catch_unwind()));
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            () = upstreams.watch_idle() => {}
            () = sleep(patience), if streams.is_empty() => {
                if patience == LINGER {
                    break Ok(());
                }
                info!(client = %client, "Closing connection due to inactivity.");
                connection.graceful_shutdown();
                // What the client began before it knew is still answered.
                patience = LINGER;
            }
        }
    };
    match ended {
        Ok(()) => {}
        Err(error) if error.is_io() => debug!(client = %client, "{}", describe(&error)),
        Err(error) => info!(client = %client, "{}", describe(&error)),
    }
    drop(connection);
    // They notice, and end their flows.
    while streams.next().await.is_some() {}
}

/// How a stream ended: by itself, or in a panic. True if the client gave it up at once.
type Ended = std::thread::Result<bool>;

/// How many streams a client may give up at once, if it does so with most. Each costs a flow and a request, and nothing
/// to the client (CVE-2023-44487). What is reset before it gets here is counted by the library.
const GIVEN_UP_MAX: usize = 500;
/// A stream that is given up after this time was meant.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How many streams a client has given up.
#[derive(Default)]
struct Haste {
    given_up: usize,
    others: usize,
}

impl Haste {
    fn note(&mut self, is_given_up: bool) {
        if is_given_up {
            self.given_up += 1;
        } else {
            self.others += 1;
        }
    }

    fn is_flood(&self) -> bool {
        self.given_up > GIVEN_UP_MAX.max(self.others)
    }
}

/// Waits for the next stream; for none if there are too many, but what goes on is still carried.
async fn accept(
    connection: &mut Connection<Buffered, Bytes>,
    is_full: bool,
) -> Option<Result<(http::Request<RecvStream>, SendResponse<Bytes>), h2::Error>> {
    if is_full {
        return match poll_fn(|cx| connection.poll_closed(cx)).await {
            Ok(()) => None,
            Err(error) => Some(Err(error)),
        };
    }
    connection.accept().await
}

/// Serves one stream. True if the client gave it up at once.
async fn stream(
    ctx: Context,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    upstreams: Upstreams,
) -> bool {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let rules = ctx.settings.rules;
    let sender = Sender(Arc::new(Mutex::new(Sending { respond, stream: None })));
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    let mut outgoing = H2Outgoing {
        sender: sender.clone(),
        head: None,
        is_ended: false,
        is_head: parts.method == http::Method::HEAD,
        is_upgrade: protocol.is_some(),
        is_given_up: false,
        reason: Reason::INTERNAL_ERROR,
        patience: ctx.settings.idle_timeout,
    };
    if parts.method == http::Method::CONNECT && protocol.is_none() {
        tunnel(ctx, &parts, body, outgoing).await;
        return false;
    }
    let request = match protocol.map(h2::ext::Protocol::as_str) {
        Some(protocol) if protocol != "websocket" => {
            Err(format!("Unknown protocol of an extended CONNECT: {protocol}"))
        }
        _ => request_of(&ctx, &parts, &rules),
    };
    let request = match request {
        Ok(request) => request,
        Err(text) => {
            info!(client = %client_name(&ctx.client), "{text}");
            outgoing.error_page(400, &text).await;
            return false;
        }
    };
    // What follows an extended CONNECT is no body.
    let ended = body.is_end_stream() || outgoing.is_upgrade;
    let framing = convert::framing(&request.headers, ended)
        .map_err(|text| Failure::BadRequest(format!("Received {text} from client.")));
    let mut incoming = H2Incoming {
        body: BodyIn::new(body, rules),
        sender: sender.clone(),
        silence: ctx.settings.idle_timeout,
    };
    let future = exchange(&ctx, request, framing, &mut incoming, &mut outgoing, &upstreams);
    match future.await {
        // Nothing was said, or not all of it. (A complete answer that is not all sent yet must not be taken back.)
        After::KeepAlive | After::Drain | After::Close | After::Abort => {
            if outgoing.is_ended {
                incoming.take_rest().await;
            } else {
                sender.reset(outgoing.reason);
            }
        }
        After::Upgrade(conn, flow) => {
            let client = raw(incoming.body, &sender);
            client::upgraded(&ctx, client, *conn, flow).await;
        }
    }
    outgoing.is_given_up && begun.elapsed() < AT_ONCE
}

/// Answers a CONNECT, and runs the layers of what is in the tunnel.
async fn tunnel(
    mut ctx: Context,
    parts: &http::request::Parts,
    body: RecvStream,
    mut outgoing: H2Outgoing,
) {
    let authority = parts.uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let request = if ctx.target.is_some() {
        Err("Received a CONNECT request inside of a tunnel.".to_owned())
    } else {
        convert::connect_of(parts, &ctx.settings.rules)
    };
    let request = match request {
        Ok(request) => Request { timestamp_start: now(), timestamp_end: Some(now()), ..request },
        Err(text) => {
            info!(client = %client_name(&ctx.client), "{text} ({authority:?})");
            outgoing.error_page(400, &text).await;
            return;
        }
    };
    let upstreams = Upstreams::new(Arc::clone(&ctx.engine), ctx.client.clone());
    let sender = outgoing.sender.clone();
    let gone = async {
        sender.gone().await;
    };
    match connect::decide(&ctx, request, &upstreams, gone).await {
        Verdict::Gone => sender.reset(Reason::CANCEL),
        Verdict::Refused(mut response, page) => {
            response.headers.set("content-length", page.len().to_string());
            outgoing.head(&response, BodyWriter::Raw, true);
            if outgoing.data(&page).await.is_ok() {
                outgoing.end(None, None);
            }
        }
        Verdict::Granted(flow, destination) => {
            let response = Response { status_code: 200, ..Response::default() };
            outgoing.head(&response, BodyWriter::Raw, true);
            if outgoing.flush().await.is_err() {
                upstreams.finish().await;
                return;
            }
            connect::granted(&ctx, flow).await;
            // What is inside may speak TLS of its own, which is not that of other tunnels.
            ctx.client = Shared::new(Client {
                tls: false,
                tls_facts: mitm_flow::connection::TlsFacts::default(),
                mitmcert: None,
                ..ctx.client.get()
            });
            ctx.target = Some(destination);
            let body = BodyIn::new(body, ctx.settings.rules);
            let (reader, writer) = raw(body, &sender);
            client::inner_layers(ctx, reader, writer, upstreams.clone()).await;
        }
    }
    upstreams.finish().await;
}

/// Makes a stream whose head was answered one of bytes.
fn raw(body: BodyIn, sender: &Sender) -> (Reader, Writer) {
    match sender.0.lock().stream.take() {
        Some(stream) => io::split(Io::Any(Box::new(Tunnel::new(body, stream))), BytesMut::new()),
        None => io::split(Io::Any(Box::new(tokio::io::empty())), BytesMut::new()),
    }
}

/// Makes the request of a flow; the error is the text of a 400.
fn request_of(
    ctx: &Context,
    parts: &http::request::Parts,
    rules: &Rules,
) -> Result<Request, String> {
    let mut request = convert::request_of(parts, rules)?;
    request.timestamp_start = now();
    if parts.extensions.get::<h2::ext::Protocol>().is_some() {
        convert::upgrade_of(&mut request);
    }
    if ctx.target.is_some() {
        ctx.lead(&mut request);
        return Ok(request);
    }
    let named = if request.authority.is_empty() {
        request.headers.get("host").cloned().unwrap_or_default()
    } else {
        request.authority.clone()
    };
    let Some((host, port)) = parse_host_port(&named) else {
        return Err("HTTP request has no host header, destination unknown.".into());
    };
    request.port = port.unwrap_or(if &request.scheme[..] == b"https" { 443 } else { 80 });
    request.host = host;
    Ok(request)
}

/// The sending half of a stream, from before its head until its end.
#[derive(Clone)]
struct Sender(Arc<Mutex<Sending>>);

struct Sending {
    respond: SendResponse<Bytes>,
    /// There once the head was sent.
    stream: Option<SendStream<Bytes>>,
}

impl Sender {
    fn reset(&self, reason: Reason) {
        self.0.lock().respond.send_reset(reason);
    }

    /// Waits until the client gives the stream, or the connection, up.
    async fn gone(&self) -> Failure {
        let reset = poll_fn(|cx| {
            let mut sending = self.0.lock();
            let Sending { respond, stream } = &mut *sending;
            match stream {
                Some(stream) => stream.poll_reset(cx),
                None => respond.poll_reset(cx),
            }
        });
        match reset.await {
            Ok(Reason::NO_ERROR) => std::future::pending().await,
            Ok(reason) => Failure::Reset(name(reason)),
            Err(error) => client_failed(&error),
        }
    }
}

fn body_failed(error: BodyError) -> Failure {
    match error {
        BodyError::Http2(error) => client_failed(&error),
        BodyError::Malformed(text) => {
            Failure::BadRequest(format!("Received a {text} from client."))
        }
    }
}

fn client_failed(error: &h2::Error) -> Failure {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => Failure::Reset(name(reason)),
        Some(Reason::NO_ERROR) | None => Failure::ClientGone,
        Some(_) if error.is_go_away() => Failure::ClientFailed(describe(error)),
        Some(_) => Failure::BadRequest(describe(error)),
    }
}

struct H2Incoming {
    body: BodyIn,
    sender: Sender,
    /// How long the client may be silent within its body.
    silence: Duration,
}

impl H2Incoming {
    /// Takes what is on the way of a body that nobody wants, and gives the client a moment to see its answer. Without a
    /// reader the stream is reset, which some that still send take for the end of both directions (RFC 9113 §8.1).
    async fn take_rest(&mut self) {
        let rest = async {
            let mut left = STREAM_WINDOW as usize;
            while !self.body.is_complete() {
                tokio::select! {
                    biased;
                    next = poll_fn(|cx| self.body.poll_next(cx)), if left > 0 => match next {
                        Ok(Next::Piece(piece)) => left = left.saturating_sub(piece.data_len()),
                        Ok(Next::End { .. }) | Err(_) => return,
                    },
                    _ = self.sender.gone() => return,
                }
            }
        };
        // It goes on if it has not understood by then.
        let _ = timeout(REST, rest).await;
    }
}

impl Incoming for H2Incoming {
    fn next(&mut self) -> Result<Option<Next>, Failure> {
        self.body.next().map_err(body_failed)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        match timeout(self.silence, self.body.fill()).await {
            Ok(filled) => filled.map_err(body_failed),
            Err(_) => Err(Failure::ClientGone),
        }
    }

    fn is_complete(&self) -> bool {
        self.body.is_complete()
    }

    fn is_http1(&self) -> bool {
        false
    }

    async fn gone(&mut self, _: bool) -> Failure {
        self.sender.gone().await
    }
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct H2Outgoing {
    sender: Sender,
    /// The head that goes out with what follows it, and whether nothing does.
    head: Option<(http::Response<()>, bool)>,
    is_ended: bool,
    is_head: bool,
    /// The request was an extended CONNECT (RFC 8441): 101 is said as 200, and what follows is another protocol.
    is_upgrade: bool,
    /// The client did not wait for an answer.
    is_given_up: bool,
    /// What the client is told if it does not get all.
    reason: Reason,
    patience: Duration,
}

impl H2Outgoing {
    /// Sends the head, if it was not.
    fn send_head(&mut self, ended: bool) -> Result<(), Failure> {
        let Some((head, _)) = self.head.take() else { return Ok(()) };
        let mut sending = self.sender.0.lock();
        let stream = sending.respond.send_response(head, ended);
        sending.stream = Some(stream.map_err(|error| client_failed(&error))?);
        self.is_ended = ended;
        Ok(())
    }
}

impl Outgoing for H2Outgoing {
    async fn informational(&mut self, head: &AnswerHead) -> Result<(), Failure> {
        // What cannot be said in HTTP/2 is only information.
        if let Ok(head) = convert::response_to_http2(head.status, &head.headers) {
            let sent = self.sender.0.lock().respond.send_informational(head);
            sent.map_err(|error| client_failed(&error))?;
        }
        Ok(())
    }

    fn head(&mut self, response: &Response, body: BodyWriter, _: bool) {
        let switches = response.status_code == 101;
        let status = match response.status_code {
            101 => 200,
            // The client would take it for a yes.
            200..=299 if self.is_upgrade => 502,
            status => status,
        };
        match convert::response_to_http2(status, &response.headers) {
            Ok(mut head) => {
                head.headers_mut().remove("sec-websocket-accept");
                self.is_upgrade &= switches;
                self.head = Some((head, body == BodyWriter::Nothing && !switches));
            }
            Err(text) => {
                info!("The response cannot be sent over HTTP/2: {text}");
                self.sender.reset(Reason::INTERNAL_ERROR);
            }
        }
    }

    async fn piece(&mut self, piece: &Piece) -> Result<(), Failure> {
        for data in &piece.data {
            self.data(data).await?;
        }
        Ok(())
    }

    async fn data(&mut self, data: &Bytes) -> Result<(), Failure> {
        if data.is_empty() || self.head.as_ref().is_some_and(|(_, is_all)| *is_all) {
            return Ok(());
        }
        self.send_head(false)?;
        let sent =
            send_data(data, self.patience, |cx, rest| match &mut self.sender.0.lock().stream {
                Some(stream) => poll_send(stream, cx, rest),
                None => Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into())),
            });
        sent.await.map_err(|error| Failure::client(&error))
    }

    fn end(&mut self, _: Option<&Bytes>, trailers: Option<&Headers>) {
        if self.is_upgrade {
            return;
        }
        let trailers = trailers.filter(|_| !self.is_head);
        let sent = if self.head.is_some() && trailers.is_none() {
            self.send_head(true)
        } else {
            self.send_head(false).and_then(|()| {
                let mut sending = self.sender.0.lock();
                let Some(stream) = &mut sending.stream else { return Err(Failure::ClientGone) };
                send_end(stream, trailers).map_err(|error| Failure::client(&error))
            })
        };
        self.is_ended = sent.is_ok();
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        match &self.head {
            // Its end goes with it.
            Some((_, true)) | None => Ok(()),
            Some((_, false)) => self.send_head(false),
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.is_given_up =
            matches!(failure, Failure::Reset(_)) && self.sender.0.lock().stream.is_none();
        self.reason = match failure {
            Failure::ClientGone | Failure::Reset(_) => Reason::CANCEL,
            Failure::ServerReset(_, code) => Reason::from(*code),
            _ => Reason::INTERNAL_ERROR,
        };
    }

    fn retract(&mut self) -> bool {
        self.head.take().is_some()
    }

    async fn error_page(&mut self, status: u16, message: &str) {
        if self.reason != Reason::INTERNAL_ERROR {
            // A page would hide what the client can do about it.
            return;
        }
        let text = Bytes::from(page(status, message));
        let headers = [("server", SERVER), ("content-type", "text/html")].into_iter().collect();
        let response = Response { status_code: status, headers, ..Response::default() };
        self.head(&response, BodyWriter::Raw, true);
        if !self.is_head && self.data(&text).await.is_err() {
            return;
        }
        self.end(None, None);
    }
}
