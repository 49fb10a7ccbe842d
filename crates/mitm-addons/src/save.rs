//! [`Save`]: writes flows to a file as they end, and on command.
//!
//! A flow is saved as it is when the hook runs that ends it: the hook takes a snapshot and hands it to one thread
//! over a bounded queue. While that is full, hooks wait, so a slow disk slows down the
//! traffic instead of filling memory. Flows read from a file that nobody touched are written as
//! they were read.
//!
//! If the disk is full, the file is cut behind its last whole flow, the error is logged once, and the proxying goes on; the
//! exit code of the run is 1 then.

mod queue;
mod target;
mod writer;

use std::{
    collections::{BTreeSet, HashMap},
    fs::OpenOptions,
    io,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use mitm_addon::{Addon, HookResult, Loader, Outcome, WeakMaster};
use mitm_filter::{Filter, Horizon, Tri};
use mitm_flow::{Facts, FlowRef, Response, Shared};
use mitm_flowfile::{FlowWriter, WriteError};
use mitm_options::{ArgType, CommandDecl, CommandError, Opt, Options, OptionsError, expand_user};
use mitm_proxy::{
    Hook, HookSet,
    hooks::{Direction, Need},
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::{
    queue::{Item, Job, Queue},
    target::Target,
};
use crate::{filters, platform, readfile::RFILE};

static SAVE_STREAM_FILE: Opt<Option<String>> = Opt::<Option<String>>::new(
    "save_stream_file",
    None,
    "Write flows to this file as they end. With + in front, append to it. The name may have the codes of \
     strftime, such as %Y-%m-%d, for the local time: whenever the name changes, a new file is begun. \
     Missing directories are created.",
);
static SAVE_STREAM_FILTER: Opt<Option<String>> = Opt::<Option<String>>::new(
    "save_stream_filter",
    None,
    "Write only flows that match this filter to save_stream_file.",
);

/// Saves flows. Clones are handles on the same addon.
#[derive(Clone, Default)]
pub struct Save(Arc<Inner>);

#[derive(Default)]
struct Inner {
    active: ArcSwapOption<Active>,
    /// Live flows that have begun and not ended, by address.
    open: Mutex<HashMap<usize, FlowRef>>,
    queue: Arc<Queue>,
    /// Tells when the writer has ended; `None` if it was never started.
    writer: Mutex<Option<oneshot::Receiver<()>>>,
    master: OnceLock<WeakMaster>,
}

/// Asks for facts about a flow; one from a file stays untouched.
fn has(flow: &FlowRef, ask: impl FnOnce(&dyn Facts) -> bool) -> bool {
    ask(flow.untouched_facts().unwrap_or(flow))
}

/// True if a live flow has all of its response, or an error.
fn has_ended(flow: &FlowRef) -> bool {
    let is_answered =
        |response: &Shared<Response>| response.with(|response| response.timestamp_end.is_some());
    flow.response().as_ref().is_some_and(is_answered) || flow.error().is_some()
}

/// Where to save and what.
struct Active {
    target: Arc<Target>,
    filter: Option<Arc<Filter>>,
}

/// The writer ends with the addon, also if it was never told that the run is over.
impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

const HOOKS: HookSet = HookSet::of(&[
    Hook::Request,
    Hook::Response,
    Hook::Error,
    Hook::WebsocketEnd,
    Hook::TcpStart,
    Hook::TcpEnd,
    Hook::TcpError,
    Hook::UdpStart,
    Hook::UdpEnd,
    Hook::UdpError,
    Hook::DnsRequest,
    Hook::DnsResponse,
    Hook::DnsError,
]);

impl Inner {
    /// A flow began. Those of the proxy will end by a hook, or at the end of the run.
    fn begin(&self, flow: &FlowRef) -> Outcome {
        if flow.is_live() {
            // A server may answer before it has the whole request: then the end came first.
            if !has_ended(flow) {
                self.open.lock().insert(flow.address(), flow.clone());
            }
            return Outcome::Done;
        }
        // Of a flow from a file there is nothing else to come.
        let is_whole = has(flow, |facts| facts.has_response() || facts.has_error());
        if is_whole { Outcome::Done } else { self.save(flow) }
    }

    fn begin_stream(&self, flow: &FlowRef) -> Outcome {
        if flow.is_live() {
            self.open.lock().insert(flow.address(), flow.clone());
        }
        Outcome::Done
    }

    fn end(&self, flow: &FlowRef) -> Outcome {
        let forgotten = self.open.lock().remove(&flow.address());
        drop(forgotten);
        self.save(flow)
    }

    /// A response came. WebSocket connections end later; so do flows from a file that have a response and an error.
    fn end_by_response(&self, flow: &FlowRef) -> Outcome {
        let goes_on = has(flow, |facts| facts.is_websocket())
            || !flow.is_live() && !flow.is_killed() && has(flow, |facts| facts.has_error());
        if goes_on { Outcome::Done } else { self.end(flow) }
    }

    fn end_by_error(&self, flow: &FlowRef) -> Outcome {
        if has(flow, |facts| facts.is_websocket()) { Outcome::Done } else { self.end(flow) }
    }

    fn save(&self, flow: &FlowRef) -> Outcome {
        let active = self.active.load();
        let Some(active) = &*active else { return Outcome::Done };
        if active.filter.as_ref().is_some_and(|filter| !filters::matches(filter, flow)) {
            return Outcome::Done;
        }
        let item = match flow.untouched_bytes() {
            Some(record) => Item::Record(record),
            None => Item::Snapshot(Box::new(flow.snapshot())),
        };
        let job = Job::Write { target: active.target.clone(), item, is_live: flow.is_live() };
        if self.queue.push(job) {
            return Outcome::Done;
        }
        let queue = self.queue.clone();
        Outcome::wait(async move {
            queue.room().await;
            Ok(())
        })
    }

    /// Saves what has not ended.
    fn save_open(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        let mut open: Vec<FlowRef> = open.into_values().collect();
        open.sort_by(|a, b| a.timestamp_created().total_cmp(&b.timestamp_created()));
        for flow in open {
            // The queue takes more than its limit, and nobody is left who could wait.
            drop(self.save(&flow));
        }
    }

    fn start_writer(&self) {
        let mut writer = self.writer.lock();
        if writer.is_none() {
            let master = self.master.get().cloned().unwrap_or_default();
            *writer = Some(writer::start(self.queue.clone(), master));
        }
    }

    fn configure(&self, options: &Options) -> Result<(), OptionsError> {
        let filter = filters::from_option(options, &SAVE_STREAM_FILTER)?;
        let spec = options.get(&SAVE_STREAM_FILE).filter(|spec| !spec.is_empty());
        let Some(spec) = spec else {
            if self.active.load().is_some() {
                self.save_open();
                self.active.store(None);
                self.queue.push(Job::Close);
            }
            return Ok(());
        };
        let same = self.active.load().as_ref().map(|active| active.target.clone());
        let target = match same.filter(|target| target.spec() == spec) {
            Some(target) => target,
            None => Arc::new(open_target(&spec, options)?),
        };
        self.start_writer();
        if self.master.get().and_then(WeakMaster::upgrade).is_some_and(|m| m.is_running()) {
            self.queue.push(Job::Begin(target.clone()));
        }
        self.active.store(Some(Arc::new(Active { target, filter })));
        Ok(())
    }
}

/// Tries out whether a file can be written.
fn open_target(spec: &str, options: &Options) -> Result<Target, OptionsError> {
    let invalid = |error: &dyn std::fmt::Display| {
        OptionsError::invalid(format!("{}: {error}", SAVE_STREAM_FILE.name()))
    };
    let (target, file) = Target::open(spec).map_err(|error| invalid(&error))?;
    let read = options.get(&RFILE).and_then(|path| expand_user(&path).metadata().ok());
    let read = read.as_ref().and_then(platform::file_id);
    if read.is_some() && read == file {
        return Err(invalid(&"this is the file that flows are read from (rfile)"));
    }
    Ok(target)
}

impl Addon for Save {
    fn name(&self) -> &'static str {
        "save"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        let master = loader.master;
        // A second master has the same addon only if the first is gone.
        let _ = self.0.master.set(master.downgrade());
        // `rfile` belongs to another addon, which may not be there.
        master.options().register_all(&[&SAVE_STREAM_FILE, &SAVE_STREAM_FILTER]);
        let decl = CommandDecl::new(
            "save.file",
            "Save flows to a file. With + in front of the path, append to it.",
        )
        .arg("flows", ArgType::Flows)
        .arg("path", ArgType::Path);
        let weak = master.downgrade();
        master.commands().add(decl, move |mut args| {
            let (flows, path) = (args.flows()?, args.str()?);
            let saved =
                save_file(&flows, &path).map_err(|error| CommandError::new(error.to_string()))?;
            if let Some(master) = weak.upgrade() {
                master.alert(&format!("Saved {saved} flows."));
            }
            Ok(())
        });
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        if updated.contains(SAVE_STREAM_FILE.name()) || updated.contains(SAVE_STREAM_FILTER.name())
        {
            self.0.configure(options)?;
        } else if updated.contains(RFILE.name())
            && let Some(active) = &*self.0.active.load()
        {
            // Only to refuse to write to the file that is to be read now.
            open_target(active.target.spec(), options)?;
        }
        Ok(())
    }

    fn running(&self) -> Outcome {
        if let Some(active) = &*self.0.active.load() {
            self.0.queue.push(Job::Begin(active.target.clone()));
        }
        Outcome::Done
    }

    fn done(&self) -> Outcome {
        self.0.save_open();
        self.0.queue.close();
        match self.0.writer.lock().take() {
            None => Outcome::Done,
            Some(ended) => Outcome::wait(async move {
                // An error means that it has ended, too.
                let _ = ended.await;
                Ok(())
            }),
        }
    }

    fn hooks(&self) -> HookSet {
        if self.0.active.load().is_some() { HOOKS } else { HookSet::NONE }
    }

    fn need(&self, flow: &FlowRef, direction: Direction) -> Need {
        let active = self.0.active.load();
        let Some(active) = &*active else { return Need::Nothing };
        let Some(filter) = &active.filter else { return Need::Tee };
        match filter.foresee(flow, filters::known_at_head(direction), Horizon::Flow) {
            Tri::No => Need::Nothing,
            Tri::Yes | Tri::Unknown => Need::Tee,
        }
    }

    fn request(&self, flow: &FlowRef) -> Outcome {
        self.0.begin(flow)
    }

    fn response(&self, flow: &FlowRef) -> Outcome {
        self.0.end_by_response(flow)
    }

    fn error(&self, flow: &FlowRef) -> Outcome {
        self.0.end_by_error(flow)
    }

    fn websocket_end(&self, flow: &FlowRef) -> Outcome {
        self.0.end(flow)
    }

    fn tcp_start(&self, flow: &FlowRef) -> Outcome {
        self.0.begin_stream(flow)
    }

    fn tcp_end(&self, flow: &FlowRef) -> Outcome {
        self.0.end(flow)
    }

    fn tcp_error(&self, flow: &FlowRef) -> Outcome {
        self.0.end(flow)
    }

    fn udp_start(&self, flow: &FlowRef) -> Outcome {
        self.0.begin_stream(flow)
    }

    fn udp_end(&self, flow: &FlowRef) -> Outcome {
        self.0.end(flow)
    }

    fn udp_error(&self, flow: &FlowRef) -> Outcome {
        self.0.end(flow)
    }

    fn dns_request(&self, flow: &FlowRef) -> Outcome {
        self.0.begin(flow)
    }

    fn dns_response(&self, flow: &FlowRef) -> Outcome {
        self.0.end_by_response(flow)
    }

    fn dns_error(&self, flow: &FlowRef) -> Outcome {
        self.0.end(flow)
    }
}

/// Writes flows to a file at once; returns how many.
fn save_file(flows: &[FlowRef], path: &str) -> Result<usize, io::Error> {
    let (path, append) = match path.strip_prefix('+') {
        Some(path) => (expand_user(path), true),
        None => (expand_user(path), false),
    };
    if path.extension().is_some_and(|extension| extension == "har" || extension == "zhar") {
        info!("{} becomes a flow file all the same; save.har writes HAR files.", path.display());
    }
    let file =
        OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(path)?;
    let mut writer = FlowWriter::new(file);
    let mut saved = 0;
    for flow in flows {
        match writer.write(flow) {
            Ok(()) => saved += 1,
            Err(WriteError::Output(error)) => return Err(error),
            Err(WriteError::Body(error)) => {
                saved += 1;
                warn!("A message body could not be read and is lost: {error}");
            }
            Err(error) => warn!("{error}"),
        }
    }
    match writer.flush() {
        Ok(()) => Ok(saved),
        Err(WriteError::Output(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests;
