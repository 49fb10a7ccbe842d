//! The last touch on a migrated state: every value gets the type that the format asks for.
//!
//! Releases disagreed on bytes and text (Python 2 and 3), and some values are new enough to be null in old files
//! where today's format wants something. Keys that the format does not have are dropped.

use mitm_flow::Value;

use crate::{
    decode::{escape_non_utf8, idna_to_text},
    fault::{Fault, What},
    schema::{self, Kind, Schema},
};

use super::Context;

/// Returns a state that has exactly the keys of the current version.
pub(super) fn finish(mut state: Value, context: Context) -> Result<Value, Fault> {
    let Some(Value::Str(kind)) = state.get("type") else {
        return Err(context.fault(What::Missing("type")));
    };
    let kind = kind.clone();
    // Of the parts that only some flows have, those that this one has.
    let parts: &[&str] = match kind.as_str() {
        "http" => &["request", "response", "websocket"],
        "dns" => &["request", "response"],
        "tcp" | "udp" => &["messages"],
        // Whoever reads the result refuses the type.
        _ => {
            let version = state.get("version").cloned().unwrap_or_default();
            let entries = [("type", kind.as_str().into()), ("version", version)];
            return Ok(Value::Map(entries.map(|(key, value)| (key.into(), value)).into()));
        }
    };
    let mut entries = Vec::new();
    for field in schema::HTTP.fields {
        let is_part = ["request", "response", "websocket", "messages"].contains(&field.name);
        if field.name == "backup" || (is_part && !parts.contains(&field.name)) {
            continue;
        }
        let value = state.remove(field.name);
        let wanted = match (field.name, kind.as_str()) {
            ("request", "dns") => Kind::Dict(&schema::DNS_MESSAGE),
            ("response", "dns") => Kind::OptDict(&schema::DNS_MESSAGE),
            _ => field.kind,
        };
        let value = convert(value, wanted, context).map_err(|fault| fault.within(field.name))?;
        let value = value.ok_or_else(|| context.fault(What::Missing(field.name)))?;
        entries.push((field.name.into(), value));
    }
    Ok(Value::Map(entries))
}

/// Converts a value to the type `kind`, as far as that is a matter of notation. `None` is one that is missing and
/// has no substitute.
fn convert(value: Option<Value>, kind: Kind, context: Context) -> Result<Option<Value>, Fault> {
    let missing = value.as_ref().is_none_or(Value::is_null);
    Ok(Some(match kind {
        _ if missing => match substitute(kind, value.is_some()) {
            Some(substitute) => substitute,
            None => return Ok(value),
        },
        Kind::Text | Kind::OptText | Kind::OneOf(_) => to_text(value.unwrap_or_default()),
        // What OpenSSL called a version is not always one of the names.
        Kind::OptOneOf(choices) => match to_text(value.unwrap_or_default()) {
            Value::Str(text) if choices.contains(&text.as_str()) => Value::Str(text),
            _ => Value::Null,
        },
        Kind::Host => to_host(value.unwrap_or_default()),
        Kind::Bytes | Kind::OptBytes => to_bytes(value.unwrap_or_default()),
        Kind::ListOfBytes => each(value, to_bytes),
        Kind::ListOfText => each(value, to_text),
        Kind::Fields | Kind::OptFields => each(value, |field| each(Some(field), to_bytes)),
        Kind::OptAddress => to_address(value.unwrap_or_default()),
        Kind::OptAnyInt => match value {
            Some(Value::Int(code)) => Value::Int(code),
            _ => Value::Null,
        },
        Kind::WebSocketMessages | Kind::StreamMessages => each(value, |message| {
            let mut message = message;
            // Text messages had text as content.
            if let Value::List(parts) = &mut message {
                for part in parts.iter_mut().filter(|part| matches!(part, Value::Str(_))) {
                    *part = to_bytes(std::mem::take(part));
                }
            }
            message
        }),
        Kind::Dict(schema) | Kind::OptDict(schema) => {
            return dict(value.unwrap_or_default(), schema, context).map(Some);
        }
        Kind::OptVia
        | Kind::ListOf(_)
        | Kind::Int(_)
        | Kind::Version
        | Kind::Number
        | Kind::OptNumber
        | Kind::Bool
        | Kind::OptBool
        | Kind::AnyDict
        | Kind::Anything => value.unwrap_or_default(),
    }))
}

/// What stands for a value that is null or missing.
fn substitute(kind: Kind, is_null: bool) -> Option<Value> {
    Some(match kind {
        kind if kind.is_optional() => Value::Null,
        Kind::AnyDict => Value::Map(Vec::new()),
        Kind::ListOfBytes | Kind::ListOfText | Kind::ListOf(_) => Value::List(Vec::new()),
        // A null instead of a value, where releases had no need of one.
        Kind::Number if is_null => Value::Float(0.0),
        Kind::Bool if is_null => Value::Bool(false),
        Kind::Bytes if is_null => Value::Bytes(bytes::Bytes::new()),
        Kind::Text if is_null => "".into(),
        _ => return None,
    })
}

fn dict(mut value: Value, schema: &'static Schema, context: Context) -> Result<Value, Fault> {
    let mut entries = Vec::new();
    for field in schema.fields {
        let part = convert(value.remove(field.name), field.kind, context)
            .map_err(|fault| fault.within(field.name))?;
        let part = part.ok_or_else(|| context.fault(What::Missing(field.name)))?;
        entries.push((field.name.into(), part));
    }
    Ok(Value::Map(entries))
}

fn each(value: Option<Value>, mut convert: impl FnMut(Value) -> Value) -> Value {
    match value {
        Some(Value::List(items)) => Value::List(items.into_iter().map(&mut convert).collect()),
        other => other.unwrap_or_default(),
    }
}

fn to_text(value: Value) -> Value {
    match value {
        Value::Bytes(bytes) => Value::Str(escape_non_utf8(&bytes)),
        other => other,
    }
}

fn to_host(value: Value) -> Value {
    match value {
        Value::Bytes(bytes) => Value::Str(idna_to_text(&bytes)),
        other => other,
    }
}

fn to_bytes(value: Value) -> Value {
    match value {
        Value::Str(text) => Value::Bytes(text.into()),
        other => other,
    }
}

fn to_address(value: Value) -> Value {
    match value {
        Value::List(mut parts) => {
            if let Some(host) = parts.first_mut() {
                *host = to_text(std::mem::take(host));
            }
            Value::List(parts)
        }
        other => other,
    }
}
