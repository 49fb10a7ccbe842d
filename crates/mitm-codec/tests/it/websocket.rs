//! The laws of `fuzz_websocket` over generated conversations, damaged ones and noise.

use bytes::BytesMut;
use mitm_codec::{
    fuzz::fuzz_websocket,
    websocket::{DeflateParams, Deflater, FrameHeader, OpCode, Sender, write_control, write_frame},
};
use proptest::{collection::vec, prelude::*, sample::select};

/// A part of a conversation.
#[derive(Clone, Debug)]
enum Part {
    Message { text: bool, compressed: bool, frames: Vec<Vec<u8>>, control_between: bool },
    Control(OpCode, Vec<u8>),
}

fn part() -> impl Strategy<Value = Part> {
    let payload = prop_oneof![
        4 => "[ -~äß€😀]{0,40}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..200),
        1 => vec(0u8..2, 0..5000),
    ];
    let message = (any::<bool>(), any::<bool>(), vec(payload, 1..4), any::<bool>()).prop_map(
        |(text, compressed, frames, control_between)| Part::Message {
            text,
            compressed,
            frames,
            control_between,
        },
    );
    let opcode =
        select(vec![OpCode::Ping, OpCode::Pong, OpCode::Ping, OpCode::Pong, OpCode::Close]);
    let payload = select(vec![vec![], b"\x03\xe8".to_vec(), b"\x0f\xa0bye".to_vec(), vec![7; 125]]);
    prop_oneof![3 => message, 1 => (opcode, payload).prop_map(|(op, data)| Part::Control(op, data))]
}

/// Builds the input: the two bytes of choice, and a conversation that mostly obeys them.
fn build(choice: u8, step: u8, parts: &[Part]) -> Vec<u8> {
    let (sender, mask) = if choice & 1 == 0 {
        (Sender::Client, Some([1, step, 0, 9]))
    } else {
        (Sender::Server, None)
    };
    let takeover = choice & 4 != 0;
    let params = DeflateParams {
        client_no_context_takeover: takeover,
        server_no_context_takeover: takeover,
        ..DeflateParams::default()
    };
    let mut deflater = Deflater::new(params, sender);
    let mut out = BytesMut::from(&[choice, step][..]);
    for part in parts {
        match part {
            Part::Control(opcode, payload) => write_control(&mut out, *opcode, payload, mask),
            Part::Message { text, compressed, frames, control_between } => {
                let compressed = *compressed && choice & 2 != 0;
                let last = frames.len() - 1;
                for (at, payload) in frames.iter().enumerate() {
                    let mut wire = BytesMut::from(&payload[..]);
                    if compressed {
                        wire.clear();
                        deflater.push(payload, &mut wire);
                        if at == last {
                            deflater.finish(&mut wire);
                        }
                    }
                    let opcode = match (at, text) {
                        (1.., _) => OpCode::Continuation,
                        (0, true) => OpCode::Text,
                        (0, false) => OpCode::Binary,
                    };
                    let header =
                        FrameHeader { opcode, fin: at == last, rsv1: at == 0 && compressed };
                    write_frame(&mut out, header, &wire, mask);
                    if *control_between && at < last {
                        write_control(&mut out, OpCode::Ping, b"between", mask);
                    }
                }
            }
        }
    }
    out.to_vec()
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    // The upper bits are the limit: a high one, mostly.
    let choice = (0u8..8, prop_oneof![4 => Just(31u8), 1 => 0u8..31])
        .prop_map(|(low, high)| low | high << 3);
    (choice, any::<u8>(), vec(part(), 0..6))
        .prop_map(|(choice, step, parts)| build(choice, step, &parts))
}

proptest! {
    #[test]
    fn conversations(data in conversation()) {
        fuzz_websocket(&data);
    }

    #[test]
    fn damaged_conversations(
        mut data in conversation(),
        damages in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (at, byte) in damages {
            let at = at.index(data.len());
            data[at] = byte;
        }
        fuzz_websocket(&data);
    }

    #[test]
    fn noise(data in vec(any::<u8>(), 0..300)) {
        fuzz_websocket(&data);
    }
}
