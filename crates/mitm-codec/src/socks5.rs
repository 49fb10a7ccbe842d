//! SOCKS, version 5, both sides: RFC 1928, and passwords by RFC 1929.
//!
//! ```text
//! client                                     server
//! greeting: the methods it can do  ────►
//!                                  ◄────     the method chosen, or none
//! name and password (method 2)     ────►
//!                                  ◄────     whether they are right
//! request: where to                ────►
//!                                  ◄────     reply: connected, or why not
//! ```
//!
//! Each message has a function that takes it from the front of a buffer, `Ok(None)` meaning that it is not all there,
//! and one that writes it. A message is at most 513 bytes long, and what is wrong with it is told as soon as its byte is
//! there, so a reader needs no limit of its own. Nothing is taken from the buffer with an error.
//!
//! Which methods are acceptable, what a name must look like and what to answer is not decided here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The version of the protocol.
pub const VERSION: u8 = 5;
/// The version of the exchange of name and password.
const AUTH_VERSION: u8 = 1;

/// Method: nobody needs to say who they are.
pub const NO_AUTH: u8 = 0;
/// Method: name and password.
pub const PASSWORD: u8 = 2;
/// In place of a method: none of those that the client can do.
pub const NO_METHOD: u8 = 0xff;

/// Command: connect to the server named.
const CONNECT: u8 = 1;

const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Why bytes are no message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Socks5Error {
    #[error("version {0} of SOCKS")]
    Version(u8),
    #[error("version {0} of the SOCKS password exchange")]
    AuthVersion(u8),
    /// A request for something else than a TCP connection.
    #[error("SOCKS command {0:#04x}")]
    Command(u8),
    /// The byte that is to be zero is not.
    #[error("a reserved byte of {0:#04x}")]
    Reserved(u8),
    #[error("SOCKS address type {0}")]
    AddressType(u8),
    #[error("an empty server name")]
    EmptyName,
}

/// What is said about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReplyCode {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    ConnectionRefused = 5,
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl ReplyCode {
    /// Says in words what a code means.
    pub fn describe(code: u8) -> &'static str {
        match code {
            0 => "succeeded",
            1 => "general failure",
            2 => "connection not allowed by ruleset",
            3 => "network unreachable",
            4 => "host unreachable",
            5 => "connection refused",
            6 => "TTL expired",
            7 => "command not supported",
            8 => "address type not supported",
            _ => "unknown reason",
        }
    }
}

/// A place in a request or reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// 1 to 255 bytes of any kind.
    Name(Bytes),
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip)
    }
}

/// A name and a password: 0 to 255 bytes each.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub name: Bytes,
    pub password: Bytes,
}

/// Without what it says: it has no place in a log.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(..)")
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// One of [`ReplyCode`], or any other number.
    pub code: u8,
    /// The server's own end of the connection; `None` if it was left out after a failure.
    pub bound: Option<(Host, u16)>,
}

/// What a reader returns: a message, or `None` if it is not all there.
pub type Read<T> = Result<Option<T>, Socks5Error>;

/// Reads a greeting: the methods that the client can do.
pub fn read_greeting(buf: &mut BytesMut) -> Read<Bytes> {
    let Some(&version) = buf.first() else { return Ok(None) };
    if version != VERSION {
        return Err(Socks5Error::Version(version));
    }
    let Some(&count) = buf.get(1) else { return Ok(None) };
    let end = 2 + usize::from(count);
    if buf.len() < end {
        return Ok(None);
    }
    Ok(Some(buf.split_to(end).freeze().split_off(2)))
}

/// Writes a greeting. Of more than 255 methods the first are written.
pub fn write_greeting(out: &mut BytesMut, methods: &[u8]) {
    out.put_u8(VERSION);
    put_counted(out, methods);
}

/// Reads the server's choice of a method.
pub fn read_choice(buf: &mut BytesMut) -> Read<u8> {
    let Some(&version) = buf.first() else { return Ok(None) };
    if version != VERSION {
        return Err(Socks5Error::Version(version));
    }
    let Some(&method) = buf.get(1) else { return Ok(None) };
    buf.advance(2);
    Ok(Some(method))
}

/// Writes the choice of a method.
pub fn write_choice(out: &mut BytesMut, method: u8) {
    out.put_slice(&[VERSION, method]);
}

/// Reads name and password.
pub fn read_login(buf: &mut BytesMut) -> Read<Login> {
    let Some(&version) = buf.first() else { return Ok(None) };
    if version != AUTH_VERSION {
        return Err(Socks5Error::AuthVersion(version));
    }
    let Some(&name_len) = buf.get(1) else { return Ok(None) };
    let name_end = 2 + usize::from(name_len);
    let Some(&password_len) = buf.get(name_end) else { return Ok(None) };
    let end = name_end + 1 + usize::from(password_len);
    if buf.len() < end {
        return Ok(None);
    }
    let message = buf.split_to(end).freeze();
    Ok(Some(Login { name: message.slice(2..name_end), password: message.slice(name_end + 1..) }))
}

/// Writes name and password, cut to 255 bytes each.
pub fn write_login(out: &mut BytesMut, name: &[u8], password: &[u8]) {
    out.put_u8(AUTH_VERSION);
    put_counted(out, name);
    put_counted(out, password);
}

/// Reads whether name and password are right.
pub fn read_verdict(buf: &mut BytesMut) -> Read<bool> {
    let Some(&version) = buf.first() else { return Ok(None) };
    if version != AUTH_VERSION {
        return Err(Socks5Error::AuthVersion(version));
    }
    let Some(&status) = buf.get(1) else { return Ok(None) };
    buf.advance(2);
    Ok(Some(status == 0))
}

/// Writes whether name and password are right.
pub fn write_verdict(out: &mut BytesMut, is_right: bool) {
    out.put_slice(&[AUTH_VERSION, u8::from(!is_right)]);
}

/// Reads a request to connect: where to.
pub fn read_request(buf: &mut BytesMut) -> Read<(Host, u16)> {
    let [version, command, reserved] = [buf.first(), buf.get(1), buf.get(2)];
    match version {
        Some(&VERSION) | None => {}
        Some(&version) => return Err(Socks5Error::Version(version)),
    }
    match command {
        Some(&CONNECT) | None => {}
        Some(&command) => return Err(Socks5Error::Command(command)),
    }
    match reserved {
        Some(0) => {}
        None => return Ok(None),
        Some(&reserved) => return Err(Socks5Error::Reserved(reserved)),
    }
    let Some(place) = place_at(buf, 3)? else { return Ok(None) };
    Ok(Some(take_place(buf, place)))
}

/// Writes a request to connect. A name is cut to 255 bytes.
pub fn write_request(out: &mut BytesMut, host: &Host, port: u16) {
    out.put_slice(&[VERSION, CONNECT, 0]);
    put_place(out, host, port);
}

/// Reads a reply. After a failure its place is not needed: servers leave it out, or close within it.
pub fn read_reply(buf: &mut BytesMut) -> Read<Reply> {
    match buf.first() {
        Some(&VERSION) => {}
        None => return Ok(None),
        Some(&version) => return Err(Socks5Error::Version(version)),
    }
    let Some(&code) = buf.get(1) else { return Ok(None) };
    if code != ReplyCode::Succeeded as u8 {
        let len = buf.len();
        buf.advance(len);
        return Ok(Some(Reply { code, bound: None }));
    }
    // What the reserved byte is does not matter: some servers send anything.
    let Some(place) = place_at(buf, 3)? else { return Ok(None) };
    Ok(Some(Reply { code, bound: Some(take_place(buf, place)) }))
}

/// Writes a reply that is about the place `0.0.0.0:0`.
pub fn write_reply(out: &mut BytesMut, code: ReplyCode) {
    out.put_slice(&[VERSION, code as u8, 0]);
    put_place(out, &Host::Ip(Ipv4Addr::UNSPECIFIED.into()), 0);
}

/// Where a place is in a message.
struct Place {
    kind: u8,
    start: usize,
    /// Two bytes of a port follow.
    end: usize,
}

/// Finds the place whose type is at `at`, if all of it is there.
fn place_at(buf: &[u8], at: usize) -> Read<Place> {
    let Some(&kind) = buf.get(at) else { return Ok(None) };
    let (start, len) = match kind {
        IPV4 => (at + 1, 4),
        IPV6 => (at + 1, 16),
        NAME => match buf.get(at + 1) {
            None => return Ok(None),
            Some(0) => return Err(Socks5Error::EmptyName),
            Some(&len) => (at + 2, usize::from(len)),
        },
        kind => return Err(Socks5Error::AddressType(kind)),
    };
    let end = start + len;
    Ok((buf.len() >= end + 2).then_some(Place { kind, start, end }))
}

/// Takes the message that ends with this place.
fn take_place(buf: &mut BytesMut, Place { kind, start, end }: Place) -> (Host, u16) {
    let mut message = buf.split_to(end + 2).freeze();
    message.advance(start);
    let host = match kind {
        IPV4 => Host::Ip(Ipv4Addr::from_bits(message.get_u32()).into()),
        IPV6 => Host::Ip(Ipv6Addr::from_bits(message.get_u128()).into()),
        _ => Host::Name(message.split_to(end - start)),
    };
    (host, message.get_u16())
}

fn put_place(out: &mut BytesMut, host: &Host, port: u16) {
    match host {
        Host::Ip(IpAddr::V4(ip)) => {
            out.put_u8(IPV4);
            out.put_u32(ip.to_bits());
        }
        Host::Ip(IpAddr::V6(ip)) => {
            out.put_u8(IPV6);
            out.put_u128(ip.to_bits());
        }
        Host::Name(name) => {
            out.put_u8(NAME);
            put_counted(out, name);
        }
    }
    out.put_u16(port);
}

/// Writes a length of one byte, and as many bytes.
fn put_counted(out: &mut BytesMut, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.put_u8(len);
    out.put_slice(bytes.get(..usize::from(len)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T>(bytes: &[u8], read: impl Fn(&mut BytesMut) -> Read<T>) -> Read<T> {
        for len in 0..bytes.len() {
            match read(&mut bytes.get(..len).unwrap().into()) {
                Ok(None) => {}
                // Later bytes make no difference.
                other => return other,
            }
        }
        let mut buf: BytesMut = [bytes, b"rest"].concat()[..].into();
        let found = read(&mut buf)?;
        assert_eq!(&buf[..], b"rest");
        Ok(found)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let methods = all(b"\x05\x03\x00\x01\x02", read_greeting).unwrap().unwrap();
        assert_eq!(&methods[..], [0, 1, 2]);
        assert_eq!(all(b"\x05\x00", read_greeting).unwrap().unwrap(), "");
        assert_eq!(all(b"\x05\x02", read_choice), Ok(Some(PASSWORD)));
        let login = all(b"\x01\x04user\x06secret", read_login).unwrap().unwrap();
        assert_eq!((&login.name[..], &login.password[..]), (&b"user"[..], &b"secret"[..]));
        let login = all(b"\x01\x00\x00", read_login).unwrap().unwrap();
        assert!(login.name.is_empty() && login.password.is_empty());
        assert_eq!(all(b"\x01\x00", read_verdict), Ok(Some(true)));
        assert_eq!(all(b"\x01\x07", read_verdict), Ok(Some(false)));
        let v4 = all(b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50", read_request);
        assert_eq!(v4, Ok(Some((Host::Ip(Ipv4Addr::LOCALHOST.into()), 80))));
        let name = all(b"\x05\x01\x00\x03\x0bexample.com\x01\xbb", read_request);
        assert_eq!(name, Ok(Some((Host::Name("example.com".into()), 443))));
        let mut v6 = b"\x05\x01\x00\x04".to_vec();
        v6.extend(Ipv6Addr::LOCALHOST.octets());
        v6.extend(b"\xff\xff");
        let v6 = all(&v6, read_request);
        assert_eq!(v6, Ok(Some((Host::Ip(Ipv6Addr::LOCALHOST.into()), 65535))));
    }

    #[test]
    fn what_is_wrong_is_told_at_its_byte() {
        use Socks5Error::{AddressType, AuthVersion, Command, EmptyName, Reserved, Version};
        assert_eq!(all(b"GET", read_greeting), Err(Version(b'G')));
        assert_eq!(all(b"\x04", read_choice), Err(Version(4)));
        assert_eq!(all(b"\x05", read_login).unwrap_err(), AuthVersion(5));
        assert_eq!(all(b"\x05", read_verdict), Err(AuthVersion(5)));
        for (bytes, error) in [
            (&b"\x04"[..], Version(4)),
            (b"\x05\x02", Command(2)),
            (b"\x05\x03", Command(3)),
            (b"\x05\x01\x01", Reserved(1)),
            (b"\x05\x01\x00\x02", AddressType(2)),
            (b"\x05\x01\x00\x03\x00", EmptyName),
        ] {
            assert_eq!(all(bytes, read_request), Err(error), "{bytes:?}");
        }
        assert_eq!(read_reply(&mut b"\x05\x00\x00\x09"[..].into()), Err(AddressType(9)));
    }

    #[test]
    fn replies() {
        let mut out = BytesMut::new();
        write_reply(&mut out, ReplyCode::Succeeded);
        assert_eq!(&out[..], b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00");
        let bound = Some((Host::Ip(Ipv4Addr::UNSPECIFIED.into()), 0));
        assert_eq!(all(&out, read_reply), Ok(Some(Reply { code: 0, bound })));
        let named = all(b"\x05\x00\x07\x03\x01x\x00\x01", read_reply).unwrap().unwrap();
        assert_eq!(named.bound, Some((Host::Name("x".into()), 1)));
        // A failure is known from two bytes.
        assert_eq!(read_reply(&mut b"\x05\x05"[..].into()).unwrap().unwrap().code, 5);
        assert_eq!(ReplyCode::describe(ReplyCode::ConnectionRefused as u8), "connection refused");
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let mut out = BytesMut::new();
        write_login(&mut out, &[b'a'; 300], &[b'b'; 255]);
        let login = all(&out, read_login).unwrap().unwrap();
        assert_eq!((login.name.len(), login.password.len()), (255, 255));
    }
}
