//! Input that is not as it should be: an error that says where, after all that was good.

use mitm_flow::{Facts as _, test_util};
use mitm_flowfile::{FlowReader, FlowWriter, ReadErrorKind, WriteError};

use crate::support;

/// Reads until the end, returns the number of flows and the errors.
fn read(file: &[u8]) -> (usize, Vec<mitm_flowfile::ReadError>) {
    let mut errors = Vec::new();
    let flows = FlowReader::new(file)
        .filter_map(|record| {
            record
                .and_then(|record| record.check().map(|()| record))
                .map_err(|e| errors.push(e))
                .ok()
        })
        .count();
    (flows, errors)
}

#[test]
fn a_truncated_file_gives_its_whole_flows_and_the_place() {
    let flows = support::flows();
    let file = support::written(&flows);
    let ends: Vec<u64> =
        support::records(&file).iter().map(mitm_flowfile::RawRecord::offset).collect();
    for cut in (0..file.len()).step_by(7) {
        let (whole, errors) = read(&file[..cut]);
        let expected = ends.iter().skip(1).filter(|&&end| end <= cut as u64).count();
        assert_eq!(whole, expected, "cut at {cut}");
        match errors.as_slice() {
            [] => assert!(cut == 0 || ends.contains(&(cut as u64))),
            [error] => {
                assert_eq!(error.offset, ends[expected]);
                assert!(!error.is_recoverable());
                let message = format!("(record at byte {})", ends[expected]);
                assert!(error.to_string().ends_with(&message), "{error}");
            }
            more => panic!("{more:?}"),
        }
    }
}

#[test]
fn a_garbage_tail_is_reported_once() {
    let mut file = support::written(&[test_util::http_flow()]);
    let end = file.len() as u64;
    file.extend_from_slice(b"garbage");
    let (flows, errors) = read(&file);
    assert_eq!((flows, errors.len(), errors[0].offset), (1, 1, end));
}

#[test]
fn empty_files_and_byte_order_marks_are_fine() {
    assert_eq!(read(b"").0, 0);
    assert_eq!(read(b"\xef\xbb\xbf").1.len(), 0);
    let mut file = b"\xef\xbb\xbf".to_vec();
    file.extend(support::written(&[test_util::http_flow()]));
    assert_eq!(read(&file).0, 1);
}

#[test]
fn foreign_files_are_named() {
    for (file, expected) in [
        (&b"{\"log\": {}}"[..], "HAR files cannot be imported yet"),
        (b"\xef\xbb\xbf{\"log\": {}}", "HAR files cannot be imported yet"),
        (b"\x7fELF", "this is not a flow file"),
        (b"GET / HTTP/1.1\r\n", "this is not a flow file"),
        (b"12345", "ends in the middle"),
        (b"17:7:version;2:21#}", "ends in the middle"),
        (b"5:hello,", "expected a dict"),
    ] {
        check_foreign(file, expected);
    }
    for (inside, expected) in [
        ("", "without a version"),
        ("7:version;2:99#", "version 99; a newer release may"),
        ("7:version;1:3#", "version 3 "),
        ("7:version,9:1:0#2:10#]", "version (0, 10)"),
        ("7:version;2:21#4:type;2:ab;", "unknown flow type: ab"),
        ("7:version;1:7#4:type;2:ab;8:metadata;0:}", "unknown flow type: ab"),
        ("7:version;2:21#", "\"type\" is missing"),
        ("7:version;0:~", "version: expected an integer"),
    ] {
        check_foreign(format!("{}:{inside}}}", inside.len()).as_bytes(), expected);
    }
}

fn check_foreign(file: &[u8], expected: &str) {
    let (flows, errors) = read(file);
    assert_eq!((flows, errors.len()), (0, 1), "{}", file.escape_ascii());
    let error = errors[0].to_string();
    assert!(error.contains(expected), "{} gives {error}", file.escape_ascii());
}

#[test]
fn a_wrong_value_is_named_and_the_next_flow_is_read() {
    let flow = test_util::http_flow_with_response();
    let good = support::written(&[flow]);
    let text = String::from_utf8(good.clone()).unwrap();
    for (from, to, expected) in [
        ("4:port;2:22#", "4:port;2:2x#", "request.port: invalid integer"),
        ("4:port;2:22#", "4:port;2:22,", "request.port: expected an integer"),
        ("3:GET,", "3:GET;", "request.method: expected bytes"),
        ("6:header,", "6:header;", "request.headers: expected a name and a value"),
        ("6:method;", "6:metHod;", "request: unknown key \"metHod\""),
        ("6:method;", "6:scheme;", "request: the key \"method\" is missing"),
        ("18:transport_protocol;3:tcp;", "18:transport_protocol;3:tcq;", "\"tcq\" is not one of"),
        ("11:tls_version;7:TLSv1.2;", "11:tls_version;7:TLSv1.9;", "client_conn.tls_version"),
        ("3:tls;5:false!", "3:tls;5:falsy!", "client_conn.tls: invalid boolean"),
        ("8:metadata;0:}", "8:metadata;0:]", "metadata: expected a dict"),
        ("2:id;", "2:ix;", "unknown key \"ix\""),
        ("11:status_code;3:200#", "11:status_code;3:-20#", "response.status_code: -20 is not"),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        // The last occurrence, which for connections is that of the client.
        let (before, after) = text.rsplit_once(from).unwrap();
        let bad = format!("{before}{to}{after}");
        let file = [bad.as_bytes(), &good].concat();
        let (flows, errors) = read(&file);
        assert_eq!((flows, errors.len()), (1, 1), "{from} {to}");
        let error = &errors[0];
        assert!(error.is_recoverable());
        assert!(error.to_string().contains(expected), "{from} {to} gives {error}");
    }
}

#[test]
fn unusual_notations_are_understood() {
    let flow = test_util::http_flow_with_response();
    let text = String::from_utf8(support::written(&[flow])).unwrap();
    let check = |from: &str, to: &str, law: &dyn Fn(mitm_flow::FlowSnapshot)| {
        assert!(text.contains(from) && from.len() == to.len(), "{from} {to}");
        let file = text.replacen(from, to, 1);
        law(support::records(file.as_bytes())[0].snapshot().unwrap());
    };
    let request = |snapshot: mitm_flow::FlowSnapshot| match snapshot.data {
        mitm_flow::SnapshotData::Http { request, .. } => request,
        _ => unreachable!(),
    };
    // mitmproxy writes these as they come: integers, and hosts in bytes.
    check("11:946681200.0^", "11:00946681200#", &|snapshot| {
        assert!((request(snapshot).timestamp_start - 946_681_200.0).abs() < 1e-6);
    });
    check("4:host;7:address;", "4:host;7:address,", &|snapshot| {
        assert_eq!(&*request(snapshot).host, "address");
    });
}

#[test]
fn a_source_that_fails_is_an_error_with_its_place() {
    struct Failing(Vec<u8>, usize);
    impl std::io::Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let left = &self.0[self.1..];
            if left.is_empty() {
                return Err(std::io::Error::other("unplugged"));
            }
            let count = left.len().min(buf.len()).min(100);
            buf[..count].copy_from_slice(&left[..count]);
            self.1 += count;
            Ok(count)
        }
    }
    let file = support::written(&[test_util::http_flow()]);
    let end = file.len() as u64;
    let mut reader = FlowReader::new(Failing(file, 0));
    assert_eq!(reader.next_record().unwrap().unwrap().method().unwrap(), &b"GET"[..]);
    let error = reader.next_record().unwrap_err();
    assert_eq!(error.offset, end);
    assert!(matches!(error.kind, ReadErrorKind::Io(_)));
    assert!(reader.next_record().unwrap().is_none());
}

#[test]
fn a_failing_output_leaves_a_count_of_whole_records() {
    /// Takes so many bytes.
    struct Full(Vec<u8>, usize);
    impl std::io::Write for Full {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            let room = self.1 - self.0.len();
            if room == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            let count = buf.len().min(room);
            self.0.extend_from_slice(&buf[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let flow = test_util::http_flow();
    let one = support::written(std::slice::from_ref(&flow)).len();
    for room in [0, 1, one - 1, one, one + 1, 3 * one - 1] {
        let mut writer = FlowWriter::new(Full(Vec::new(), room));
        for _ in 0..3 {
            writer.write(&flow).unwrap();
        }
        assert!(matches!(writer.flush(), Err(WriteError::Output(_))));
        assert!(writer.write(&flow).is_err(), "until it was reset");
        let whole = usize::try_from(writer.committed()).unwrap();
        assert_eq!(whole, room / one * one);
        // The owner cuts what is too much, makes room, and goes on.
        writer.get_mut().0.truncate(whole);
        writer.get_mut().1 = 10 * one;
        writer.reset();
        writer.write(&flow).unwrap();
        writer.flush().unwrap();
        assert_eq!(support::records(&writer.get_ref().0).len(), room / one + 1);
    }
}

#[test]
fn a_body_that_cannot_be_read_does_not_break_the_file() {
    struct Gone;
    impl mitm_flow::Extent for Gone {
        fn len(&self) -> u64 {
            100_000
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }
    let flow = test_util::http_flow();
    let body = mitm_flow::Body::stored(std::sync::Arc::new(Gone));
    flow.request().unwrap().update(|request| request.body = body);
    let mut writer = FlowWriter::new(Vec::new());
    assert!(matches!(writer.write(&flow), Err(WriteError::Body(_))));
    writer.write(&test_util::http_flow()).unwrap();
    assert_eq!(read(&writer.into_inner().unwrap()).0, 2);
}
