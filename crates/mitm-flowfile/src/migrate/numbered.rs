//! The steps from version 4 on, each named after the version it leads to.

use mitm_flow::Value;

use crate::{decode::uuid_of, tnetstring};

use super::{Migrator, connections, entry, part, rename};

/// Connections get ids: the same for the same start and address.
pub(super) fn to_5(state: &mut Value) {
    for (key, address) in [("client_conn", "address"), ("server_conn", "source_address")] {
        part(state, key, |connection| {
            let get = |key| connection.get(key).cloned().unwrap_or_default();
            let identity = Value::List(vec![key.into(), get("timestamp_start"), get(address)]);
            let identity = tnetstring::encode(&identity).unwrap_or_default();
            connection.set("id", Value::Str(uuid_of(&identity).to_string()));
        });
    }
}

/// SSL is called TLS.
pub(super) fn to_6(state: &mut Value) {
    connections(state, |connection| {
        rename(connection, "ssl_established", "tls_established");
        rename(connection, "timestamp_ssl_setup", "timestamp_tls_setup");
    });
}

pub(super) fn to_8(state: &mut Value) {
    for key in ["request", "response"] {
        part(state, key, |message| message.set("trailers", Value::Null));
    }
}

/// Replay becomes a fact of the flow instead of its messages.
pub(super) fn to_9(state: &mut Value) {
    let mut replayed = Value::Null;
    // The request is looked at last: it wins.
    for key in ["response", "request"] {
        part(state, key, |message| {
            if message.remove("is_replay").is_some_and(|flag| flag.is_truthy()) {
                replayed = key.into();
            }
        });
    }
    part(state, "request", |request| {
        request.remove("first_line_format");
        request.set("authority", Value::Bytes(bytes::Bytes::new()));
    });
    state.set("is_replay", replayed);
}

pub(super) fn to_10(state: &mut Value) {
    connections(state, |connection| {
        let one = |value: Option<&Value>| match value {
            Some(value) if value.is_truthy() => Value::List(vec![value.clone()]),
            _ => Value::Null,
        };
        let alpn_offers = one(connection.get("alpn_proto_negotiated"));
        let cipher_list = one(connection.get("cipher_name"));
        let tls = connection.get("tls_established").is_some_and(Value::is_truthy);
        connection.set("error", Value::Null);
        connection.set("tls", Value::Bool(tls));
        connection.set("alpn_offers", alpn_offers);
        connection.set("cipher_list", cipher_list);
    });
    let certificates = |connection: &mut Value, old: &str| {
        let list = match connection.remove(old) {
            Some(certificate) if certificate.is_truthy() => vec![certificate],
            _ => Vec::new(),
        };
        connection.set("certificate_list", Value::List(list));
    };
    part(state, "client_conn", |client| {
        client.set("sockname", Value::List(vec!["".into(), Value::Int(0)]));
        certificates(client, "clientcert");
    });
    part(state, "server_conn", |server| {
        certificates(server, "cert");
        server.set("cipher_name", Value::Null);
        server.set("cipher_list", Value::Null);
        server.set("via2", Value::Null);
    });
}

pub(super) fn to_11(state: &mut Value) {
    connections(state, |connection| {
        rename(connection, "alpn_proto_negotiated", "alpn");
        for key in ["alpn_offers", "cipher_list"] {
            if !connection.get(key).is_some_and(Value::is_truthy) {
                connection.set(key, Value::List(Vec::new()));
            }
        }
    });
}

/// WebSocket conversations, flows of their own before, become part of a copy of the HTTP flow of their handshake.
pub(super) fn to_12(migrator: &mut Migrator, mut state: Value) -> Value {
    let metadata = state.get("metadata");
    let is_conversation = state.get("type") == Some(&"websocket".into());
    if !is_conversation
        && metadata.is_some_and(|metadata| metadata.get("websocket").is_some())
        && let Some(Value::Str(id)) = state.get("id")
    {
        let mut handshake = state.clone();
        // Its own copy gets the conversation below.
        handshake.set("websocket", Value::Null);
        migrator.remember(id.clone(), handshake);
    }
    let link = metadata.and_then(|metadata| metadata.get("websocket_handshake")).cloned();
    if link.is_none() && !is_conversation {
        state.set("websocket", Value::Null);
        return state;
    }
    let handshake = match &link {
        Some(Value::Str(id)) => migrator.recall(id),
        _ => None,
    };
    let mut take = |key| state.remove(key).unwrap_or_default();
    let (messages, close_code, close_reason) =
        (take("messages"), take("close_code"), take("close_reason"));
    let closed_by_client = match take("close_sender") {
        Value::Str(sender) => sender == "client",
        Value::Bytes(sender) => sender == "client",
        _ => false,
    };
    let mut flow = handshake.unwrap_or_else(|| unknown_handshake(&mut state));
    if let Some(metadata) = entry(&mut flow, "metadata") {
        let notice = "This flow was made from a WebSocket flow of an older file format; \
                      its handshake may appear as a flow of its own as well.";
        metadata.set("duplicated", notice.into());
    }
    let timestamp_end = flow.get("server_conn").and_then(|server| server.get("timestamp_end"));
    let websocket = [
        ("timestamp_end", timestamp_end.cloned().unwrap_or_default()),
        ("messages", messages),
        ("closed_by_client", Value::Bool(closed_by_client)),
        ("close_code", close_code),
        ("close_reason", close_reason),
    ];
    flow.set("websocket", map(websocket));
    flow
}

/// Makes up an HTTP flow around a WebSocket conversation whose handshake is not in the file.
fn unknown_handshake(state: &mut Value) -> Value {
    let bytes = |text: &'static str| Value::Bytes(text.into());
    let request = [
        ("authority", bytes("")),
        ("content", Value::Null),
        ("headers", Value::List(Vec::new())),
        ("host", "unknown".into()),
        ("http_version", bytes("HTTP/1.1")),
        ("method", bytes("GET")),
        ("path", bytes("/")),
        ("port", Value::Int(80)),
        ("scheme", bytes("http")),
        ("timestamp_end", Value::Int(0)),
        ("timestamp_start", Value::Int(0)),
        ("trailers", Value::Null),
    ];
    let kept = ["client_conn", "error", "id", "intercepted", "is_replay", "marked", "server_conn"]
        .map(|key| (key, state.remove(key).unwrap_or_default()));
    let mut flow = map(kept);
    flow.set("metadata", Value::Map(Vec::new()));
    flow.set("mode", "transparent".into());
    flow.set("request", map(request));
    flow.set("response", Value::Null);
    flow.set("type", "http".into());
    flow
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// A mark is a name instead of a flag.
pub(super) fn to_13(state: &mut Value) {
    let marked = state.get("marked").is_some_and(Value::is_truthy);
    state.set("marked", if marked { ":default:".into() } else { "".into() });
}

/// Flows have comments. Responses always have a start.
pub(super) fn to_14(state: &mut Value) {
    state.set("comment", "".into());
    let request = state.get("request");
    let time = |key| request.and_then(|request| request.get(key)).filter(|time| !time.is_null());
    let end = time("timestamp_end").or_else(|| time("timestamp_start")).cloned();
    let end = end.unwrap_or(Value::Float(0.0));
    part(state, "response", |response| {
        if response.get("timestamp_start").is_none_or(Value::is_null) {
            response.set("timestamp_end", later(&end));
            response.set("timestamp_start", end);
        }
    });
}

fn later(time: &Value) -> Value {
    match time {
        Value::Int(time) => Value::Int(time.saturating_add(1)),
        Value::Float(time) => Value::Float(time + 1.0),
        other => other.clone(),
    }
}

/// WebSocket messages say whether they were injected. Some releases left out whether they were dropped.
pub(super) fn to_15(state: &mut Value) {
    part(state, "websocket", |websocket| {
        let Some(Value::List(messages)) = entry(websocket, "messages") else { return };
        for message in messages {
            if let Value::List(parts) = message {
                parts.resize(parts.len().clamp(5, 6), Value::Bool(false));
                parts.resize(6, Value::Bool(false));
            }
        }
    });
}

/// Flows know when they were created.
pub(super) fn to_16(state: &mut Value) {
    let first = state.get("request").filter(|request| matches!(request, Value::Map(_)));
    let first = first.or_else(|| state.get("client_conn"));
    let created = first.and_then(|part| part.get("timestamp_start")).cloned();
    state.set("timestamp_created", created.unwrap_or_default());
}

pub(super) fn to_18(state: &mut Value) {
    part(state, "client_conn", |client| client.set("proxy_mode", "regular".into()));
}

/// Connections get the attributes they have today.
pub(super) fn to_19(state: &mut Value) {
    part(state, "client_conn", |client| {
        rename(client, "address", "peername");
        if client.get("timestamp_start").is_none_or(Value::is_null) {
            client.set("timestamp_start", Value::Float(0.0));
        }
        client.remove("tls_extensions");
    });
    part(state, "server_conn", |server| {
        rename(server, "ip_address", "peername");
        rename(server, "source_address", "sockname");
        rename(server, "via2", "via");
        if server.get("sni") == Some(&Value::Bool(true)) {
            let host = match server.get("address") {
                Some(Value::List(address)) => address.first().cloned(),
                _ => None,
            };
            server.set("sni", host.unwrap_or_default());
        }
    });
    connections(state, |connection| {
        connection.remove("tls_established");
        rename(connection, "cipher_name", "cipher");
        if connection.get("transport_protocol").is_none() {
            connection.set("transport_protocol", "tcp".into());
        }
    });
}

pub(super) fn to_20(state: &mut Value) {
    connections(state, |connection| drop(connection.remove("state")));
}

/// The TLS version of QUIC is called by its version.
pub(super) fn to_21(state: &mut Value) {
    connections(state, |connection| {
        if connection.get("tls_version") == Some(&"QUIC".into()) {
            connection.set("tls_version", "QUICv1".into());
        }
    });
}
