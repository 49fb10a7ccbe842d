//! HTTP flows: the two lines, headers, bodies, trailers, and the error.

use mitm_flow::{Body, FlowRef, Headers, Replay, Request, Response, human, status};

use super::{Printer, content};
use crate::output::{Style, many_lines, one_line};

/// The shortest that a URL is cut to.
const MIN_URL: usize = 50;

/// What else stands in the line of a URL.
const BESIDE_URL: usize = 25;

const REPLAY: &str = "[replay]";

/// The parts that request and response have in common.
struct Message<'a> {
    headers: &'a Headers,
    body: &'a Body,
    trailers: Option<&'a Headers>,
}

impl Printer<'_> {
    pub(super) fn http(&mut self, flow: &FlowRef) {
        let Some(request) = flow.request().map(|request| request.get()) else { return };
        let response = flow.response().map(|response| response.get());
        let client = client_address(flow);
        let replay = flow.is_replay();
        let version = response.as_ref().map_or(&b"HTTP/1.1"[..], |response| &response.http_version);
        let with_version = !is_http1(&request.http_version) || version != request.http_version;

        self.request_line(&request, &client, replay, with_version);
        self.message(&Message {
            headers: &request.headers,
            body: &request.body,
            trailers: request.trailers.as_ref(),
        });
        if let Some(response) = &response {
            let with_version = !is_http1(&response.http_version) || with_version;
            self.response_line(response, &client, replay, with_version);
            self.message(&Message {
                headers: &response.headers,
                body: &response.body,
                trailers: response.trailers.as_ref(),
            });
        }
        if let Some(error) = flow.error() {
            self.error_line(&error.msg);
        }
    }

    /// ` << MESSAGE`
    pub(super) fn error_line(&mut self, msg: &str) {
        self.block.styled(Style::RED.bold(), &format!(" << {}", many_lines(msg))).end();
    }

    /// `CLIENT: METHOD URL[ VERSION]`
    fn request_line(
        &mut self,
        request: &Request,
        client: &str,
        replay: Option<Replay>,
        with_version: bool,
    ) {
        if replay == Some(Replay::Request) {
            self.block.styled(Style::YELLOW.bold(), REPLAY);
        } else {
            self.block.push(client);
        }
        let method = String::from_utf8_lossy(&request.method);
        let style = match &*request.method.to_ascii_uppercase() {
            b"GET" => Style::GREEN,
            b"DELETE" => Style::RED,
            _ => Style::MAGENTA,
        };
        let url =
            if self.settings.showhost { request.pretty_url_bytes() } else { request.url_bytes() };
        let url = String::from_utf8_lossy(&url);
        let url = one_line(&url);
        let url = self.shortened(&url);
        self.block.push(": ").styled(style.bold(), &one_line(&method)).push(" ");
        self.block.styled(Style::BOLD, &url);
        if with_version {
            let version = String::from_utf8_lossy(&request.http_version);
            self.block.push(" ").push(&one_line(&version));
        }
        self.block.end();
    }

    fn shortened<'a>(&self, url: &'a str) -> std::borrow::Cow<'a, str> {
        // Most are so short that the width of the terminal does not matter.
        if self.settings.detail != 1 || url.len() <= MIN_URL {
            return url.into();
        }
        let limit = self.output.columns().saturating_sub(BESIDE_URL).max(MIN_URL);
        match url.char_indices().nth(limit) {
            Some((end, _)) => format!("{}…", url.get(..end).unwrap_or(url)).into(),
            None => url.into(),
        }
    }

    /// ` << [VERSION ]CODE REASON SIZE`, at detail 1 with the arrows below the end of the client's address.
    fn response_line(
        &mut self,
        response: &Response,
        client: &str,
        replay: Option<Replay>,
        with_version: bool,
    ) {
        let is_replay = replay == Some(Replay::Response);
        let version = if with_version {
            format!("{} ", String::from_utf8_lossy(&response.http_version))
        } else {
            String::new()
        };
        if is_replay {
            self.block.styled(Style::YELLOW.bold(), REPLAY);
        }
        if self.settings.detail == 1 {
            let beside = 2 + version.chars().count() + if is_replay { REPLAY.len() } else { 0 };
            self.block.blanks(client.chars().count().saturating_sub(beside));
        }
        let style = match response.status_code {
            200..300 => Style::GREEN,
            300..400 => Style::MAGENTA,
            400..600 => Style::RED,
            _ => Style::PLAIN,
        };
        let style = style.bold();
        let code_style = style.blink(response.status_code == 418);
        self.block.styled(Style::BOLD, " <<").push(" ").push(&one_line(&version));
        self.block.styled(code_style, &response.status_code.to_string()).push(" ");
        if is_http1(&response.http_version) {
            let reason = String::from_utf8_lossy(&response.reason);
            self.block.styled(style, &one_line(&reason));
        } else {
            self.block.styled(style, status::reason(response.status_code).unwrap_or_default());
        }
        let size = response.body.len().map(human::pretty_size);
        let size = size.as_deref().unwrap_or("(content missing)");
        self.block.push(" ").styled(Style::BOLD, size).end();
    }

    fn message(&mut self, message: &Message<'_>) {
        if self.settings.detail >= 2 {
            self.headers(message.headers);
        }
        if self.settings.detail >= 3 {
            let content_coding = message.headers.get_folded("content-encoding");
            let content = content::Content::decoded(message.body, content_coding.as_deref());
            self.content(&content);
        }
        if self.settings.detail >= 2
            && let Some(trailers) = message.trailers
            && !trailers.is_empty()
        {
            self.block.styled(Style::MAGENTA, "    --- HTTP Trailers").end();
            self.headers(trailers);
        }
    }

    fn headers(&mut self, headers: &Headers) {
        for (name, value) in headers.fields() {
            let name = human::bytes_to_escaped_str(name, false, false);
            let value = human::bytes_to_escaped_str(value, false, false);
            self.block.push("    ").styled(Style::BLUE, &name).push(": ").push(&value).end();
        }
    }
}

fn is_http1(version: &[u8]) -> bool {
    matches!(version, b"HTTP/1.0" | b"HTTP/1.1")
}

/// Returns the address of the client, nothing if it is not known.
pub(super) fn client_address(flow: &FlowRef) -> String {
    let address = flow.client().with(|client| client.peername.clone());
    address.map(|address| one_line(&address.to_string()).into_owned()).unwrap_or_default()
}
