//! [`Sink`]: what a lane writes to.
//!
//! A compressed message that nobody changed goes out as it came, compressed bytes and all, as long as the receiver has seen
//! everything that later messages may refer back to. From the first message that was changed or dropped on, unless
//! each begins anew, messages are compressed here. So a connection whose messages nobody touches costs no
//! compressor.

use std::io;

use bytes::{Bytes, BytesMut};
use mitm_codec::websocket::{
    Close, DeflateParams, Deflater, FrameHeader, Lengths, OpCode, Sender, Shape, apply_mask,
    write_control, write_header,
};
use mitm_flow::{Body, Opcode, spill::BodyBuilder};
use tokio::time::timeout;

use super::LINGER;
use crate::{exchange::STORED_PIECE, io::Writer, plan};

/// Messages whose length changed, and those that were injected, are sent in frames of this many bytes.
const FRAME_BYTES: u64 = 4000;
/// So much is masked before it is sent.
const MASK_BYTES: usize = 64 << 10;

/// How a message came.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) compressed: bool,
    /// Without frames if the message did not come over the wire.
    pub(super) shape: Shape,
    /// The compressed form, if it can be forwarded as it is.
    pub(super) wire: Option<Body>,
}

pub(super) enum SendError {
    /// The receiver takes no more.
    Unwritable,
    /// The message is not where it was stored.
    Unreadable,
}

impl From<io::Error> for SendError {
    fn from(_: io::Error) -> Self {
        Self::Unwritable
    }
}

pub(super) struct Sink {
    pub(super) writer: Writer,
    /// In whose name frames are sent: those of clients are masked.
    sender: Sender,
    deflate: Option<Deflate>,
    memory_limit: usize,
    /// Part of a frame was sent, and the rest is not in the writer's buffer.
    is_mid_frame: bool,
    closed: bool,
}

struct Deflate {
    deflater: Deflater,
    keeps_context: bool,
    /// The receiver was sent all compressed messages as they came.
    in_step: bool,
}

impl Sink {
    pub(super) fn new(
        writer: Writer,
        sender: Sender,
        deflate: Option<DeflateParams>,
        memory_limit: usize,
    ) -> Self {
        let deflate = deflate.map(|params| Deflate {
            deflater: Deflater::new(params, sender),
            keeps_context: params.keeps_context(sender),
            in_step: true,
        });
        Self { writer, sender, deflate, memory_limit, is_mid_frame: false, closed: false }
    }

    /// True if a compressed message can be forwarded as it came.
    pub(super) fn passes_compressed(&self) -> bool {
        self.deflate.as_ref().is_some_and(|deflate| deflate.in_step)
    }

    /// Notes that a message is not sent.
    pub(super) fn skip(&mut self, how: &Outgoing) {
        if let Some(deflate) = &mut self.deflate
            && how.compressed
            && deflate.keeps_context
        {
            deflate.in_step = false;
        }
    }

    /// Sends a message, in the frames it came in unless its length changed.
    pub(super) async fn message(
        &mut self,
        opcode: Opcode,
        content: &Body,
        unchanged: bool,
        original_len: Option<u64>,
        how: Outgoing,
    ) -> Result<(), SendError> {
        let opcode = match opcode {
            Opcode::Text => OpCode::Text,
            Opcode::Binary => OpCode::Binary,
        };
        let len = content.len().filter(|_| !content.is_missing()).ok_or(SendError::Unreadable)?;
        if unchanged
            && self.passes_compressed()
            && let Some(wire) = &how.wire
        {
            self.frames(opcode, true, wire, &how.shape.wire).await?;
        } else {
            self.skip(&how);
            let lengths = if original_len == Some(len) && !how.shape.content.is_empty() {
                how.shape.content
            } else {
                pieces(len)
            };
            if how.compressed && self.deflate.is_some() {
                self.compress(opcode, content, &lengths).await?;
            } else {
                self.frames(opcode, false, content, &lengths).await?;
            }
        }
        self.writer.flush().await?;
        self.writer.rest();
        Ok(())
    }

    /// Writes a message as frames with payloads of these lengths, which add up to that of `body`.
    async fn frames(
        &mut self,
        opcode: OpCode,
        rsv1: bool,
        body: &Body,
        lengths: &[u64],
    ) -> Result<(), SendError> {
        let mut stored = Stored::new(body);
        for (at, &len) in lengths.iter().enumerate() {
            let header = FrameHeader {
                opcode: if at == 0 { opcode } else { OpCode::Continuation },
                fin: at + 1 == lengths.len(),
                rsv1: rsv1 && at == 0,
            };
            self.frame(header, len, &mut stored).await?;
        }
        Ok(())
    }

    async fn frame(
        &mut self,
        header: FrameHeader,
        len: u64,
        stored: &mut Stored,
    ) -> Result<(), SendError> {
        let mut mask = mask(self.sender);
        self.is_mid_frame = true;
        write_header(self.writer.out(), header, len, mask);
        let mut left = len;
        while left > 0 {
            let max = if mask.is_some() { MASK_BYTES } else { usize::MAX };
            let piece = stored.take(left, max)?;
            left -= piece.len() as u64;
            match &mut mask {
                None => self.writer.write(&piece).await?,
                Some(key) => {
                    let mut masked = BytesMut::from(&piece[..]);
                    apply_mask(&mut masked, *key);
                    key.rotate_left(masked.len() % 4);
                    self.writer.write(&masked).await?;
                }
            }
        }
        self.is_mid_frame = false;
        Ok(())
    }

    /// Writes a message as compressed frames with payloads made of these lengths.
    async fn compress(
        &mut self,
        opcode: OpCode,
        content: &Body,
        lengths: &[u64],
    ) -> Result<(), SendError> {
        let mut stored = Stored::new(content);
        for (at, &len) in lengths.iter().enumerate() {
            let fin = at + 1 == lengths.len();
            // The header needs the length of what is not compressed yet.
            let mut payload = BodyBuilder::new(self.memory_limit, None);
            let mut left = len;
            loop {
                let Some(Deflate { deflater, .. }) = &mut self.deflate else { return Ok(()) };
                let mut out = BytesMut::new();
                if left > 0 {
                    let piece = stored.take(left, STORED_PIECE)?;
                    left -= piece.len() as u64;
                    deflater.push(&piece, &mut out);
                }
                if left == 0 && fin {
                    deflater.finish(&mut out);
                }
                plan::push_data(&mut payload, out.freeze()).await;
                if left == 0 {
                    break;
                }
            }
            let payload = payload.finish();
            let len = payload.len().filter(|_| !payload.is_missing());
            let len = len.ok_or(SendError::Unreadable)?;
            let opcode = if at == 0 { opcode } else { OpCode::Continuation };
            let header = FrameHeader { opcode, fin, rsv1: at == 0 };
            self.frame(header, len, &mut Stored::new(&payload)).await?;
        }
        Ok(())
    }

    /// Sends a ping or pong.
    pub(super) async fn control(&mut self, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        write_control(self.writer.out(), opcode, payload, mask(self.sender));
        self.writer.flush().await
    }

    /// Sends the close frame of the sender. That the receiver does not take it is seen soon enough.
    pub(super) async fn forward_close(&mut self, close: &Close) {
        if std::mem::replace(&mut self.closed, true) || self.is_mid_frame {
            return;
        }
        write_control(self.writer.out(), OpCode::Close, &close.payload(), mask(self.sender));
        let _ = timeout(LINGER, self.writer.flush()).await;
    }

    /// Ends this direction, with a close frame unless there was one.
    pub(super) async fn close(&mut self, close: Option<Close>) {
        if let Some(close) = close {
            self.forward_close(&close).await;
        }
        self.writer.shutdown().await;
    }
}

/// The frames of a message that has no frames of its own.
fn pieces(len: u64) -> Lengths {
    let mut lengths = Lengths::new();
    let mut left = len;
    while left > FRAME_BYTES {
        lengths.push(FRAME_BYTES);
        left -= FRAME_BYTES;
    }
    lengths.push(left);
    lengths
}

/// A fresh key for each frame of a client.
fn mask(sender: Sender) -> Option<[u8; 4]> {
    (sender == Sender::Client).then(rand::random)
}

/// A body that is read in pieces of any length.
struct Stored {
    chunks: mitm_flow::body::Chunks,
    rest: Bytes,
}

impl Stored {
    fn new(body: &Body) -> Self {
        Self { chunks: body.chunks(STORED_PIECE), rest: Bytes::new() }
    }

    /// Returns the next piece: not empty, and no longer than either limit.
    fn take(&mut self, left: u64, max: usize) -> Result<Bytes, SendError> {
        while self.rest.is_empty() {
            match self.chunks.next() {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(_)) | None => return Err(SendError::Unreadable),
            }
        }
        let len = self.rest.len().min(max);
        Ok(self.rest.split_to(usize::try_from(left).map_or(len, |left| left.min(len))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_messages_are_sent_in_pieces() {
        assert_eq!(pieces(0)[..], [0]);
        assert_eq!(pieces(4000)[..], [4000]);
        assert_eq!(pieces(8001)[..], [4000, 4000, 1]);
    }
}
