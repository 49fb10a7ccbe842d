//! What is known of a flow so far, and of when an answer is wanted.

use std::ops::{BitOr, BitOrAssign};

/// The parts of a flow that have arrived completely. The head of the request always has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known(u8);

impl Known {
    /// Nothing but the head of the request, or the beginning of a conversation.
    pub const REQUEST_HEAD: Self = Self(0);
    /// The body of the request, or that there is none.
    pub const REQUEST_BODY: Self = Self(1);
    pub const RESPONSE_HEAD: Self = Self(2);
    /// The body of the response, or that there is none.
    pub const RESPONSE_BODY: Self = Self(4);
    /// The flow is over, with all its messages.
    pub const END: Self = Self(8);
    pub const EVERYTHING: Self = Self(15);

    pub const fn contains(self, other: Self) -> bool {
        (self.0 | if self.0 & Self::END.0 != 0 { Self::EVERYTHING.0 } else { 0 }) & other.0
            == other.0
    }
}

impl BitOr for Known {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Known {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// The moment that a foreseen answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Horizon {
    /// When the message that arrives now is complete: at `request`, `response` or a message hook.
    /// For those who decide then, such as intercept and modify.
    Message,
    /// When the flow has ended. For those who record.
    Flow,
}

/// An answer in three-valued logic (Kleene's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    Yes,
    No,
    /// It depends on what has not arrived yet, or a pattern was given up.
    Unknown,
}

impl std::ops::Not for Tri {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Tri {
    fn from(answer: bool) -> Self {
        if answer { Self::Yes } else { Self::No }
    }
}

/// The facts that a filter looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs(u16);

impl Needs {
    /// Method, host, URL; the name that a DNS request asks for.
    pub const REQUEST: Self = Self(1);
    pub const REQUEST_HEADERS: Self = Self(1 << 1);
    pub const REQUEST_BODY: Self = Self(1 << 2);
    /// Whether there is a response, and its status code.
    pub const RESPONSE: Self = Self(1 << 3);
    pub const RESPONSE_HEADERS: Self = Self(1 << 4);
    pub const RESPONSE_BODY: Self = Self(1 << 5);
    /// WebSocket, TCP and UDP messages.
    pub const MESSAGES: Self = Self(1 << 6);
    /// Whether the flow was upgraded to WebSocket.
    pub const WEBSOCKET: Self = Self(1 << 7);
    pub const ERROR: Self = Self(1 << 8);
    /// Marker, comment and metadata.
    pub const NOTES: Self = Self(1 << 9);
    pub const REPLAY: Self = Self(1 << 10);
    /// The addresses of client and server.
    pub const ADDRESSES: Self = Self(1 << 11);
    /// Only the kind of flow.
    pub const NOTHING: Self = Self(0);

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if any content is looked at, of a body or of messages.
    pub const fn body(self) -> bool {
        self.intersects(Self(Self::REQUEST_BODY.0 | Self::RESPONSE_BODY.0 | Self::MESSAGES.0))
    }
}

impl BitOr for Needs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Needs {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
