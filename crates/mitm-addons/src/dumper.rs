//! [`Dumper`]: prints flows as `mitmdump` shows them.
//!
//! How much is printed is the option `flow_detail`; what a line looks like is in `http` and `streams`, what is shown of
//! a body in `content`. A flow is printed by the hook that ends it, conversations message by message.

mod content;
mod http;
mod streams;

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use mitm_addon::{Addon, HookResult, Loader, Outcome};
use mitm_filter::{Filter, Horizon, Tri};
use mitm_flow::{FlowKind, FlowRef};
use mitm_options::{
    Opt, Options, OptionsError,
    core::{CONTENT_VIEW_LINES_CUTOFF, SHOWHOST},
};
use mitm_proxy::{
    Hook, HookSet,
    hooks::{Direction, Need},
};

use crate::{
    filters,
    output::{Block, Flush, Output},
};

static FLOW_DETAIL: Opt<i64> = Opt::new(
    "flow_detail",
    1,
    "How much of each flow is printed: 0 nothing, 1 a line for request and response each, 2 headers \
     too, 3 also the beginning of bodies and messages, 4 bodies completely, up to 8 MiB each.",
);
static DUMPER_FILTER: Opt<Option<String>> =
    Opt::<Option<String>>::new("dumper_filter", None, "Print only flows that match this filter.");
static DUMPER_DEFAULT_CONTENTVIEW: Opt<String> = Opt::<String>::new(
    "dumper_default_contentview",
    "auto",
    "How bodies are shown: \"raw\", \"hex dump\", \"hex stream\", or \"auto\" to choose by what they \
     hold.",
);

/// Prints flows.
pub struct Dumper {
    output: Output,
    settings: ArcSwap<Settings>,
}

/// The options in the form they are used in.
struct Settings {
    detail: i64,
    filter: Option<Arc<Filter>>,
    showhost: bool,
    /// The number of lines that are shown of a body at detail 3.
    cutoff: usize,
    view: content::View,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            detail: FLOW_DETAIL.default(),
            filter: None,
            showhost: false,
            cutoff: 512,
            view: content::View::Auto,
        }
    }
}

impl Dumper {
    pub fn new(output: Output) -> Self {
        Self { output, settings: ArcSwap::default() }
    }

    fn print(&self, flow: &FlowRef, write: impl FnOnce(&mut Printer<'_>, &FlowRef)) -> Outcome {
        let settings = self.settings.load();
        if let Some(filter) = &settings.filter
            && !filters::matches(filter, flow)
        {
            return Outcome::Done;
        }
        let block = Block::new(self.output.is_terminal());
        let mut printer = Printer { block, settings: &settings, output: &self.output };
        write(&mut printer, flow);
        let flush = if flow.is_live() { Flush::Now } else { Flush::Later };
        self.output.print(printer.block.as_str(), flush);
        Outcome::Done
    }
}

/// A block in the making, with the options that say what belongs into it.
struct Printer<'a> {
    block: Block,
    settings: &'a Settings,
    output: &'a Output,
}

const HOOKS: HookSet = HookSet::of(&[
    Hook::Response,
    Hook::Error,
    Hook::HttpConnectError,
    Hook::WebsocketMessage,
    Hook::WebsocketEnd,
    Hook::TcpMessage,
    Hook::TcpError,
    Hook::UdpMessage,
    Hook::UdpError,
    Hook::DnsResponse,
    Hook::DnsError,
]);

#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the methods are those of a printer of one lifetime only"
)]
impl Addon for Dumper {
    fn name(&self) -> &'static str {
        "dumper"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        let options = loader.master.options();
        options.register_all(&[&FLOW_DETAIL, &DUMPER_FILTER, &DUMPER_DEFAULT_CONTENTVIEW]);
        self.output.report_failure_to(loader.master.downgrade());
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        const NAMES: &[&str] = &[
            "flow_detail",
            "dumper_filter",
            "dumper_default_contentview",
            "showhost",
            "content_view_lines_cutoff",
        ];
        if NAMES.iter().any(|&name| updated.contains(name)) {
            self.settings.store(Arc::new(Settings {
                detail: options.get(&FLOW_DETAIL),
                filter: filters::from_option(options, &DUMPER_FILTER)?,
                showhost: options.get(&SHOWHOST),
                cutoff: usize::try_from(options.get(&CONTENT_VIEW_LINES_CUTOFF)).unwrap_or(0),
                view: content::View::from_name(&options.get(&DUMPER_DEFAULT_CONTENTVIEW)),
            }));
        }
        Ok(())
    }

    fn done(&self) -> Outcome {
        self.output.flush();
        Outcome::Done
    }

    fn hooks(&self) -> HookSet {
        if self.settings.load().detail <= 0 { HookSet::NONE } else { HOOKS }
    }

    fn need(&self, flow: &FlowRef, direction: Direction) -> Need {
        let settings = self.settings.load();
        // Of TCP flows each message is printed as it comes.
        let is_read = settings.detail >= 3 && flow.kind() != FlowKind::Tcp;
        let shown = if is_read { Need::Tee } else { Need::Nothing };
        let Some(filter) = &settings.filter else { return shown };
        match filter.foresee(flow, filters::known_at_head(direction), Horizon::Flow) {
            Tri::No => Need::Nothing,
            Tri::Unknown if filter.needs().body() => Need::Tee,
            Tri::Unknown | Tri::Yes => shown,
        }
    }

    fn response(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.http(flow))
    }

    fn error(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.http(flow))
    }

    fn http_connect_error(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.http(flow))
    }

    fn websocket_message(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.websocket_message(flow))
    }

    fn websocket_end(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.websocket_end(flow))
    }

    fn tcp_message(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.stream_message(flow, "tcp"))
    }

    fn tcp_error(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.stream_error(flow, "TCP"))
    }

    fn udp_message(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.stream_message(flow, "udp"))
    }

    fn udp_error(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.stream_error(flow, "UDP"))
    }

    fn dns_response(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.dns(flow))
    }

    fn dns_error(&self, flow: &FlowRef) -> Outcome {
        self.print(flow, |printer, flow| printer.dns(flow))
    }
}

#[cfg(test)]
mod tests;
