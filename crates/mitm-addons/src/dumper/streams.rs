//! Conversations: WebSocket, TCP and UDP messages, DNS.

use std::borrow::Cow;

use mitm_flow::{FlowData, FlowRef, Opcode, dns};

use super::{Printer, content::Content, http::client_address};
use crate::output::{Style, many_lines, one_line};

/// What is shown for an address that is not known.
const NO_ADDRESS: &str = "<no address>";

impl Printer<'_> {
    pub(super) fn websocket_message(&mut self, flow: &FlowRef) {
        let Some(websocket) = flow.websocket() else { return };
        let message = websocket.with(|websocket| websocket.messages.last().cloned());
        let Some(message) = message.map(|message| message.get()) else { return };
        let what = match message.opcode {
            Opcode::Text => "WebSocket text message",
            Opcode::Binary => "WebSocket binary message",
        };
        let path = flow.request().map(|request| request.with(|request| request.path.clone()));
        let path = path.unwrap_or_default();
        let path = String::from_utf8_lossy(&path);
        self.arrow_line(flow, message.from_client, what, &one_line(&path));
        if self.settings.detail >= 3 {
            self.content(&Content::raw(&message.content));
        }
    }

    pub(super) fn websocket_end(&mut self, flow: &FlowRef) {
        let Some(websocket) = flow.websocket() else { return };
        let (code, reason, by_client) = websocket.with(|websocket| {
            let reason = websocket.close_reason.clone().unwrap_or_default();
            (websocket.close_code, reason, websocket.closed_by_client)
        });
        let reason = one_line(&reason);
        // A connection that ended without a close frame (RFC 6455 §7.1.5).
        let code = code.unwrap_or(1006);
        if matches!(code, 1000 | 1001 | 1005) {
            let by = if by_client == Some(true) { "client" } else { "server" };
            let line = format!("WebSocket connection closed by {by}: {code} {reason}");
            self.block.push(&line).end();
            return;
        }
        let server = server_address(flow);
        let mut line = format!("Error in WebSocket connection to {server}: WebSocket Error: ");
        line.push_str(&close_name(code));
        if !reason.is_empty() {
            line.push_str(" (reason: ");
            line.push_str(&reason);
            line.push(')');
        }
        self.block.styled(Style::RED, &line).end();
    }

    pub(super) fn stream_message(&mut self, flow: &FlowRef, protocol: &str) {
        let Some(message) = flow.last_message().map(|message| message.get()) else { return };
        self.arrow_line(flow, message.from_client, protocol, "");
        if self.settings.detail >= 3 {
            self.content(&Content::raw(&message.content));
        }
    }

    pub(super) fn stream_error(&mut self, flow: &FlowRef, protocol: &str) {
        let server = server_address(flow);
        let error = flow.error().map_or_else(|| "unknown".into(), |error| error.msg);
        let error = many_lines(&error);
        let line = format!("Error in {protocol} connection to {server}: {error}");
        self.block.styled(Style::RED, &line).end();
    }

    /// `CLIENT -> what -> SERVERpath`, the arrows as the message went.
    fn arrow_line(&mut self, flow: &FlowRef, from_client: bool, what: &str, path: &str) {
        let client = client_address(flow);
        let client = if client.is_empty() { NO_ADDRESS } else { &client };
        let arrow = if from_client { " -> " } else { " <- " };
        self.block.push(client).push(arrow).push(what).push(arrow);
        self.block.push(&server_address(flow)).push(path).end();
    }

    pub(super) fn dns(&mut self, flow: &FlowRef) {
        let FlowData::Dns { request, response } = flow.data() else { return };
        let request = request.get();
        let question = request.questions.first();
        let (kind, name) = match question {
            Some(question) => (dns::type_name(question.kind), &*question.name),
            None => (Cow::from(""), ""),
        };
        let what = format!("DNS {} ({kind})", dns::op_code_name(request.op_code));
        let style = match what.as_str() {
            "DNS QUERY (A)" => Style::GREEN,
            "DNS QUERY (AAAA)" => Style::MAGENTA,
            _ => Style::RED,
        };
        self.block.push(&client_address(flow)).push(": ").styled(style, &what).push(" ");
        self.block.styled(Style::BOLD, &one_line(name)).end();
        if let Some(response) = response.map(|response| response.get()) {
            self.block.styled(Style::BOLD, " <<").push(" ");
            for (i, answer) in response.answers.iter().enumerate() {
                self.block.push(if i > 0 { ", " } else { "" });
                self.block.styled(Style::BRIGHT_BLUE, &one_line(&answer.text()));
            }
            if response.answers.is_empty() {
                let code = dns::response_code_name(response.response_code);
                self.block.styled(Style::RED, &code);
            }
            self.block.end();
        }
        if let Some(error) = flow.error() {
            self.error_line(&error.msg);
        }
    }
}

fn server_address(flow: &FlowRef) -> String {
    let address = flow.server().with(|server| server.address.clone());
    match address {
        Some(address) => one_line(&address.to_string()).into_owned(),
        None => NO_ADDRESS.to_owned(),
    }
}

/// Returns the name of a close code (RFC 6455 §7.4.1 and its registry).
fn close_name(code: i64) -> Cow<'static, str> {
    let name = match code {
        1002 => "PROTOCOL_ERROR",
        1003 => "UNSUPPORTED_DATA",
        1006 => "ABNORMAL_CLOSURE",
        1007 => "INVALID_FRAME_PAYLOAD_DATA",
        1008 => "POLICY_VIOLATION",
        1009 => "MESSAGE_TOO_BIG",
        1010 => "MANDATORY_EXT",
        1011 => "INTERNAL_ERROR",
        1012 => "SERVICE_RESTART",
        1013 => "TRY_AGAIN_LATER",
        1015 => "TLS_HANDSHAKE_FAILED",
        _ => return format!("UNKNOWN_ERROR={code}").into(),
    };
    name.into()
}
