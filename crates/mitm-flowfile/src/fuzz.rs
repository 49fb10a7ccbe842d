//! The bodies of the fuzz targets: laws that hold for any input.

use bytes::Bytes;
use mitm_flow::Facts;

use crate::{FlowReader, FlowWriter, tnetstring};

/// What can be decoded is the same after being encoded and decoded again.
pub fn fuzz_tnetstring(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let Ok(value) = tnetstring::decode(&data) else { return };
    let encoded = tnetstring::encode(&value).expect("what was decoded is not too deep");
    let again = tnetstring::decode(&encoded.into()).expect("what was encoded can be decoded");
    // Not a number is not equal to itself, its text is.
    assert_eq!(format!("{again:?}"), format!("{value:?}"));
}

/// Any input gives flows and at last perhaps an error; what was read can be asked, decoded, written and read again.
pub fn fuzz_flowfile(data: &[u8]) {
    let mut writer = FlowWriter::new(Vec::new());
    let mut written = 0;
    for record in FlowReader::new(data) {
        let Ok(record) = record else { continue };
        let facts = (record.method(), record.pretty_url(), record.request_headers());
        let more = (record.messages(), record.metadata(), record.dns_response());
        drop((facts, more, record.client_address(), record.server_address()));
        let checked = record.check().is_ok();
        assert_eq!(checked, record.snapshot().is_ok(), "a record that passes can be decoded");
        if !checked {
            continue;
        }
        let flow = record.clone().into_flow().expect("the record was checked");
        writer.write(&flow).expect("a vector takes everything");
        writer.write_snapshot(&flow.snapshot()).expect("what was read can be written");
        writer.write_record(&record).expect("the record was checked");
        written += 3;
    }
    let file = writer.into_inner().expect("a vector takes everything");
    let again = FlowReader::new(file.as_slice()).filter_map(Result::ok);
    let count = again.filter(|record| record.snapshot().is_ok()).count();
    assert_eq!(count, written, "what was written can be read");
}
