//! The memory of conversations: the messages of TCP and WebSocket flows, which may have any number of them.
//!
//! Contents stay in memory up to a limit per flow. Beyond it those that came so far go to the spill store, all as one
//! body of which each message then has its part. A content below [`SMALL`] stays in memory always: to have a part
//! of something takes about as much.

use bytes::Bytes;
use mitm_flow::{Body, Shared, WebSocketMessage, spill::BodyBuilder, websocket::StreamMessage};

use crate::plan;

/// A message with a content.
pub(crate) trait Message {
    fn content(&self) -> &Body;
    fn content_mut(&mut self) -> &mut Body;
}

impl Message for StreamMessage {
    fn content(&self) -> &Body {
        &self.content
    }

    fn content_mut(&mut self) -> &mut Body {
        &mut self.content
    }
}

impl Message for WebSocketMessage {
    fn content(&self) -> &Body {
        &self.content
    }

    fn content_mut(&mut self) -> &mut Body {
        &mut self.content
    }
}

/// Contents of fewer bytes are not worth storing elsewhere.
const SMALL: usize = 256;

/// The messages of one flow whose contents are in memory.
pub(crate) struct Kept<M> {
    messages: Vec<Shared<M>>,
    limit: usize,
    bytes: usize,
}

impl<M: Message> Kept<M> {
    /// Keeps up to `limit` bytes in memory.
    pub(crate) fn new(limit: usize) -> Self {
        Self { messages: Vec::new(), limit, bytes: 0 }
    }

    /// Takes note of a message that was dealt with. Waits for the disk if it is behind.
    pub(crate) async fn add(&mut self, message: &Shared<M>) {
        let len = message.with(|message| message.content().in_memory().map_or(0, Bytes::len));
        if len < SMALL {
            return;
        }
        self.bytes += len;
        self.messages.push(message.clone());
        if self.bytes > self.limit {
            self.spill().await;
        }
    }

    async fn spill(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        let expected = std::mem::take(&mut self.bytes) as u64;
        let mut builder = BodyBuilder::new(0, Some(expected));
        let mut stored = Vec::new();
        for message in messages {
            let content = message.with(|message| message.content().in_memory().cloned());
            if let Some(content) = content {
                let offset = builder.len();
                plan::push_data(&mut builder, content.clone()).await;
                stored.push((message, content, offset));
            }
        }
        let body = builder.finish();
        for (message, content, offset) in stored {
            let part = body.slice(offset, content.len() as u64);
            let replaced = message.update(|message| {
                // Somebody may have set another one meanwhile.
                let now = message.content_mut();
                let is_same = now.in_memory().is_some_and(|now| now.as_ptr() == content.as_ptr());
                is_same.then(|| std::mem::replace(now, part))
            });
            drop(replaced);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_exceeds_the_limit_is_stored_and_can_be_read() {
        let mut kept = Kept::new(1000);
        let messages: Vec<Shared<StreamMessage>> = (0_u8..6)
            .map(|i| StreamMessage::new(true, vec![i; 100 * usize::from(i) + 100], 0.0).into())
            .collect();
        for (i, message) in messages.iter().enumerate() {
            kept.add(message).await;
            if i == 3 {
                message.update(|message| message.content = Bytes::from_static(b"other").into());
            }
        }
        let in_memory: Vec<bool> = messages
            .iter()
            .map(|message| message.with(|message| message.content.in_memory().is_some()))
            .collect();
        // Two are small, and the last is below the limit again.
        assert_eq!(in_memory, [true, true, false, false, false, true]);
        assert_eq!(messages[3].get().content.bytes().unwrap().unwrap(), "other");
        for (i, message) in messages.iter().enumerate().filter(|(i, _)| *i != 3) {
            let content = message.get().content.bytes().unwrap().unwrap();
            assert_eq!(content, vec![u8::try_from(i).unwrap(); 100 * i + 100]);
        }
    }
}
