//! Properties: what is written is read again, whatever it is, and no input breaks anything.

use bytes::Bytes;
use mitm_flow::{
    Address, Body, FlowRef, FlowSnapshot, Headers, Opcode, SnapshotData, Value, WebSocketMessage,
    test_util, websocket::StreamMessage,
};
use mitm_flowfile::{FlowWriter, fuzz, state, tnetstring};
use proptest::{collection::vec, option, prelude::*};

use crate::support;

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        any_bytes().prop_map(Value::Bytes),
        ".{0,20}".prop_map(Value::Str),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let key = prop_oneof![".{0,10}".prop_map(Value::Str), any_bytes().prop_map(Value::Bytes)];
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::List),
            vec((key, inner), 0..8).prop_map(Value::Map),
        ]
    })
}

fn any_headers() -> impl Strategy<Value = Headers> {
    vec((any_bytes(), any_bytes()), 0..6).prop_map(Headers::from_fields)
}

fn any_body() -> impl Strategy<Value = Body> {
    prop_oneof![
        Just(Body::missing()),
        any_bytes().prop_map(Body::from),
        (30_000..40_000usize).prop_map(|len| vec![b'x'; len].into()),
    ]
}

/// A flow of any kind with the values that are easy to get wrong.
fn any_snapshot() -> impl Strategy<Value = FlowSnapshot> {
    let shell =
        (0..6usize, ".{0,9}", ".{0,9}", vec((".{0,9}".prop_map(Value::Str), any_value()), 0..3));
    let http = (any_headers(), any_body(), any_headers(), any_body(), option::of(any_headers()));
    let rest = (any_bytes(), any::<u16>(), any::<f64>(), option::of(any::<f64>()), any::<bool>());
    let scope = option::of((any::<u32>(), any::<u32>()));
    let messages = vec((any::<bool>(), any_bytes(), any::<f64>()), 0..5);
    (shell, http, rest, scope, messages).prop_map(|(shell, http, rest, scope, messages)| {
        let mut snapshot = test_util::flows()[shell.0].snapshot();
        snapshot.marked = shell.1.into();
        snapshot.comment = shell.2.into();
        snapshot.metadata = std::sync::Arc::new(shell.3);
        snapshot.intercepted = rest.4;
        snapshot.client.peername = Some(Address { scope, ..Address::new("::1", rest.1) });
        snapshot.server.sockname = None;
        snapshot.server.timestamp_start = rest.3;
        match &mut snapshot.data {
            SnapshotData::Http { request, response, websocket } => {
                (request.headers, request.body, request.trailers) = (http.0, http.1, http.4);
                (request.path, request.port) = (rest.0, rest.1);
                (request.timestamp_start, request.timestamp_end) = (rest.2, rest.3);
                if let Some(response) = response {
                    (response.headers, response.body) = (http.2, http.3);
                    response.status_code = rest.1;
                }
                if let Some(websocket) = websocket {
                    websocket.messages.extend(messages.into_iter().map(
                        |(from_client, content, timestamp)| WebSocketMessage {
                            opcode: Opcode::Binary,
                            from_client,
                            content: content.into(),
                            timestamp,
                            dropped: from_client,
                            injected: !from_client,
                        },
                    ));
                }
            }
            SnapshotData::Tcp(list) | SnapshotData::Udp(list) => {
                list.extend(messages.into_iter().map(|(from_client, content, timestamp)| {
                    StreamMessage { from_client, content: content.into(), timestamp }
                }));
            }
            SnapshotData::Dns { request, .. } => request.timestamp = rest.3,
        }
        if rest.4 {
            let backup = snapshot.clone();
            snapshot.backup = Some(std::sync::Arc::new(backup));
            snapshot.comment = "changed".into();
        }
        snapshot
    })
}

/// The number of values in a value, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|(_, value)| count(value)).sum(),
        _ => 0,
    }
}

/// Replaces the `at`th value in `value`: by `new`, or by one that differs in its type only.
fn replace(value: &mut Value, at: &mut usize, new: &Value, by_type: bool) {
    if *at == 0 {
        *value = match std::mem::take(value) {
            Value::Str(text) if by_type => Value::Bytes(text.into()),
            Value::Bytes(_) | Value::Float(_) if by_type => Value::Null,
            Value::Int(number) if by_type => Value::Int(number.wrapping_mul(65_537)),
            Value::Map(mut entries) if by_type => {
                entries.pop();
                Value::Map(entries)
            }
            Value::List(items) if by_type => Value::List([items.as_slice(), &items].concat()),
            _ => new.clone(),
        };
    }
    *at = at.wrapping_sub(1);
    let parts: Vec<&mut Value> = match value {
        Value::List(items) => items.iter_mut().collect(),
        Value::Map(entries) => entries.iter_mut().map(|(_, value)| value).collect(),
        _ => Vec::new(),
    };
    for part in parts {
        replace(part, at, new, by_type);
    }
}

proptest! {
    #[test]
    fn tnetstrings_round_trip(value in any_value()) {
        let encoded = tnetstring::encode(&value).unwrap();
        let decoded = tnetstring::decode(&encoded.into()).unwrap();
        // As text, since not a number is not equal to itself.
        prop_assert_eq!(format!("{decoded:?}"), format!("{value:?}"));
    }

    #[test]
    fn flows_round_trip(snapshot in any_snapshot()) {
        let mut writer = FlowWriter::new(Vec::new());
        writer.write_snapshot(&snapshot).unwrap();
        let file = writer.into_inner().unwrap();
        let records = support::records(&file);
        let again = records[0].snapshot().unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{snapshot:?}"));
        // A flow made of the record is the same, and is written as it was read.
        let flow = records[0].clone().into_flow().unwrap();
        prop_assert_eq!(&support::written(std::slice::from_ref(&flow)), &file);
        prop_assert_eq!(support::shown(&flow.snapshot()), support::shown(&snapshot));
        prop_assert_eq!(&support::written(std::slice::from_ref(&flow)), &file);
        let value = state::to_value(&snapshot).unwrap();
        prop_assert_eq!(support::shown(&state::from_value(&value).unwrap()), support::shown(&snapshot));
    }

    #[test]
    fn any_bytes_are_survived(data in vec(any::<u8>(), 0..200)) {
        fuzz::fuzz_tnetstring(&data);
        fuzz::fuzz_flowfile(&data);
    }

    #[test]
    fn damaged_files_are_survived(
        snapshot in any_snapshot(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        digit in any::<bool>(),
    ) {
        let mut file = support::written(&[FlowRef::from_snapshot(snapshot)]);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = if digit { b",;#^!~]}0123456789:"[usize::from(byte) % 19] } else { byte };
        }
        fuzz::fuzz_flowfile(&file);
    }

    #[test]
    fn damaged_states_are_survived(
        snapshot in any_snapshot(),
        damage in vec((any::<prop::sample::Index>(), any_value(), any::<bool>()), 1..3),
        version in prop_oneof![Just(21), 4..21i64],
    ) {
        let mut state = state::to_value(&snapshot).unwrap();
        state.set("version", Value::Int(version));
        for (at, value, by_type) in damage {
            let mut at = at.index(count(&state));
            replace(&mut state, &mut at, &value, by_type);
        }
        fuzz::fuzz_flowfile(&tnetstring::encode(&state).unwrap());
    }

    #[test]
    fn damaged_old_files_are_survived(
        which in 0..3usize,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        const FILES: [&[u8]; 3] = [
            include_bytes!("../fixtures/v0.11.3-edited.mitm"),
            include_bytes!("../fixtures/v2.0.2-edited.mitm"),
            include_bytes!("../fixtures/v5.3.0-edited.mitm"),
        ];
        let mut file = FILES[which].to_vec();
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = b",;#^!~]}0123456789:"[usize::from(byte) % 19];
        }
        fuzz::fuzz_flowfile(&file);
    }

    #[test]
    fn any_split_of_the_input_gives_the_same_records(cuts in vec(1..5000usize, 1..20)) {
        struct Pieces<'a> { data: &'a [u8], cuts: Vec<usize>, next: usize }
        impl std::io::Read for Pieces<'_> {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                let cut = self.cuts[self.next % self.cuts.len()];
                self.next += 1;
                let count = cut.min(buf.len()).min(self.data.len());
                buf[..count].copy_from_slice(&self.data[..count]);
                self.data = &self.data[count..];
                Ok(count)
            }
        }
        let file = support::written(&support::flows());
        let reader = mitm_flowfile::FlowReader::new(Pieces { data: &file, cuts, next: 0 });
        let bytes: Vec<Bytes> =
            reader.map(|record| record.unwrap().bytes().unwrap().clone()).collect();
        prop_assert_eq!(bytes.concat(), file);
    }
}
