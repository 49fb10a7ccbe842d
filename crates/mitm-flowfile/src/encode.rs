//! From a [`FlowSnapshot`] to the bytes of a record, in one pass and without a tree of values in between.
//!
//! The buffer is filled from its end ([`Back`]), so each function here names the values of its dict from the last in the
//! file to the first; that gives the order mitmproxy writes.

use mitm_flow::{
    Address, Cert, Client, FlowSnapshot, Headers, Request, Response, Server, SnapshotData, Via,
    connection::TlsFacts,
    dns::{DnsMessage, Question, ResourceRecord},
    snapshot::WebSocketSnapshot,
    websocket::StreamMessage,
};

use crate::{
    back::Back,
    record::CURRENT_VERSION,
    tnetstring::{Problem, put_value},
};

/// How deep backups may nest: a backup has none of its own.
const BACKUPS: usize = 1;

/// Prepends a flow.
///
/// # Errors
/// The metadata is nested too deeply.
pub(crate) fn put_flow(out: &mut Back, flow: &FlowSnapshot) -> Result<(), Problem> {
    put_state(out, flow, BACKUPS)
}

/// Metadata that stays in memory: the name and password that a client said to use the proxy. A flow file may be passed
/// on by who never thinks of them.
fn is_secret(key: &mitm_flow::Value) -> bool {
    match key {
        mitm_flow::Value::Str(key) => key == "proxyauth",
        mitm_flow::Value::Bytes(key) => &key[..] == b"proxyauth",
        _ => false,
    }
}

fn put_state(out: &mut Back, flow: &FlowSnapshot, backups: usize) -> Result<(), Problem> {
    let dict = out.open(b'}');
    out.int(CURRENT_VERSION);
    out.put_array(b"7:version;");
    out.text(flow.data.kind().as_str());
    out.put_array(b"4:type;");
    out.text(&flow.id);
    out.put_array(b"2:id;");
    match &flow.error {
        None => out.null(),
        Some(error) => {
            let dict = out.open(b'}');
            out.text(&error.msg);
            out.put_array(b"3:msg;");
            out.float(error.timestamp);
            out.put_array(b"9:timestamp;");
            out.close(dict);
        }
    }
    out.put_array(b"5:error;");
    put_client(out, &flow.client);
    out.put_array(b"11:client_conn;");
    put_server(out, &flow.server);
    out.put_array(b"11:server_conn;");
    out.boolean(flow.intercepted);
    out.put_array(b"11:intercepted;");
    out.opt_text(flow.is_replay.map(mitm_flow::Replay::as_str));
    out.put_array(b"9:is_replay;");
    out.text(&flow.marked);
    out.put_array(b"6:marked;");
    let metadata = out.open(b'}');
    for (key, value) in flow.metadata.iter().rev().filter(|(key, _)| !is_secret(key)) {
        put_value(out, value, 1)?;
        put_value(out, key, 1)?;
    }
    out.close(metadata);
    out.put_array(b"8:metadata;");
    out.text(&flow.comment);
    out.put_array(b"7:comment;");
    out.float(flow.timestamp_created);
    out.put_array(b"17:timestamp_created;");
    match &flow.backup {
        Some(backup) if backups > 0 => put_state(out, backup, backups - 1)?,
        _ => out.null(),
    }
    out.put_array(b"6:backup;");
    match &flow.data {
        SnapshotData::Http { request, response, websocket } => {
            put_request(out, request);
            out.put_array(b"7:request;");
            match response {
                None => out.null(),
                Some(response) => put_response(out, response),
            }
            out.put_array(b"8:response;");
            match websocket {
                None => out.null(),
                Some(websocket) => put_websocket(out, websocket),
            }
            out.put_array(b"9:websocket;");
        }
        SnapshotData::Tcp(messages) | SnapshotData::Udp(messages) => {
            put_messages(out, messages);
            out.put_array(b"8:messages;");
        }
        SnapshotData::Dns { request, response } => {
            put_dns(out, request);
            out.put_array(b"7:request;");
            match response {
                None => out.null(),
                Some(response) => put_dns(out, response),
            }
            out.put_array(b"8:response;");
        }
    }
    out.close(dict);
    Ok(())
}

fn put_client(out: &mut Back, client: &Client) {
    let dict = out.open(b'}');
    // These two are never null in a file.
    put_address(out, client.peername.as_ref().unwrap_or(&Address::new("", 0)));
    out.put_array(b"8:peername;");
    put_address(out, client.sockname.as_ref().unwrap_or(&Address::new("", 0)));
    out.put_array(b"8:sockname;");
    out.text(client.id.hyphenated().encode_lower(&mut [0; 36]));
    out.put_array(b"2:id;");
    out.text(client.transport.as_str());
    out.put_array(b"18:transport_protocol;");
    out.opt_text(client.error.as_deref());
    out.put_array(b"5:error;");
    out.boolean(client.tls);
    out.put_array(b"3:tls;");
    put_tls(out, &client.tls_facts);
    out.float(client.timestamp_start);
    out.put_array(b"15:timestamp_start;");
    out.opt_float(client.timestamp_end);
    out.put_array(b"13:timestamp_end;");
    out.opt_float(client.tls_facts.timestamp_setup);
    out.put_array(b"19:timestamp_tls_setup;");
    match &client.mitmcert {
        None => out.null(),
        Some(cert) => put_certificate(out, cert),
    }
    out.put_array(b"8:mitmcert;");
    out.text(&client.proxy_mode);
    out.put_array(b"10:proxy_mode;");
    out.close(dict);
}

fn put_server(out: &mut Back, server: &Server) {
    let dict = out.open(b'}');
    put_opt_address(out, server.peername.as_ref());
    out.put_array(b"8:peername;");
    put_opt_address(out, server.sockname.as_ref());
    out.put_array(b"8:sockname;");
    out.text(server.id.hyphenated().encode_lower(&mut [0; 36]));
    out.put_array(b"2:id;");
    out.text(server.transport.as_str());
    out.put_array(b"18:transport_protocol;");
    out.opt_text(server.error.as_deref());
    out.put_array(b"5:error;");
    out.boolean(server.tls);
    out.put_array(b"3:tls;");
    put_tls(out, &server.tls_facts);
    out.opt_float(server.timestamp_start);
    out.put_array(b"15:timestamp_start;");
    out.opt_float(server.timestamp_end);
    out.put_array(b"13:timestamp_end;");
    out.opt_float(server.tls_facts.timestamp_setup);
    out.put_array(b"19:timestamp_tls_setup;");
    match &server.address {
        None => out.null(),
        Some(address) => put_host_port(out, address),
    }
    out.put_array(b"7:address;");
    out.opt_float(server.timestamp_tcp_setup);
    out.put_array(b"19:timestamp_tcp_setup;");
    match &server.via {
        None => out.null(),
        Some(Via { scheme, address }) => {
            let list = out.open(b']');
            put_host_port(out, address);
            out.text(scheme);
            out.close(list);
        }
    }
    out.put_array(b"3:via;");
    out.close(dict);
}

/// The keys from `certificate_list` to `sni`.
fn put_tls(out: &mut Back, facts: &TlsFacts) {
    let list = out.open(b']');
    for cert in facts.certificate_list.iter().rev() {
        put_certificate(out, cert);
    }
    out.close(list);
    out.put_array(b"16:certificate_list;");
    match &facts.alpn {
        None => out.null(),
        Some(alpn) => out.leaf(b',', alpn),
    }
    out.put_array(b"4:alpn;");
    let list = out.open(b']');
    for offer in facts.alpn_offers.iter().rev() {
        out.leaf(b',', offer);
    }
    out.close(list);
    out.put_array(b"11:alpn_offers;");
    out.opt_text(facts.cipher.as_deref());
    out.put_array(b"6:cipher;");
    let list = out.open(b']');
    for cipher in facts.cipher_list.iter().rev() {
        out.text(cipher);
    }
    out.close(list);
    out.put_array(b"11:cipher_list;");
    out.opt_text(facts.version.map(mitm_flow::TlsVersion::as_str));
    out.put_array(b"11:tls_version;");
    out.opt_text(facts.sni.as_deref());
    out.put_array(b"3:sni;");
}

fn put_certificate(out: &mut Back, cert: &Cert) {
    out.leaf(b',', cert.to_pem().as_bytes());
}

fn put_opt_address(out: &mut Back, address: Option<&Address>) {
    match address {
        None => out.null(),
        Some(address) => put_address(out, address),
    }
}

/// The address of a socket: with flow information and scope, if it has them.
fn put_address(out: &mut Back, address: &Address) {
    let list = out.open(b']');
    if let Some((flow, scope)) = address.scope {
        out.int(scope.into());
        out.int(flow.into());
    }
    out.int(address.port.into());
    out.text(&address.host);
    out.close(list);
}

fn put_host_port(out: &mut Back, address: &Address) {
    let list = out.open(b']');
    out.int(address.port.into());
    out.text(&address.host);
    out.close(list);
}

fn put_request(out: &mut Back, request: &Request) {
    let dict = out.open(b'}');
    out.leaf(b',', &request.http_version);
    out.put_array(b"12:http_version;");
    put_headers(out, &request.headers);
    out.put_array(b"7:headers;");
    out.body(&request.body);
    out.put_array(b"7:content;");
    put_trailers(out, request.trailers.as_ref());
    out.put_array(b"8:trailers;");
    out.float(request.timestamp_start);
    out.put_array(b"15:timestamp_start;");
    out.opt_float(request.timestamp_end);
    out.put_array(b"13:timestamp_end;");
    out.text(&request.host);
    out.put_array(b"4:host;");
    out.int(request.port.into());
    out.put_array(b"4:port;");
    out.leaf(b',', &request.method);
    out.put_array(b"6:method;");
    out.leaf(b',', &request.scheme);
    out.put_array(b"6:scheme;");
    out.leaf(b',', &request.authority);
    out.put_array(b"9:authority;");
    out.leaf(b',', &request.path);
    out.put_array(b"4:path;");
    out.close(dict);
}

fn put_response(out: &mut Back, response: &Response) {
    let dict = out.open(b'}');
    out.leaf(b',', &response.http_version);
    out.put_array(b"12:http_version;");
    put_headers(out, &response.headers);
    out.put_array(b"7:headers;");
    out.body(&response.body);
    out.put_array(b"7:content;");
    put_trailers(out, response.trailers.as_ref());
    out.put_array(b"8:trailers;");
    out.float(response.timestamp_start);
    out.put_array(b"15:timestamp_start;");
    out.opt_float(response.timestamp_end);
    out.put_array(b"13:timestamp_end;");
    out.int(response.status_code.into());
    out.put_array(b"11:status_code;");
    out.leaf(b',', &response.reason);
    out.put_array(b"6:reason;");
    out.close(dict);
}

fn put_headers(out: &mut Back, headers: &Headers) {
    let list = out.open(b']');
    for (name, value) in headers.fields().iter().rev() {
        let field = out.open(b']');
        out.leaf(b',', value);
        out.leaf(b',', name);
        out.close(field);
    }
    out.close(list);
}

fn put_trailers(out: &mut Back, trailers: Option<&Headers>) {
    match trailers {
        None => out.null(),
        Some(trailers) => put_headers(out, trailers),
    }
}

fn put_websocket(out: &mut Back, websocket: &WebSocketSnapshot) {
    let dict = out.open(b'}');
    let messages = out.open(b']');
    for message in websocket.messages.iter().rev() {
        let list = out.open(b']');
        out.boolean(message.injected);
        out.boolean(message.dropped);
        out.float(message.timestamp);
        out.content(&message.content);
        out.boolean(message.from_client);
        out.int(message.opcode as i64);
        out.close(list);
    }
    out.close(messages);
    out.put_array(b"8:messages;");
    match websocket.closed_by_client {
        None => out.null(),
        Some(by_client) => out.boolean(by_client),
    }
    out.put_array(b"16:closed_by_client;");
    match websocket.close_code {
        None => out.null(),
        Some(code) => out.int(code),
    }
    out.put_array(b"10:close_code;");
    out.opt_text(websocket.close_reason.as_deref());
    out.put_array(b"12:close_reason;");
    out.opt_float(websocket.timestamp_end);
    out.put_array(b"13:timestamp_end;");
    out.close(dict);
}

fn put_messages(out: &mut Back, messages: &[StreamMessage]) {
    let list = out.open(b']');
    for message in messages.iter().rev() {
        let parts = out.open(b']');
        out.float(message.timestamp);
        out.content(&message.content);
        out.boolean(message.from_client);
        out.close(parts);
    }
    out.close(list);
}

fn put_dns(out: &mut Back, message: &DnsMessage) {
    let dict = out.open(b'}');
    out.opt_float(message.timestamp);
    out.put_array(b"9:timestamp;");
    out.int(message.id.into());
    out.put_array(b"2:id;");
    out.boolean(message.query);
    out.put_array(b"5:query;");
    out.int(message.op_code.into());
    out.put_array(b"7:op_code;");
    out.boolean(message.authoritative_answer);
    out.put_array(b"20:authoritative_answer;");
    out.boolean(message.truncation);
    out.put_array(b"10:truncation;");
    out.boolean(message.recursion_desired);
    out.put_array(b"17:recursion_desired;");
    out.boolean(message.recursion_available);
    out.put_array(b"19:recursion_available;");
    out.int(message.reserved.into());
    out.put_array(b"8:reserved;");
    out.int(message.response_code.into());
    out.put_array(b"13:response_code;");
    let list = out.open(b']');
    for Question { name, kind, class } in message.questions.iter().rev() {
        let dict = out.open(b'}');
        out.text(name);
        out.put_array(b"4:name;");
        out.int((*kind).into());
        out.put_array(b"4:type;");
        out.int((*class).into());
        out.put_array(b"6:class_;");
        out.close(dict);
    }
    out.close(list);
    out.put_array(b"9:questions;");
    for (key, records) in [
        ("answers", &message.answers),
        ("authorities", &message.authorities),
        ("additionals", &message.additionals),
    ] {
        let list = out.open(b']');
        for ResourceRecord { name, kind, class, ttl, data } in records.iter().rev() {
            let dict = out.open(b'}');
            out.text(name);
            out.put_array(b"4:name;");
            out.int((*kind).into());
            out.put_array(b"4:type;");
            out.int((*class).into());
            out.put_array(b"6:class_;");
            out.int((*ttl).into());
            out.put_array(b"3:ttl;");
            out.leaf(b',', data);
            out.put_array(b"4:data;");
            out.close(dict);
        }
        out.close(list);
        out.text(key);
    }
    out.close(dict);
}

impl Back {
    #[inline]
    fn text(&mut self, text: &str) {
        self.leaf(b';', text.as_bytes());
    }

    fn opt_text(&mut self, text: Option<&str>) {
        match text {
            None => self.null(),
            Some(text) => self.text(text),
        }
    }

    fn opt_float(&mut self, value: Option<f64>) {
        match value {
            None => self.null(),
            Some(value) => self.float(value),
        }
    }

    /// Prepends the content of a message, which is never null.
    fn content(&mut self, body: &mitm_flow::Body) {
        if body.is_missing() {
            self.leaf(b',', b"");
        } else {
            self.body(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use mitm_flow::{Value, test_util};

    #[test]
    fn credentials_stay_in_memory() {
        let flow = test_util::http_flow();
        let secret = Value::List(vec!["user".into(), "s3cret".into()]);
        flow.set_metadata(vec![
            ("before".into(), "kept".into()),
            ("proxyauth".into(), secret.clone()),
            (Value::Bytes("proxyauth".into()), secret),
        ]);
        flow.backup();
        flow.set_metadata_entry("after", "kept, too".into());
        let file = crate::writer::to_bytes(&flow.snapshot()).unwrap();
        let file = String::from_utf8_lossy(&file);
        assert!(file.contains("kept, too") && file.matches("6:before").count() == 2);
        assert!(!file.contains("s3cret") && !file.contains("proxyauth"));
        assert!(flow.metadata().len() == 4);
    }
}
