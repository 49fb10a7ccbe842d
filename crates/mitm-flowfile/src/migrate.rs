//! Flows of older versions, step by step, up to [`CURRENT_VERSION`].
//!
//! A record of an older version is decoded to a [`Value`], each step changes it to what the next version looks like, and
//! the result is encoded again: behind this module there are only records of the current version. The steps up to
//! 3.0, where versions were those of mitmproxy, are in [`released`]; the numbered ones in [`numbered`].
//!
//! Files differ from what the steps of mitmproxy expect, because releases wrote them that were not tried with its
//! converters. So steps here tolerate what is missing where a null will do, [`finish`] brings bytes and text to the
//! type the format wants, and keys that nobody knows any more are dropped. Two things are remembered across records, see
//! [`Migrator`].

mod finish;
mod numbered;
mod released;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use mitm_flow::Value;

use crate::{
    back::Back,
    fault::{Fault, ReadError, ReadErrorKind, What},
    record::{CURRENT_VERSION, FormatVersion},
    tnetstring::{self, Span},
};

/// How many bytes of records may be kept as handshakes that wait for their WebSocket conversation.
const HANDSHAKES: usize = 16 * 1024 * 1024;

/// How many keys a dict of the format may have: more than any version had.
const KEYS: usize = 200;

/// Migrates records of one file, in order.
#[derive(Default)]
pub(crate) struct Migrator {
    /// Handshake flows by id, for the WebSocket flows (versions up to 11) that follow.
    handshakes: HashMap<String, Value>,
    /// Their ids and sizes in order: the oldest is given up when there are too many.
    order: VecDeque<(String, usize)>,
    /// The sum of the sizes in `order`.
    kept: usize,
    /// The size of the record being migrated.
    size: usize,
}

impl Migrator {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Returns the record `span` of `bytes`, of an older version, as one of the current version.
    pub(crate) fn migrate(
        &mut self,
        bytes: &Bytes,
        span: Span,
        version: FormatVersion,
        offset: u64,
    ) -> Result<Bytes, ReadError> {
        if !is_known(version) {
            let newer = matches!(version, FormatVersion::Number(n) if n > CURRENT_VERSION);
            let version = version.to_string();
            return Err(ReadError::new(offset, ReadErrorKind::Version { version, newer }));
        }
        // Values share the memory of what they are decoded from, and handshakes are kept.
        let own = Bytes::copy_from_slice(bytes.get(..span.next()).unwrap_or_default());
        self.size = own.len();
        let fault = |fault: &Fault| ReadError::state(offset, fault);
        let state =
            tnetstring::decode_span(&own, span, true).map_err(|error| fault(&error.into()))?;
        let state = self.steps(state, version, span, true).map_err(|error| fault(&error))?;
        let mut out = Back::new();
        tnetstring::put_record_value(&mut out, &state)
            .map_err(|problem| fault(&Fault::new(span, problem.into())))?;
        Ok(out.to_vec().into())
    }

    fn steps(
        &mut self,
        mut state: Value,
        version: FormatVersion,
        span: Span,
        with_backup: bool,
    ) -> Result<Value, Fault> {
        let backup = state.remove("backup");
        let context = Context { span };
        context.bounded(&state)?;
        let mut number = match version {
            FormatVersion::Release(major, minor) => {
                released::to_4(&mut state, (major, minor), context)?;
                4
            }
            FormatVersion::Number(number) => number,
        };
        while number < CURRENT_VERSION {
            match number {
                4 => numbered::to_5(&mut state),
                5 => numbered::to_6(&mut state),
                6 => {} // C.tls_extensions, dropped again by step 18
                7 => numbered::to_8(&mut state),
                8 => numbered::to_9(&mut state),
                9 => numbered::to_10(&mut state),
                10 => numbered::to_11(&mut state),
                11 => state = numbered::to_12(self, state),
                12 => numbered::to_13(&mut state),
                13 => numbered::to_14(&mut state),
                14 => numbered::to_15(&mut state),
                15 => numbered::to_16(&mut state),
                16 => drop(state.remove("mode")),
                17 => numbered::to_18(&mut state),
                18 => numbered::to_19(&mut state),
                19 => numbered::to_20(&mut state),
                20 => numbered::to_21(&mut state),
                _ => break,
            }
            number += 1;
        }
        state.set("version", Value::Int(CURRENT_VERSION));
        state = finish::finish(state, context)?;
        if with_backup && let Some(backup @ Value::Map(_)) = backup {
            // A backup has a version of its own, normally the same. One that cannot be migrated is given up.
            let version = version_of(&backup).unwrap_or(version);
            if is_known(version)
                && let Ok(backup) = self.steps(backup, version, span, false)
            {
                state.set("backup", backup);
            }
        }
        Ok(state)
    }

    fn remember(&mut self, id: String, handshake: Value) {
        self.handshakes.insert(id.clone(), handshake);
        self.order.push_back((id, self.size));
        self.kept += self.size;
        while self.kept > HANDSHAKES
            && let Some((oldest, size)) = self.order.pop_front()
        {
            self.handshakes.remove(&oldest);
            self.kept -= size;
        }
    }

    fn recall(&mut self, id: &str) -> Option<Value> {
        self.handshakes.remove(id)
    }
}

fn is_known(version: FormatVersion) -> bool {
    match version {
        FormatVersion::Release(0, minor) => (11..=19).contains(&minor),
        FormatVersion::Release(major, minor) => minor == 0 && (1..=3).contains(&major),
        FormatVersion::Number(number) => (4..=CURRENT_VERSION).contains(&number),
    }
}

fn version_of(state: &Value) -> Option<FormatVersion> {
    match state.get("version")? {
        Value::Int(number) => Some(FormatVersion::Number(*number)),
        Value::List(parts) => match parts.as_slice() {
            [Value::Int(major), Value::Int(minor), ..] => {
                Some(FormatVersion::Release(*major, *minor))
            }
            _ => None,
        },
        _ => None,
    }
}

/// What a step needs to complain.
#[derive(Clone, Copy)]
struct Context {
    span: Span,
}

impl Context {
    fn fault(self, what: What) -> Fault {
        Fault::new(self.span, what)
    }

    /// Refuses dicts with absurdly many keys: the steps look keys up one by one.
    fn bounded(self, state: &Value) -> Result<(), Fault> {
        let Value::Map(entries) = state else { return Err(self.fault(What::Expected("a dict"))) };
        let parts = ["client_conn", "server_conn", "request", "response", "websocket", "error"];
        let parts = parts.iter().filter_map(|key| state.get(key)).filter_map(|part| match part {
            Value::Map(entries) => Some(entries.len()),
            _ => None,
        });
        if parts.chain([entries.len()]).max() > Some(KEYS) {
            return Err(self.fault(What::Expected("a dict of fewer keys")));
        }
        Ok(())
    }
}

/// Returns the entry `key` of a map for changes.
fn entry<'a>(map: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let Value::Map(entries) = map else { return None };
    let is_key = |k: &Value| match k {
        Value::Str(text) => text == key,
        Value::Bytes(bytes) => bytes.as_ref() == key.as_bytes(),
        _ => false,
    };
    entries.iter_mut().rev().find(|(k, _)| is_key(k)).map(|(_, value)| value)
}

/// Gives the entry `old` of a map the key `new`; one that is not there becomes null.
fn rename(map: &mut Value, old: &str, new: &str) {
    let value = map.remove(old).unwrap_or_default();
    map.set(new, value);
}

/// Runs `change` on the part `key` of a state if it is a map.
fn part(state: &mut Value, key: &str, change: impl FnOnce(&mut Value)) {
    if let Some(part @ Value::Map(_)) = entry(state, key) {
        change(part);
    }
}

/// Runs `change` on both connections.
fn connections(state: &mut Value, mut change: impl FnMut(&mut Value)) {
    part(state, "client_conn", &mut change);
    part(state, "server_conn", &mut change);
}
