//! Evaluation: whether a flow matches, or will.
//!
//! There is one evaluator, in three-valued logic. Asked about a finished flow it knows everything and
//! answers yes or no, unless a pattern is given up. Asked earlier ([`Known`], [`Horizon`]) it answers
//! "unknown" where the facts that are still to come could make a difference. What has arrived is
//! taken as it is: that somebody may edit it later is not foreseen.
//!
//! Operators are evaluated left to right and no further than needed. A decoded body is kept for
//! the other operators of the same evaluation.

use std::{
    cell::{OnceCell, RefCell},
    io,
};

use bytes::Bytes;
use mitm_flow::{
    Body, Facts, FlowKind, Headers, Replay,
    coding::{self, CodingError},
};
use thiserror::Error;

use crate::{
    Expr, Field, Horizon, Known, Needs, Pattern, Test, Tri,
    text::{header_block, metadata_lines},
};

/// How much of a stored body, and of a decoded one, is searched.
const MAX_SEARCHED_BYTES: u64 = 64 << 20;

/// The content types of assets; each is looked for anywhere in the value, minding case.
const ASSET_TYPES: [&[u8]; 7] = [
    b"text/javascript",
    b"application/x-javascript",
    b"application/javascript",
    b"text/css",
    b"image/",
    b"font/",
    b"application/font",
];

/// Why it is not known whether a flow matches.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MatchError {
    /// A pattern that needs backtracking took too many steps on this text.
    #[error("filter pattern {pattern}: {reason}")]
    GaveUp { pattern: String, reason: String },
    /// The body is larger than what is searched, and there is no match in that.
    #[error("filter pattern {pattern}: only {limit} bytes of a larger body are searched")]
    TooLarge { pattern: String, limit: u64 },
    #[error("filter pattern {pattern}: the body cannot be read: {source}")]
    Body { pattern: String, source: io::Error },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Both,
    Request,
    Response,
}

pub(crate) struct Evaluation<'a, F: ?Sized> {
    facts: &'a F,
    known: Known,
    horizon: Horizon,
    request_content: OnceCell<Content>,
    response_content: OnceCell<Content>,
    /// The first thing that went wrong.
    error: RefCell<Option<MatchError>>,
}

/// A body as it is searched.
enum Content {
    Missing,
    /// `cut`: there would be more.
    Bytes {
        bytes: Bytes,
        cut: bool,
    },
    /// Decoded it has more than is searched.
    TooLarge,
    Unreadable(io::ErrorKind, String),
}

impl<'a, F: Facts + ?Sized> Evaluation<'a, F> {
    pub(crate) fn new(facts: &'a F, known: Known, horizon: Horizon) -> Self {
        Self {
            facts,
            known,
            horizon,
            request_content: OnceCell::new(),
            response_content: OnceCell::new(),
            error: RefCell::new(None),
        }
    }

    pub(crate) fn into_error(self) -> Option<MatchError> {
        self.error.into_inner()
    }

    pub(crate) fn answer(&self, expr: &Expr) -> Tri {
        match expr {
            Expr::Not(inner) => !self.answer(inner),
            Expr::And(children) => self.all(children.iter().map(|child| self.answer(child))),
            Expr::Or(children) => self.any(children.iter().map(|child| self.answer(child))),
            Expr::Test(test) => self.test(*test),
            Expr::Code(code) => self.code(*code),
            Expr::Match(field, pattern) => self.field(*field, pattern),
        }
    }

    /// Stops at the first "no", as [`any`](Self::any) does at the first "yes".
    #[expect(clippy::unused_self, reason = "reads as the other one does")]
    fn all(&self, answers: impl IntoIterator<Item = Tri>) -> Tri {
        let mut result = Tri::Yes;
        for answer in answers {
            match answer {
                Tri::No => return Tri::No,
                Tri::Unknown => result = Tri::Unknown,
                Tri::Yes => {}
            }
        }
        result
    }

    #[expect(clippy::unused_self, reason = "reads as the other one does")]
    fn any(&self, answers: impl IntoIterator<Item = Tri>) -> Tri {
        let mut result = Tri::No;
        for answer in answers {
            match answer {
                Tri::Yes => return Tri::Yes,
                Tri::Unknown => result = Tri::Unknown,
                Tri::No => {}
            }
        }
        result
    }

    fn test(&self, test: Test) -> Tri {
        let facts = self.facts;
        let kind = facts.kind();
        match test {
            Test::All => Tri::Yes,
            Test::Http => (kind == FlowKind::Http).into(),
            Test::Tcp => (kind == FlowKind::Tcp).into(),
            Test::Udp => (kind == FlowKind::Udp).into(),
            Test::Dns => (kind == FlowKind::Dns).into(),
            Test::Response => self.has_response(),
            Test::NoResponse if matches!(kind, FlowKind::Http | FlowKind::Dns) => {
                !self.has_response()
            }
            Test::Asset => match facts.response_headers() {
                Some(headers) => {
                    headers.get_all("content-type").any(|value| is_asset(value)).into()
                }
                None => self.without_response(),
            },
            Test::WebSocket if facts.is_websocket() => Tri::Yes,
            Test::WebSocket if self.may_be_upgraded() => self.if_final(Tri::No),
            Test::NoResponse | Test::WebSocket => Tri::No,
            Test::Error if facts.has_error() => Tri::Yes,
            Test::Error => self.if_final(Tri::No),
            Test::Marked => self.if_final((!facts.marked().is_empty()).into()),
            Test::Replayed => self.replayed(facts.replay().is_some()),
            Test::ReplayedRequest => self.replayed(facts.replay() == Some(Replay::Request)),
            Test::ReplayedResponse => self.replayed(facts.replay() == Some(Replay::Response)),
        }
    }

    fn field(&self, field: Field, pattern: &Pattern) -> Tri {
        let facts = self.facts;
        match field {
            Field::Method => self.search_if(pattern, facts.method()),
            Field::Url if facts.kind() == FlowKind::Dns => match facts.dns_request() {
                Some(request) => {
                    self.search_if(pattern, request.questions.first().map(|q| q.name.as_bytes()))
                }
                None => Tri::No,
            },
            Field::Url => self.search_if(pattern, facts.pretty_url().as_deref()),
            Field::Domain => match self.search_if(pattern, facts.host().as_deref()) {
                Tri::Yes => Tri::Yes,
                // "Not" and "given up" alike: the other name may match.
                by_host => {
                    self.any([by_host, self.search_if(pattern, facts.pretty_host().as_deref())])
                }
            },
            Field::Source => self.search_if(pattern, facts.client_address()),
            Field::Destination => match facts.server_address() {
                Some(address) => self.search(pattern, address.as_bytes()),
                None if self.known.contains(Known::RESPONSE_HEAD) => Tri::No,
                None => self.if_final(Tri::No),
            },
            Field::Marker => self.note(|| self.search(pattern, facts.marked().as_bytes())),
            Field::Comment => self.note(|| self.search(pattern, facts.comment().as_bytes())),
            Field::Metadata => {
                self.note(|| self.search(pattern, metadata_lines(&facts.metadata()).as_bytes()))
            }
            Field::ContentType => self.heads(Side::Both, |h| self.content_type(pattern, h)),
            Field::ContentTypeRequest => {
                self.heads(Side::Request, |h| self.content_type(pattern, h))
            }
            Field::ContentTypeResponse => {
                self.heads(Side::Response, |h| self.content_type(pattern, h))
            }
            Field::Header => self.heads(Side::Both, |h| self.search(pattern, &header_block(h))),
            Field::HeaderRequest => {
                self.heads(Side::Request, |h| self.search(pattern, &header_block(h)))
            }
            Field::HeaderResponse => {
                self.heads(Side::Response, |h| self.search(pattern, &header_block(h)))
            }
            Field::Body => self.content(Side::Both, pattern),
            Field::BodyRequest => self.content(Side::Request, pattern),
            Field::BodyResponse => self.content(Side::Response, pattern),
        }
    }

    fn has_response(&self) -> Tri {
        if self.facts.has_response() { Tri::Yes } else { self.without_response() }
    }

    /// The answer of something about the response when there is none.
    fn without_response(&self) -> Tri {
        match self.facts.kind() {
            FlowKind::Http | FlowKind::Dns if !self.known.contains(Known::RESPONSE_HEAD) => {
                self.if_final(Tri::No)
            }
            _ => Tri::No,
        }
    }

    fn code(&self, code: u64) -> Tri {
        match self.facts.status_code() {
            Some(status) => (u64::try_from(status) == Ok(code)).into(),
            None if self.facts.kind() == FlowKind::Http => self.without_response(),
            None => Tri::No,
        }
    }

    /// Something about the present that may be otherwise when the flow ends.
    fn if_final(&self, now: Tri) -> Tri {
        if self.horizon == Horizon::Message || self.known.contains(Known::END) {
            now
        } else {
            Tri::Unknown
        }
    }

    /// Something that users and addons change at any time.
    fn note(&self, now: impl FnOnce() -> Tri) -> Tri {
        match self.if_final(Tri::Yes) {
            Tri::Unknown => Tri::Unknown,
            Tri::Yes | Tri::No => now(),
        }
    }

    /// A flow stays replayed, and becomes it before there is a response.
    fn replayed(&self, now: bool) -> Tri {
        if now {
            Tri::Yes
        } else if self.known.contains(Known::RESPONSE_HEAD) {
            Tri::No
        } else {
            self.if_final(Tri::No)
        }
    }

    /// True if the connection of an HTTP flow may still be handed to WebSocket.
    fn may_be_upgraded(&self) -> bool {
        let facts = self.facts;
        if facts.kind() != FlowKind::Http || self.known.contains(Known::END) {
            return false;
        }
        // Over HTTP/1 the response to an upgrade is a 101, over HTTP/2 a CONNECT is answered by 200.
        let connect = facts.method().is_some_and(|method| method.as_ref() == b"CONNECT");
        match facts.status_code() {
            Some(101) => true,
            Some(200..300) => connect,
            Some(_) => false,
            None => connect || facts.request_headers().is_some_and(|h| h.contains("upgrade")),
        }
    }

    fn heads(&self, side: Side, answer: impl Fn(&Headers) -> Tri) -> Tri {
        if self.facts.kind() != FlowKind::Http {
            return Tri::No;
        }
        let mut result = Tri::No;
        if side != Side::Response
            && let Some(headers) = self.facts.request_headers()
        {
            result = answer(&headers);
        }
        if side == Side::Request || result == Tri::Yes {
            return result;
        }
        let response = match self.facts.response_headers() {
            Some(headers) => answer(&headers),
            None => self.without_response(),
        };
        self.any([result, response])
    }

    fn content_type(&self, pattern: &Pattern, headers: &Headers) -> Tri {
        self.any(headers.get_all("content-type").map(|value| self.search(pattern, value)))
    }

    fn content(&self, side: Side, pattern: &Pattern) -> Tri {
        let facts = self.facts;
        match facts.kind() {
            FlowKind::Http => {
                let mut result = Tri::No;
                if side != Side::Response {
                    result = self.request_body(pattern);
                }
                if side != Side::Request && result != Tri::Yes {
                    result = self.any([result, self.response_body(pattern)]);
                }
                if result == Tri::Yes {
                    return result;
                }
                let messages = if facts.is_websocket() {
                    self.messages(side, pattern)
                } else if self.may_be_upgraded() {
                    self.if_final(Tri::No)
                } else {
                    Tri::No
                };
                self.any([result, messages])
            }
            FlowKind::Tcp | FlowKind::Udp => self.messages(side, pattern),
            FlowKind::Dns => {
                let mut result = Tri::No;
                if side != Side::Response
                    && let Some(request) = facts.dns_request()
                {
                    result = self.search(pattern, request.to_string().as_bytes());
                }
                if side == Side::Request || result == Tri::Yes {
                    return result;
                }
                let response = match facts.dns_response() {
                    Some(response) => self.search(pattern, response.to_string().as_bytes()),
                    None => self.without_response(),
                };
                self.any([result, response])
            }
        }
    }

    fn request_body(&self, pattern: &Pattern) -> Tri {
        if !self.known.contains(Known::REQUEST_BODY) {
            return Tri::Unknown;
        }
        let content = self.request_content.get_or_init(|| {
            load(
                &self.facts.request_body().unwrap_or_default(),
                self.facts.request_headers().as_ref(),
            )
        });
        self.search_content(pattern, content)
    }

    fn response_body(&self, pattern: &Pattern) -> Tri {
        if !self.facts.has_response() {
            return self.without_response();
        }
        if !self.known.contains(Known::RESPONSE_BODY) {
            return Tri::Unknown;
        }
        let content = self.response_content.get_or_init(|| {
            load(
                &self.facts.response_body().unwrap_or_default(),
                self.facts.response_headers().as_ref(),
            )
        });
        self.search_content(pattern, content)
    }

    fn messages(&self, side: Side, pattern: &Pattern) -> Tri {
        let messages = self.facts.messages();
        let wanted = messages.iter().filter(|message| match side {
            Side::Both => true,
            Side::Request => message.from_client,
            Side::Response => !message.from_client,
        });
        let answers =
            wanted.map(|message| self.search_content(pattern, &load(&message.content, None)));
        self.any(answers.chain(std::iter::once_with(|| self.if_final(Tri::No))))
    }

    fn search_content(&self, pattern: &Pattern, content: &Content) -> Tri {
        match content {
            Content::Missing => Tri::No,
            Content::Bytes { bytes, cut } => match self.search(pattern, bytes) {
                Tri::No if *cut => self.too_large(pattern),
                answer => answer,
            },
            Content::TooLarge => self.too_large(pattern),
            Content::Unreadable(kind, message) => self.fail(MatchError::Body {
                pattern: format!("{pattern:?}"),
                source: io::Error::new(*kind, message.clone()),
            }),
        }
    }

    fn too_large(&self, pattern: &Pattern) -> Tri {
        let limit = MAX_SEARCHED_BYTES;
        self.fail(MatchError::TooLarge { pattern: format!("{pattern:?}"), limit })
    }

    fn search_if(&self, pattern: &Pattern, text: Option<impl AsRef<[u8]>>) -> Tri {
        text.map_or(Tri::No, |text| self.search(pattern, text.as_ref()))
    }

    fn search(&self, pattern: &Pattern, text: &[u8]) -> Tri {
        match pattern.search(text) {
            Ok(found) => found.into(),
            Err(gave_up) => self.fail(MatchError::GaveUp {
                pattern: format!("{pattern:?}"),
                reason: gave_up.to_string(),
            }),
        }
    }

    fn fail(&self, error: MatchError) -> Tri {
        self.error.borrow_mut().get_or_insert(error);
        Tri::Unknown
    }
}

/// Reads a body and undoes its content codings; if they are unknown or broken it is taken as it is.
fn load(body: &Body, headers: Option<&Headers>) -> Content {
    if body.is_missing() {
        return Content::Missing;
    }
    let raw = if let Some(bytes) = body.in_memory() {
        Ok((bytes.clone(), false))
    } else {
        let limit = usize::try_from(MAX_SEARCHED_BYTES).unwrap_or(usize::MAX);
        let cut = body.len().is_some_and(|len| len > MAX_SEARCHED_BYTES);
        body.prefix(limit).map(|bytes| (bytes, cut))
    };
    let (bytes, cut) = match raw {
        Ok(raw) => raw,
        Err(error) => return Content::Unreadable(error.kind(), error.to_string()),
    };
    let coding = headers.and_then(|headers| headers.get_folded("content-encoding"));
    match coding.as_deref().map(|coding| (coding, coding::parse(coding))) {
        None | Some((_, Err(_))) => Content::Bytes { bytes, cut },
        Some((_, Ok(codings))) if codings.is_empty() => Content::Bytes { bytes, cut },
        Some((coding, Ok(_))) => match coding::decode(coding, &bytes, MAX_SEARCHED_BYTES) {
            Ok(bytes) => Content::Bytes { bytes, cut },
            Err(CodingError::TooLarge { .. }) => Content::TooLarge,
            Err(_) => Content::Bytes { bytes, cut },
        },
    }
}

fn is_asset(content_type: &[u8]) -> bool {
    ASSET_TYPES.iter().any(|kind| memchr::memmem::find(content_type, kind).is_some())
}

/// Returns the facts that an expression looks at.
pub(crate) fn needs(expr: &Expr) -> Needs {
    match expr {
        Expr::Not(inner) => needs(inner),
        Expr::And(children) | Expr::Or(children) => {
            children.iter().fold(Needs::NOTHING, |sum, child| sum | needs(child))
        }
        Expr::Code(_) => Needs::RESPONSE,
        Expr::Test(test) => match test {
            Test::All | Test::Http | Test::Tcp | Test::Udp | Test::Dns => Needs::NOTHING,
            Test::Response | Test::NoResponse => Needs::RESPONSE,
            Test::Asset => Needs::RESPONSE_HEADERS,
            Test::WebSocket => Needs::WEBSOCKET,
            Test::Error => Needs::ERROR,
            Test::Marked => Needs::NOTES,
            Test::Replayed | Test::ReplayedRequest | Test::ReplayedResponse => Needs::REPLAY,
        },
        Expr::Match(field, _) => match field {
            Field::Method | Field::Url | Field::Domain => Needs::REQUEST,
            Field::Source | Field::Destination => Needs::ADDRESSES,
            Field::Marker | Field::Comment | Field::Metadata => Needs::NOTES,
            Field::ContentTypeRequest | Field::HeaderRequest => Needs::REQUEST_HEADERS,
            Field::ContentTypeResponse | Field::HeaderResponse => Needs::RESPONSE_HEADERS,
            Field::ContentType | Field::Header => Needs::REQUEST_HEADERS | Needs::RESPONSE_HEADERS,
            Field::Body => Needs::REQUEST_BODY | Needs::RESPONSE_BODY | Needs::MESSAGES,
            Field::BodyRequest => Needs::REQUEST_BODY | Needs::MESSAGES,
            Field::BodyResponse => Needs::RESPONSE_BODY | Needs::MESSAGES,
        },
    }
}
