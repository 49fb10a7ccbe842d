//! The operators: one table, from which parser, printer, help and documentation are made.

/// An operator without an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    All,
    Asset,
    Dns,
    Error,
    Http,
    Marked,
    NoResponse,
    Replayed,
    ReplayedRequest,
    ReplayedResponse,
    Response,
    Tcp,
    Udp,
    WebSocket,
}

/// What an operator with a regular expression looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    Body,
    BodyRequest,
    BodyResponse,
    Comment,
    ContentType,
    ContentTypeRequest,
    ContentTypeResponse,
    Destination,
    Domain,
    Header,
    HeaderRequest,
    HeaderResponse,
    Marker,
    Metadata,
    Method,
    Source,
    Url,
}

/// How the pattern of a field is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Text of one line.
    Text,
    /// Text of lines: `^` and `$` match at each.
    Lines,
    /// Bytes of one line.
    Bytes,
    /// Bytes in which `.` matches everything.
    Blob,
    /// Bytes in lines that end with CRLF.
    HeaderLines,
}

pub(crate) struct TestEntry {
    pub code: &'static str,
    pub test: Test,
    pub reading: &'static str,
    pub help: &'static str,
}

pub(crate) struct FieldEntry {
    pub code: &'static str,
    pub field: Field,
    pub style: Style,
    pub reading: &'static str,
    pub help: &'static str,
}

pub(crate) const CODE: &str = "c";
const CODE_HELP: &str = "the status code of the response is this number";

/// A shorter way to write the tables.
macro_rules! tests {
    ($($code:literal $test:ident $reading:literal $help:literal)*) => {
        &[$(TestEntry { code: $code, test: Test::$test, reading: $reading, help: $help }),*]
    };
}

macro_rules! fields {
    ($($code:literal $field:ident $style:ident $reading:literal $help:literal)*) => {
        &[$(FieldEntry {
            code: $code, field: Field::$field, style: Style::$style, reading: $reading, help: $help
        }),*]
    };
}

pub(crate) const TESTS: &[TestEntry] = tests! {
    "a" Asset "is asset"
        "the response is an asset by its content type: CSS, JavaScript, image, font"
    "all" All "all flows" "every flow"
    "dns" Dns "is a DNS Flow" "DNS flows"
    "e" Error "has error" "the flow ended with an error"
    "http" Http "is an HTTP Flow" "HTTP flows, those upgraded to WebSocket among them"
    "marked" Marked "is marked" "the flow is marked"
    "q" NoResponse "has no response" "requests that have no response (yet)"
    "replay" Replayed "flow has been replayed" "replayed flows"
    "replayq" ReplayedRequest "request has been replayed"
        "the request was replayed towards the server"
    "replays" ReplayedResponse "response has been replayed"
        "the response was replayed towards the client"
    "s" Response "has response" "the flow has a response"
    "tcp" Tcp "is a TCP Flow" "TCP flows"
    "udp" Udp "is a UDP Flow" "UDP flows"
    "websocket" WebSocket "is a Websocket Flow" "HTTP flows upgraded to WebSocket"
};

pub(crate) const FIELDS: &[FieldEntry] = fields! {
    "b" Body Blob "body"
        "the body of request or response, any WebSocket, TCP or UDP message, or DNS message"
    "bq" BodyRequest Blob "body request" "as ~b, on what the client sent"
    "bs" BodyResponse Blob "body response" "as ~b, on what the server sent"
    "comment" Comment Lines "comment" "the comment of the flow"
    "d" Domain Text "domain" "the host of the request, as connected to or as in the Host header"
    "dst" Destination Text "destination address" "the server's address as host:port"
    "h" Header HeaderLines "header" "a line \"name: value\" of the request's or response's headers"
    "hq" HeaderRequest HeaderLines "req. header" "as ~h, on the request"
    "hs" HeaderResponse HeaderLines "resp. header" "as ~h, on the response"
    "m" Method Bytes "method" "the request's method"
    "marker" Marker Text "marker" "the marker of the flow, such as :grapes:"
    "meta" Metadata Lines "flow metadata" "a line \"key: value\" of the flow's metadata"
    "src" Source Text "source address" "the client's address as ip:port"
    "t" ContentType Bytes "content type" "the content type of request or response"
    "tq" ContentTypeRequest Bytes "req. content type" "the content type of the request"
    "ts" ContentTypeResponse Bytes "resp. content type" "the content type of the response"
    "u" Url Text "url" "the URL, or the name that a DNS request asks for; also without operator"
};

const COMBINATORS: &[(&str, &str)] = &[
    ("!", "not"),
    ("&", "and; so are two expressions side by side, which bind less than |"),
    ("|", "or"),
    ("(...)", "grouping"),
];

/// Returns the syntax of each operator and what it matches: the operators by name, then how they combine.
pub fn help() -> Vec<(String, &'static str)> {
    let mut entries: Vec<(String, &'static str)> = TESTS
        .iter()
        .map(|entry| (format!("~{}", entry.code), entry.help))
        .chain(FIELDS.iter().map(|entry| (format!("~{} regex", entry.code), entry.help)))
        .chain([(format!("~{CODE} int"), CODE_HELP)])
        .collect();
    entries.sort();
    entries.extend(COMBINATORS.iter().map(|&(syntax, text)| (syntax.to_owned(), text)));
    entries
}

impl Test {
    pub(crate) fn entry(self) -> &'static TestEntry {
        let found = TESTS.iter().find(|entry| entry.test == self);
        found.expect("the table has every operator")
    }
}

impl Field {
    pub(crate) fn entry(self) -> &'static FieldEntry {
        let found = FIELDS.iter().find(|entry| entry.field == self);
        found.expect("the table has every operator")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_each_operator_once() {
        let help = help();
        assert_eq!(help.len(), TESTS.len() + FIELDS.len() + 1 + COMBINATORS.len());
        assert_eq!(help.len(), 32 + 4);
        assert_eq!(help[0].0, "~a");
        assert!(help.iter().any(|(syntax, _)| syntax == "~c int"));
        assert!(help.iter().any(|(syntax, _)| syntax == "~meta regex"));
        assert_eq!(help[35].0, "(...)");
    }

    #[test]
    fn entries_are_found_by_operator() {
        for entry in TESTS {
            assert_eq!(entry.test.entry().code, entry.code);
        }
        for entry in FIELDS {
            assert_eq!(entry.field.entry().code, entry.code);
        }
    }
}
