//! Reads HTTP/1 the way a careless peer would.
//!
//! Tests about request smuggling ask two questions of the bytes that reached an origin: how many
//! requests would a parser see that trusts this or that header, and does a head carry more than one
//! way to tell where its body ends? Both are answered here without any of the checks that a real
//! parser makes; nothing in this module decides what is valid.

/// Which header a parser believes when it looks for the end of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// `Transfer-Encoding` where present, else `Content-Length`: what the RFC says.
    TransferEncoding,
    /// `Content-Length` only, the first one.
    FirstLength,
    /// `Content-Length` only, the last one.
    LastLength,
}

/// One message as cut out of a stream of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The start line and the header lines, without the empty line.
    pub head: Vec<u8>,
    /// The body as on the wire, chunk framing included.
    pub body: Vec<u8>,
}

impl Message {
    /// Returns the start line.
    pub fn start_line(&self) -> String {
        let end = find(&self.head, b"\n").unwrap_or(self.head.len());
        String::from_utf8_lossy(&self.head[..end]).trim_end().to_owned()
    }

    /// Returns the status code of a response, or 0.
    pub fn status(&self) -> u16 {
        let line = self.start_line();
        line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// Returns the values of a header, compared without regard to case, in order.
    pub fn header(&self, name: &str) -> Vec<String> {
        header_values(&self.head, name)
    }

    /// Returns the body with chunk framing taken off, if it has any.
    pub fn content(&self) -> Vec<u8> {
        if !is_chunked(&self.head) {
            return self.body.clone();
        }
        let mut content = Vec::new();
        let mut rest = self.body.as_slice();
        while let Some((size, line)) = chunk_size(rest) {
            if size == 0 || rest.len() < line + size {
                break;
            }
            content.extend_from_slice(&rest[line..line + size]);
            rest = &rest[(line + size + 2).min(rest.len())..];
        }
        content
    }
}

/// Cuts a stream into the complete messages that a parser with this trust would see.
///
/// Returns them with the bytes that are left over.
pub fn messages(stream: &[u8], trust: Trust) -> (Vec<Message>, &[u8]) {
    let mut rest = stream;
    let mut found = Vec::new();
    while let Some((message, used)) = first(rest, trust) {
        found.push(message);
        rest = &rest[used..];
    }
    (found, rest)
}

/// Returns each header line of a head that says where the body ends.
///
/// More than one is an invitation to disagree.
pub fn framings(head: &[u8]) -> Vec<String> {
    ["content-length", "transfer-encoding"]
        .iter()
        .flat_map(|name| {
            header_values(head, name).into_iter().map(move |value| format!("{name}: {value}"))
        })
        .collect()
}

/// Returns the first complete message and the number of bytes it takes.
pub fn first(stream: &[u8], trust: Trust) -> Option<(Message, usize)> {
    let end = find(stream, b"\r\n\r\n")?;
    let head = &stream[..end];
    let body = &stream[end + 4..];
    let lengths = header_values(head, "content-length");
    let length = match trust {
        Trust::LastLength => lengths.last(),
        Trust::TransferEncoding | Trust::FirstLength => lengths.first(),
    };
    let size = if trust == Trust::TransferEncoding && is_chunked(head) {
        chunked_len(body)?
    } else {
        length.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    let body = body.get(..size)?.to_vec();
    Some((Message { head: head.to_vec(), body }, end + 4 + size))
}

/// Says whether the head names the chunked coding.
pub fn is_chunked(head: &[u8]) -> bool {
    header_values(head, "transfer-encoding")
        .iter()
        .any(|value| value.to_ascii_lowercase().contains("chunked"))
}

/// Returns where a byte string begins in another.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn header_values(head: &[u8], name: &str) -> Vec<String> {
    head.split(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| {
            let line = String::from_utf8_lossy(line);
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
        .collect()
}

/// Returns the length of a chunked body with its trailers, once it is complete.
fn chunked_len(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (size, line) = chunk_size(body.get(at..)?)?;
        at += line;
        if size == 0 {
            // trailers end with an empty line
            loop {
                let end = find(body.get(at..)?, b"\r\n")?;
                at += end + 2;
                if end == 0 {
                    return Some(at);
                }
            }
        }
        at += size + 2;
    }
}

/// Returns the size that a chunk line names and the length of that line.
fn chunk_size(body: &[u8]) -> Option<(usize, usize)> {
    let end = find(body, b"\r\n")?;
    let line = String::from_utf8_lossy(&body[..end]);
    let digits = line.split(';').next().unwrap_or_default().trim();
    Some((usize::from_str_radix(digits, 16).ok()?.min(1 << 40), end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMUGGLE: &[u8] =
        b"POST / HTTP/1.1\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n\
        0\r\n\r\nGET /hidden HTTP/1.1\r\nA: b\r\n\r\n";

    #[test]
    fn two_framings_give_two_readings() {
        let (by_coding, _) = messages(SMUGGLE, Trust::TransferEncoding);
        let (by_length, _) = messages(SMUGGLE, Trust::FirstLength);
        assert_eq!(by_coding[1].start_line(), "GET /hidden HTTP/1.1");
        assert_ne!(by_coding.get(1), by_length.get(1));
        assert_eq!(framings(&by_coding[0].head).len(), 2);
    }

    #[test]
    fn a_chunked_body_is_cut_at_its_trailers_and_unframed() {
        let stream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nrest";
        let (found, rest) = messages(stream, Trust::TransferEncoding);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].content(), b"abcde");
        assert_eq!((found[1].status(), rest), (204, b"rest".as_slice()));
    }

    #[test]
    fn an_incomplete_message_is_left_over() {
        let (found, rest) = messages(b"GET / HTTP/1.1\r\nA: b\r\n", Trust::TransferEncoding);
        assert!(found.is_empty());
        assert_eq!(rest.len(), 22);
    }
}
