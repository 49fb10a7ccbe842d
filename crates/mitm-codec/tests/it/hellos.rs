//! `ClientHello`s of rustls and of OpenSSL, and what is no hello.

use std::sync::Arc;

use bytes::Bytes;
use mitm_codec::{
    client_hello::{ClientHello, HelloError, MAX_HELLO_BYTES, MAX_RECORDS, Sniff, parse, sniff},
    fuzz::fuzz_client_hello,
};

/// `openssl s_client -servername example.com -alpn h2,http/1.1` of OpenSSL 3.0.
const OPENSSL: &str = "160301014a0100014603038ff28d9dea6f0198dddc7504902486abf900f7caef35866c1a1b4eec6f66\
019e20b13e06c0144e804cb509c2b93a4c6da2210d7ceee1ee50c2b762a988f9a8d894003e130213031301c02cc030009fcca9cca8\
ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d003c0035002f00ff010000bf000000\
10000e00000b6578616d706c652e636f6d000b000403000102000a00160014001d0017001e00190018010001010102010301040023\
00000010000e000c02683208687474702f312e310016000000170000000d002a0028040305030603080708080809080a080b080408\
050806040105010601030303010302040205020602002b0009080304030303020301002d00020101003300260024001d00205aaf5e\
3492dfc7aa0b4101734eac8ce007474d82912949fa87d52aa95b1fac21";

/// The same with `-noservername -tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256`.
const OPENSSL_TLS12: &str = "16030100830100007f030309ecfd3f36cc803053beb5882243b94ce0d7de4ea16de628bcfcfd7f\
912602f8000004c02f00ff01000052000b000403000102000a000c000a001d0017001e001900180023000000160000001700000\
00d002a0028040305030603080708080809080a080b080408050806040105010601030303010302040205020602";

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    hex.as_bytes().as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect()
}

fn of_rustls(name: &'static str, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = name.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A hello of the fewest bytes with these extensions.
fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (number, content) in extensions {
        block.extend_from_slice(&number.to_be_bytes());
        block.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        block.extend_from_slice(content);
    }
    let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    body.extend_from_slice(&u16::try_from(block.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&block);
    body
}

fn server_names(names: &[(u8, &[u8])]) -> ClientHello {
    let mut list = Vec::new();
    for (name_type, name) in names {
        list.push(*name_type);
        list.extend_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
        list.extend_from_slice(name);
    }
    let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    content.extend_from_slice(&list);
    ClientHello::from_body(with_extensions(&[(0, &content)]).into()).unwrap()
}

/// Spreads a handshake message over records of `size` bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in hello[5..].chunks(size) {
        out.extend_from_slice(&[22, 3, 1]);
        out.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

#[test]
fn a_hello_of_openssl() {
    let raw = unhex(OPENSSL);
    let hello = parse(&raw).unwrap().unwrap();
    assert_eq!(hello.raw, raw[9..]);
    assert_eq!(hello.version, 0x0303);
    assert_eq!(hello.session_id.len(), 32);
    assert_eq!(hello.cipher_suites.len(), 31);
    assert_eq!(hello.cipher_suites[..3], [0x1302, 0x1303, 0x1301]);
    assert_eq!(hello.compression_methods, [0][..]);
    assert_eq!(hello.sni.as_deref(), Some("example.com"));
    assert_eq!(hello.alpn, ["h2", "http/1.1"]);
    assert_eq!(hello.supported_versions, [0x0304, 0x0303, 0x0302, 0x0301]);
    assert_eq!(hello.supported_groups[..2], [0x001d, 0x0017]);
    assert_eq!(hello.signature_schemes[..2], [0x0403, 0x0503]);
    assert_eq!(hello.key_share_groups, [0x001d]);
    let numbers: Vec<_> = hello.extensions.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 11, 10, 35, 16, 22, 23, 13, 43, 45, 51]);
    assert!(hello.offers_version(0x0304) && !hello.offers_version(0x0300));
    let records = hello.to_records();
    assert_eq!((&records[..3], &records[3..]), (&[22, 3, 3][..], &raw[3..]));
}

#[test]
fn a_hello_without_a_name() {
    let hello = parse(&unhex(OPENSSL_TLS12)).unwrap().unwrap();
    assert_eq!((hello.sni.as_deref(), hello.raw_sni.as_deref()), (None, None));
    assert_eq!(hello.cipher_suites, [0xc02f, 0x00ff]);
    assert!(hello.alpn.is_empty() && hello.supported_versions.is_empty());
    assert!(hello.offers_version(0x0303) && !hello.offers_version(0x0304));
}

#[test]
fn a_hello_of_rustls_in_any_records() {
    let raw = of_rustls("a.example", &["x", "http/1.1"]);
    let whole = parse(&raw).unwrap().unwrap();
    assert_eq!(whole.sni.as_deref(), Some("a.example"));
    assert_eq!(whole.alpn, ["x", "http/1.1"]);
    assert!(whole.offers_version(0x0304) && whole.offers_version(0x0303));
    for size in [2, 3, 100, 1000, 5000] {
        let records = in_records(&raw, size);
        assert_eq!(parse(&records), Ok(Some(whole.clone())), "records of {size}");
        for len in 0..records.len() {
            let part = parse(&records[..len]).unwrap();
            assert!(part.is_none(), "complete after {len} of {}", records.len());
        }
    }
    let followed = [&raw[..], b"more"].concat();
    assert_eq!(parse(&followed), Ok(Some(whole)));
    let by_address = parse(&of_rustls("127.0.0.1", &[])).unwrap().unwrap();
    assert_eq!(by_address.sni, None);
}

#[test]
fn only_a_single_valid_name_counts() {
    let check = |names: &[(u8, &[u8])], sni: Option<&str>, raw: Option<&str>| {
        let hello = server_names(names);
        assert_eq!(hello.sni.as_deref(), sni);
        assert_eq!(hello.raw_sni, raw.map(|raw| Bytes::copy_from_slice(raw.as_bytes())));
    };
    check(&[(0, b"a.example")], Some("a.example"), Some("a.example"));
    check(&[(0, b"a.example:443")], None, Some("a.example:443"));
    check(&[(0, b"a b")], None, Some("a b"));
    check(&[(0, b"")], None, Some(""));
    check(&[(0, b"a"), (0, b"b")], None, Some("a"));
    check(&[(1, b"a")], None, None);
    check(&[(1, b"a"), (0, b"b")], None, Some("b"));
    check(&[], None, None);
}

#[test]
fn unreadable_extensions_count_as_empty() {
    let broken = with_extensions(&[
        (0, &[0, 9, 0, 0, 1]),
        (10, &[0, 3, 0, 1, 2]),
        (13, &[]),
        (16, &[0, 3, 9, b'h', b'2']),
        (43, &[9]),
        (51, &[0, 5, 0, 29, 0, 9, 1]),
        (0x0a0a, b"grease"),
    ]);
    let hello = ClientHello::from_body(broken.into()).unwrap();
    assert_eq!(hello.extension(0x0a0a).unwrap(), "grease");
    assert_eq!((hello.sni, hello.raw_sni), (None, None));
    assert!(hello.alpn.is_empty() && hello.supported_versions.is_empty());
    assert!(hello.supported_groups.is_empty() && hello.signature_schemes.is_empty());
    assert!(hello.key_share_groups.is_empty());
}

#[test]
fn a_hello_without_extensions_is_complete() {
    let mut body = with_extensions(&[]);
    body.truncate(body.len() - 2);
    let hello = ClientHello::from_body(body.clone().into()).unwrap();
    assert_eq!((hello.random, &hello.cipher_suites[..]), ([7; 32], &[0x1301][..]));
    for len in 0..body.len() {
        assert!(ClientHello::from_body(body[..len].to_vec().into()).is_err(), "{len}");
    }
    body.push(0);
    assert!(ClientHello::from_body(body.into()).is_err());
}

#[test]
fn what_is_no_hello_is_refused_at_once() {
    #[track_caller]
    fn check(buf: &[u8], error: HelloError) {
        assert_eq!(parse(buf), Err(error));
    }
    check(b"GET / HTTP/1.1", HelloError::NotHandshake { content_type: b'G', version: 0x4554 });
    check(&[21, 3, 1, 0, 2], HelloError::NotHandshake { content_type: 21, version: 0x0301 });
    check(&[22, 3, 1, 0, 0], HelloError::RecordLength { len: 0 });
    check(&[22, 3, 1, 0x40, 1], HelloError::RecordLength { len: 0x4001 });
    check(&[22, 3, 1, 0, 9, 2], HelloError::NotClientHello { message_type: 2 });
    check(&[22, 3, 1, 0, 9, 1, 1, 0, 1], HelloError::TooLong { len: MAX_HELLO_BYTES + 1 });
    check(&[22, 3, 1, 0, 4, 1, 0, 0, 0], HelloError::Malformed { part: "version" });
    let tiny = [[22, 3, 1, 0, 1, 1]; MAX_RECORDS + 1].concat();
    check(&tiny, HelloError::TooLong { len: 0x01_01_01 });
    let mut tiny = [[22, 3, 1, 0, 1, 0]; MAX_RECORDS + 1].concat();
    tiny[5] = 1;
    tiny[6 + 6 + 5] = 0xff;
    check(&tiny, HelloError::TooManyRecords { limit: MAX_RECORDS });
    let second = [&in_records(&unhex(OPENSSL), 100)[..105], &[23, 3, 3, 0, 1, 0]].concat();
    check(&second, HelloError::NotHandshake { content_type: 23, version: 0x0303 });
}

#[test]
fn the_first_three_bytes_decide() {
    assert_eq!(sniff(&unhex(OPENSSL)), Sniff::Tls);
    for more in [&[][..], &[22], &[22, 3]] {
        assert_eq!(sniff(more), Sniff::NeedMore);
    }
    for not in [&[21][..], &[22, 2], &[22, 3, 4], b"GET"] {
        assert_eq!(sniff(not), Sniff::NotTls);
    }
}

#[test]
fn real_hellos_obey_the_laws_when_damaged() {
    for hello in [unhex(OPENSSL), unhex(OPENSSL_TLS12), of_rustls("a.example", &["h2"])] {
        fuzz_client_hello(&hello);
        for at in 0..hello.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = hello.clone();
                damaged[at] = value;
                let _ = parse(&damaged);
            }
        }
    }
}
