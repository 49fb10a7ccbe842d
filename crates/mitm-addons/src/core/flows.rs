//! The commands that change flows. Each takes a backup first, so that `flow.revert` undoes it.

use bytes::Bytes;
use mitm_addon::{Loader, Master, WeakMaster};
use mitm_flow::{
    FlowRef, Request, Response, Shared, coding::MAX_DECODED, message::Message, status,
};
use mitm_options::{ArgType, CommandDecl, CommandError};

/// The codings that `flow.encode` offers.
const CODINGS: &[&str] = &["gzip", "deflate", "br", "zstd"];

/// What `flow.set` can set.
const ATTRIBUTES: &[&str] = &["host", "status_code", "method", "path", "url", "reason"];

type Result<T> = std::result::Result<T, CommandError>;

pub(super) fn register(loader: &Loader<'_>) {
    life(loader.master);
    notes(loader.master);
    attributes(loader.master);
    codings(loader.master);
}

/// Tells the others about changed flows, and the user how many there are.
fn changed(master: &WeakMaster, flows: &[FlowRef], alert: Option<&str>) {
    if let Some(master) = master.upgrade() {
        if !flows.is_empty() {
            master.update(flows);
        }
        if let Some(alert) = alert {
            master.alert(&format!("{alert} {} flows.", flows.len()));
        }
    }
}

fn life(master: &Master) {
    let commands = master.commands();

    let decl = CommandDecl::new("flow.resume", "Let intercepted flows go on.")
        .arg("flows", ArgType::Flows);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let flows: Vec<_> = args.flows()?.into_iter().filter(FlowRef::is_intercepted).collect();
        flows.iter().for_each(FlowRef::resume);
        changed(&weak, &flows, None);
        Ok(())
    });

    let decl =
        CommandDecl::new("flow.kill", "Kill flows that are running.").arg("flows", ArgType::Flows);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let flows: Vec<_> = args.flows()?.into_iter().filter(|flow| flow.kill().is_ok()).collect();
        changed(&weak, &flows, Some("Killed"));
        Ok(())
    });

    let decl =
        CommandDecl::new("flow.revert", "Undo the changes of flows.").arg("flows", ArgType::Flows);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let flows: Vec<_> = args.flows()?.into_iter().filter(FlowRef::has_backup).collect();
        flows.iter().for_each(FlowRef::revert);
        changed(&weak, &flows, Some("Reverted"));
        Ok(())
    });
}

fn notes(master: &Master) {
    let commands = master.commands();

    let decl = CommandDecl::new("flow.mark", "Mark flows, or unmark them with false.")
        .arg("flows", ArgType::Flows)
        .arg("marker", ArgType::Marker);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let (flows, marker) = (args.flows()?, args.str()?);
        // Callers with ready values are not bound to what the type reads.
        let valid = mitm_options::command::marker::parse(&marker)
            .ok_or_else(|| CommandError::new(format!("Invalid marker: {marker}")))?;
        for flow in &flows {
            flow.set_marked(valid.as_str());
        }
        changed(&weak, &flows, None);
        Ok(())
    });

    let decl =
        CommandDecl::new("flow.mark.toggle", "Mark flows that are not marked, unmark others.")
            .arg("flows", ArgType::Flows);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let flows = args.flows()?;
        for flow in &flows {
            let is_marked = !flow.marked().is_empty();
            flow.set_marked(if is_marked { "" } else { mitm_options::command::marker::DEFAULT });
        }
        changed(&weak, &flows, None);
        Ok(())
    });

    let decl = CommandDecl::new("flow.comment", "Add a comment to flows.")
        .arg("flows", ArgType::Flows)
        .arg("comment", ArgType::Str);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let (flows, comment) = (args.flows()?, args.str()?);
        for flow in &flows {
            flow.set_comment(comment.as_str());
        }
        changed(&weak, &flows, None);
        Ok(())
    });
}

fn attributes(master: &Master) {
    let commands = master.commands();

    let decl = CommandDecl::new("flow.set.options", "Return what flow.set can set.")
        .returns(ArgType::StrSeq);
    commands.add(decl, |_| Ok(strings(ATTRIBUTES)));

    let decl = CommandDecl::new(
        "flow.set",
        "Set a common attribute of flows. With a status code comes its usual reason.",
    )
    .arg("flows", ArgType::Flows)
    .arg("attr", ArgType::Choice("flow.set.options".into()))
    .arg("value", ArgType::Str);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let (flows, attr, value) = (args.flows()?, args.str()?, args.str()?);
        let change = Change::parse(&attr, &value)?;
        let flows: Vec<_> = flows.into_iter().filter(|flow| change.apply(flow)).collect();
        changed(&weak, &flows, Some(&format!("Set {attr} on")));
        Ok(())
    });
}

/// A change of one attribute.
enum Change {
    Host(String),
    Method(Bytes),
    Path(Bytes),
    Url(String),
    StatusCode(u16),
    Reason(Bytes),
}

impl Change {
    fn parse(attr: &str, value: &str) -> Result<Self> {
        let bytes = || Bytes::copy_from_slice(value.as_bytes());
        Ok(match attr {
            "host" => Self::Host(value.to_owned()),
            "method" => Self::Method(bytes()),
            "path" => Self::Path(bytes()),
            "url" => match mitm_flow::url::parse(value) {
                Ok(_) => Self::Url(value.to_owned()),
                Err(error) => {
                    return Err(CommandError::new(format!("URL '{value}' is invalid: {error}")));
                }
            },
            "status_code" => {
                let invalid =
                    || CommandError::new(format!("Status code is not an integer: {value}"));
                Self::StatusCode(value.trim().parse().map_err(|_| invalid())?)
            }
            "reason" => Self::Reason(bytes()),
            _ => {
                return Err(CommandError::new(format!(
                    "Invalid attribute '{attr}': valid are {}",
                    ATTRIBUTES.join(", ")
                )));
            }
        })
    }

    /// Changes a flow; false if it has no message with the attribute.
    fn apply(&self, flow: &FlowRef) -> bool {
        let is_of_request = !matches!(self, Self::StatusCode(_) | Self::Reason(_));
        let request = flow.request().filter(|_| is_of_request);
        let response = flow.response().filter(|_| !is_of_request);
        if request.is_none() && response.is_none() {
            return false;
        }
        flow.backup();
        if let Some(request) = request {
            request.update(|request| self.change_request(request));
        }
        if let Some(response) = response {
            response.update(|response| self.change_response(response));
        }
        true
    }

    fn change_request(&self, request: &mut Request) {
        match self {
            Self::Host(host) => request.set_host(host),
            Self::Method(method) => request.method = method.clone(),
            Self::Path(path) => request.path = path.clone(),
            Self::Url(url) => {
                // It was parsed before.
                let _ = request.set_url(url);
            }
            Self::StatusCode(_) | Self::Reason(_) => {}
        }
    }

    fn change_response(&self, response: &mut Response) {
        match self {
            Self::StatusCode(code) => {
                response.status_code = *code;
                if let Some(reason) = status::reason(*code) {
                    response.reason = reason.into();
                }
            }
            Self::Reason(reason) => response.reason = reason.clone(),
            Self::Host(_) | Self::Method(_) | Self::Path(_) | Self::Url(_) => {}
        }
    }
}

fn codings(master: &Master) {
    let commands = master.commands();

    let decl = CommandDecl::new("flow.encode.options", "Return the codings of flow.encode.")
        .returns(ArgType::StrSeq);
    commands.add(decl, |_| Ok(strings(CODINGS)));

    let decl = CommandDecl::new("flow.decode", "Remove the content coding of a body.")
        .arg("flows", ArgType::Flows)
        .arg("part", ArgType::Str);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let (flows, part) = (args.flows()?, Part::parse(&args.str()?)?);
        let flows = recode(flows, part, |_| Some(Recoding::Decode))?;
        changed(&weak, &flows, Some("Decoded"));
        Ok(())
    });

    let decl = CommandDecl::new("flow.encode", "Apply a content coding to a body that has none.")
        .arg("flows", ArgType::Flows)
        .arg("part", ArgType::Str)
        .arg("encoding", ArgType::Choice("flow.encode.options".into()));
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let (flows, part, coding) = (args.flows()?, Part::parse(&args.str()?)?, args.str()?);
        let flows = recode(flows, part, |is_plain| is_plain.then_some(Recoding::Encode(&coding)))?;
        changed(&weak, &flows, Some("Encoded"));
        Ok(())
    });

    let decl = CommandDecl::new(
        "flow.encode.toggle",
        "Remove the content coding of a body, or apply deflate if it has none.",
    )
    .arg("flows", ArgType::Flows)
    .arg("part", ArgType::Str);
    let weak = master.downgrade();
    commands.add(decl, move |mut args| {
        let (flows, part) = (args.flows()?, Part::parse(&args.str()?)?);
        let toggled =
            |is_plain| Some(if is_plain { Recoding::Encode("deflate") } else { Recoding::Decode });
        let flows = recode(flows, part, toggled)?;
        changed(&weak, &flows, Some("Toggled encoding on"));
        Ok(())
    });
}

#[derive(Clone, Copy)]
enum Part {
    Request,
    Response,
}

impl Part {
    fn parse(text: &str) -> Result<Self> {
        match text {
            "request" => Ok(Self::Request),
            "response" => Ok(Self::Response),
            _ => Err(CommandError::new(format!(
                "Invalid part '{text}': valid are request, response"
            ))),
        }
    }
}

enum Recoding<'a> {
    Decode,
    Encode(&'a str),
}

/// Recodes one message of each flow as `choose` says, which is told whether the body has no coding. Returns the flows
/// that have changed.
fn recode<'a>(
    flows: Vec<FlowRef>,
    part: Part,
    choose: impl Fn(bool) -> Option<Recoding<'a>>,
) -> Result<Vec<FlowRef>> {
    let mut done = Vec::new();
    for flow in flows {
        let is_changed = match part {
            Part::Request => recode_message(&flow, flow.request(), &choose)?,
            Part::Response => recode_message(&flow, flow.response(), &choose)?,
        };
        if is_changed {
            done.push(flow);
        }
    }
    Ok(done)
}

fn recode_message<'a, M: Message + Clone>(
    flow: &FlowRef,
    cell: Option<Shared<M>>,
    choose: &impl Fn(bool) -> Option<Recoding<'a>>,
) -> Result<bool> {
    let Some(cell) = cell else { return Ok(false) };
    let mut message = cell.get();
    let coding = message.headers().get_folded("content-encoding");
    let is_plain = coding.is_none_or(|coding| coding.eq_ignore_ascii_case(b"identity"));
    let Some(recoding) = choose(is_plain) else { return Ok(false) };
    flow.backup();
    let result = match recoding {
        Recoding::Decode => message.decode(MAX_DECODED),
        Recoding::Encode(coding) => message.encode(coding),
    };
    result.map_err(|error| CommandError::new(error.to_string()))?;
    // Only what has changed: the rest may have gone on meanwhile. What was replaced is dropped after the lock.
    cell.update(|cell| {
        std::mem::swap(cell.headers_mut(), message.headers_mut());
        std::mem::swap(cell.body_mut(), message.body_mut());
    });
    Ok(true)
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::{Addon, testing};
    use mitm_flow::test_util;
    use mitm_options::{ArgValue, RetValue};
    use parking_lot::Mutex;

    use super::*;
    use crate::core::Core;

    /// Counts what it is told of.
    #[derive(Default)]
    struct Updates(Mutex<usize>);

    impl Addon for Updates {
        fn name(&self) -> &'static str {
            "updates"
        }
        fn wants_updates(&self) -> bool {
            true
        }
        fn update(&self, flows: &[FlowRef]) {
            *self.0.lock() += flows.len();
        }
    }

    struct Fixture {
        master: Master,
        updates: Arc<Updates>,
        flow: FlowRef,
    }

    impl Fixture {
        fn new() -> Self {
            let master = testing::master_with(Arc::new(Core)).unwrap();
            let updates = Arc::new(Updates::default());
            master.add(updates.clone()).unwrap();
            Self { master, updates, flow: test_util::http_flow_with_response() }
        }

        /// Runs a command on the flow; returns of how many flows the others were told.
        fn run(&self, name: &str, args: &[&str]) -> Result<usize> {
            let mut values = vec![ArgValue::Flows(vec![self.flow.clone()])];
            values.extend(args.iter().map(|&arg| ArgValue::from(arg)));
            self.master.commands().call(name, values)?;
            Ok(std::mem::take(&mut *self.updates.0.lock()))
        }
    }

    #[test]
    fn flows_are_resumed_and_killed() {
        let fixture = Fixture::new();
        assert_eq!(fixture.run("flow.resume", &[]), Ok(0));
        fixture.flow.intercept();
        assert_eq!(fixture.run("flow.resume", &[]), Ok(1));
        assert!(!fixture.flow.is_intercepted());
        assert_eq!(fixture.run("flow.kill", &[]), Ok(1));
        assert!(fixture.flow.is_killed());
        assert_eq!(fixture.run("flow.kill", &[]), Ok(0));
    }

    #[test]
    fn flows_are_marked_and_commented() {
        let fixture = Fixture::new();
        let marked = || fixture.flow.marked();
        assert_eq!(fixture.run("flow.mark", &["true"]), Ok(1));
        assert_eq!(&*marked(), ":default:");
        fixture.run("flow.mark.toggle", &[]).unwrap();
        assert_eq!(&*marked(), "");
        fixture.run("flow.mark.toggle", &[]).unwrap();
        assert_eq!(&*marked(), ":default:");
        fixture.run("flow.mark", &[":grapes:"]).unwrap();
        assert_eq!(&*marked(), ":grapes:");
        assert!(fixture.run("flow.mark", &["no such marker"]).is_err());
        assert_eq!(fixture.run("flow.comment", &["a note"]), Ok(1));
        assert_eq!(&*fixture.flow.comment(), "a note");
    }

    #[test]
    fn attributes_are_set_and_reverted() {
        let fixture = Fixture::new();
        let request = fixture.flow.request().unwrap();
        let response = fixture.flow.response().unwrap();
        assert_eq!(fixture.run("flow.revert", &[]), Ok(0));
        assert_eq!(fixture.run("flow.set", &["method", "PUT"]), Ok(1));
        fixture.run("flow.set", &["url", "https://example.com/x?y"]).unwrap();
        let line = request.with(|r| (r.method.clone(), r.host.clone(), r.port, r.path.clone()));
        assert_eq!(line, ("PUT".into(), "example.com".into(), 443, "/x?y".into()));
        fixture.run("flow.set", &["path", "/z"]).unwrap();
        fixture.run("flow.set", &["host", "example.org"]).unwrap();
        assert_eq!(request.get().url(), "https://example.org/z");
        fixture.run("flow.set", &["status_code", "404"]).unwrap();
        assert_eq!(response.with(|r| (r.status_code, r.reason.clone())), (404, "Not Found".into()));
        fixture.run("flow.set", &["reason", "Gone away"]).unwrap();
        assert_eq!(response.with(|r| r.reason.clone()), "Gone away");
        let error = |args: &[&str]| fixture.run("flow.set", args).unwrap_err().to_string();
        assert_eq!(error(&["status_code", "a"]), "Status code is not an integer: a");
        assert!(error(&["url", "nowhere"]).starts_with("URL 'nowhere' is invalid: "));
        assert!(error(&["size", "1"]).contains("status_code"));
        assert_eq!(fixture.run("flow.revert", &[]), Ok(1));
        assert_eq!(request.get().url(), "http://address:22/path");
        assert_eq!(response.with(|r| r.status_code), 200);

        let no_response = Fixture { flow: test_util::http_flow(), ..Fixture::new() };
        assert_eq!(no_response.run("flow.set", &["reason", "x"]), Ok(0));
        let tcp = Fixture { flow: test_util::tcp_flow(), ..Fixture::new() };
        assert_eq!(tcp.run("flow.set", &["host", "x"]), Ok(0));
    }

    #[test]
    fn bodies_are_encoded_and_decoded() {
        let fixture = Fixture::new();
        let coding = || {
            let response = fixture.flow.response().unwrap();
            let coding = response.with(|r| r.headers.get("content-encoding").cloned());
            String::from_utf8(coding.unwrap_or_default().to_vec()).unwrap()
        };
        let content = || fixture.flow.response().unwrap().get().content(MAX_DECODED).unwrap();
        assert_eq!(fixture.run("flow.encode", &["response", "gzip"]), Ok(1));
        assert_eq!((coding().as_str(), content().unwrap()), ("gzip", "message".into()));
        assert_eq!(fixture.run("flow.encode", &["response", "br"]), Ok(0));
        assert_eq!(fixture.run("flow.decode", &["response"]), Ok(1));
        assert_eq!((coding().as_str(), content().unwrap()), ("", "message".into()));
        fixture.run("flow.encode.toggle", &["response"]).unwrap();
        assert_eq!(coding(), "deflate");
        fixture.run("flow.encode.toggle", &["response"]).unwrap();
        assert_eq!(coding(), "");
        let response = fixture.flow.response().unwrap();
        response.update(|r| r.headers.set("content-encoding", "gzip"));
        assert!(fixture.run("flow.decode", &["response"]).is_err());
        assert!(fixture.run("flow.decode", &["body"]).is_err());
        let options = fixture.master.commands().execute("flow.encode.options").unwrap();
        assert!(matches!(options, RetValue::Strs(list) if list == CODINGS));
    }

    #[test]
    fn words_need_a_store_of_flows() {
        let error = Fixture::new().master.commands().execute("flow.kill @all").unwrap_err();
        assert_eq!(error.to_string(), "Unknown command: view.flows.resolve");
    }
}
