//! Versions that were those of mitmproxy releases: 0.11 to 3.0.
//!
//! Keys were bytes up to 0.17; the methods of [`Value`] take either, so that the conversion to text happens once, at
//! the end. The `via` of these versions was a connection of its own; step 18 drops it, hence no step converts it.

use mitm_flow::Value;

use crate::{decode::escape_non_utf8, fault::Fault};

use super::{Context, connections, part, rename};

/// Migrates a state of the release `version` to version 4.
pub(super) fn to_4(state: &mut Value, version: (i64, i64), context: Context) -> Result<(), Fault> {
    let before = |release: (i64, i64)| version < release;
    if before((0, 14)) {
        to_0_14(state);
    }
    if before((0, 16)) {
        to_0_16(state);
    }
    if before((0, 18)) {
        to_0_18(state);
    }
    // The server's `peer_address`, as it was called for one version, is `ip_address` already.
    keys_to_text(state);
    texts_to_text(state);
    context.bounded(state)?;
    if before((0, 19)) {
        to_0_19(state);
    }
    unwrap_addresses(state);
    if before((3, 0)) {
        to_3(state);
    }
    Ok(())
}

fn to_0_14(state: &mut Value) {
    part(state, "request", |request| {
        rename(request, "form_in", "first_line_format");
        http_version(request);
    });
    part(state, "response", |response| {
        http_version(response);
        rename(response, "code", "status_code");
        rename(response, "content", "body");
    });
    part(state, "server_conn", |server| {
        server.remove("state");
        server.set("via", Value::Null);
    });
}

/// `httpversion`, a list of two numbers, becomes `http_version`, as in the first line.
fn http_version(message: &mut Value) {
    let numbers = match message.remove("httpversion") {
        Some(Value::List(numbers)) => numbers,
        _ => vec![Value::Int(1), Value::Int(1)],
    };
    let numbers: Vec<String> = numbers
        .iter()
        .filter_map(|number| match number {
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        })
        .collect();
    let text = format!("HTTP/{}", numbers.join("."));
    message.set("http_version", Value::Bytes(text.into()));
}

fn to_0_16(state: &mut Value) {
    for key in ["request", "response"] {
        part(state, key, |message| {
            if let Some(body) = message.remove("body") {
                message.set("content", body);
            }
        });
    }
    part(state, "response", |response| {
        if let Some(msg) = response.remove("msg") {
            response.set("reason", msg);
        }
    });
    part(state, "request", |request| drop(request.remove("form_out")));
}

fn to_0_18(state: &mut Value) {
    part(state, "server_conn", |server| rename(server, "peer_address", "ip_address"));
    state.set("marked", Value::Bool(false));
}

fn to_0_19(state: &mut Value) {
    part(state, "request", |request| {
        request.remove("stickyauth");
        request.remove("stickycookie");
    });
    part(state, "client_conn", |client| {
        for key in ["sni", "alpn_proto_negotiated", "cipher_name", "tls_version"] {
            client.set(key, Value::Null);
        }
    });
    part(state, "server_conn", |server| server.set("alpn_proto_negotiated", Value::Null));
    state.set("mode", "regular".into());
    state.set("metadata", Value::Map(Vec::new()));
}

/// Replaces address objects, `{address: [host, port], use_ipv6: …}`, by the list in them. 2.0 still wrote them.
fn unwrap_addresses(state: &mut Value) {
    connections(state, |connection| {
        for key in ["address", "source_address", "ip_address"] {
            if let Some(object @ Value::Map(_)) = super::entry(connection, key) {
                *object = object.remove("address").unwrap_or_default();
            }
        }
    });
}

fn to_3(state: &mut Value) {
    part(state, "client_conn", |client| client.set("mitmcert", Value::Null));
    part(state, "server_conn", |server| server.set("tls_version", Value::Null));
}

/// Converts the keys of a dict, and of the dicts directly in it, from bytes to text.
fn keys_to_text(value: &mut Value) {
    let Value::Map(entries) = value else { return };
    for (key, value) in entries {
        if let Value::Bytes(bytes) = key {
            *key = Value::Str(escape_non_utf8(bytes));
        }
        keys_to_text(value);
    }
}

/// Converts those values that were bytes when Python 2 wrote them.
fn texts_to_text(state: &mut Value) {
    let convert = |map: &mut Value, key: &str| {
        if let Some(value) = super::entry(map, key)
            && let Value::Bytes(bytes) = value
        {
            *value = Value::Str(escape_non_utf8(bytes));
        }
    };
    convert(state, "type");
    convert(state, "id");
    part(state, "error", |error| convert(error, "msg"));
}
