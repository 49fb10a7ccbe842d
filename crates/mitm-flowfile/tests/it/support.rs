//! What several tests need.

use mitm_flow::{FlowRef, FlowSnapshot, test_util};
use mitm_flowfile::{FlowReader, FlowWriter, RawRecord, state};

/// Writes flows to memory.
pub(crate) fn written(flows: &[FlowRef]) -> Vec<u8> {
    let mut writer = FlowWriter::new(Vec::new());
    for flow in flows {
        writer.write(flow).unwrap();
    }
    writer.into_inner().unwrap()
}

/// Reads all records.
pub(crate) fn records(file: &[u8]) -> Vec<RawRecord> {
    FlowReader::new(file).collect::<Result<_, _>>().unwrap()
}

/// The state of a flow as comparable text.
pub(crate) fn shown(snapshot: &FlowSnapshot) -> String {
    format!("{:?}", state::to_value(snapshot).unwrap())
}

/// One flow of each kind, with every sort of value.
pub(crate) fn flows() -> Vec<FlowRef> {
    use mitm_flow::Value;
    let flows = test_util::flows();
    let flow = &flows[0];
    flow.set_marked(":grapes:");
    flow.set_comment("a comment, é");
    let nested = Value::List(vec![
        Value::Int(1),
        Value::Float(2.5),
        Value::Null,
        Value::Bool(true),
        Value::Bytes("bytes".into()),
        Value::Str("é".into()),
    ]);
    flow.set_metadata(vec![("key".into(), Value::Map(vec![("inner".into(), nested)]))]);
    flow.backup();
    flow.request().unwrap().update(|request| request.path = "/changed".into());
    flows
}
