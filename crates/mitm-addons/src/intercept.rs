//! [`Intercept`]: holds back flows that match a filter, until somebody resumes them.

use std::collections::BTreeSet;

use arc_swap::ArcSwapOption;
use mitm_addon::{Addon, HookResult, Loader, Outcome};
use mitm_filter::{Filter, Horizon, Tri};
use mitm_flow::FlowRef;
use mitm_options::{Opt, Options, OptionsError};
use mitm_proxy::{
    Hook, HookSet,
    hooks::{Direction, Need},
};

use crate::filters;

static INTERCEPT: Opt<Option<String>> = Opt::<Option<String>>::new(
    "intercept",
    None,
    "Hold back flows that match this filter. Setting it switches intercept_active on, clearing it switches \
     that off.",
);
static INTERCEPT_ACTIVE: Opt<bool> =
    Opt::new("intercept_active", false, "Whether flows are held back at present.");

/// Intercepts flows.
#[derive(Default)]
pub struct Intercept {
    /// Set while interception is active.
    filter: ArcSwapOption<Filter>,
}

const HOOKS: HookSet = HookSet::of(&[
    Hook::Request,
    Hook::Response,
    Hook::TcpMessage,
    Hook::UdpMessage,
    Hook::DnsRequest,
    Hook::DnsResponse,
    Hook::WebsocketMessage,
]);

impl Intercept {
    fn consider(&self, flow: &FlowRef) -> Outcome {
        if let Some(filter) = &*self.filter.load()
            && flow.is_replay().is_none()
            && filters::matches(filter, flow)
        {
            flow.intercept();
        }
        Outcome::Done
    }
}

impl Addon for Intercept {
    fn name(&self) -> &'static str {
        "intercept"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        loader.master.options().register_all(&[&INTERCEPT, &INTERCEPT_ACTIVE]);
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        let is_set = updated.contains(INTERCEPT.name());
        if !is_set && !updated.contains(INTERCEPT_ACTIVE.name()) {
            return Ok(());
        }
        let filter = filters::from_option(options, &INTERCEPT)?;
        if is_set && filter.is_some() != options.get(&INTERCEPT_ACTIVE) {
            // Comes back here.
            return options.set(&INTERCEPT_ACTIVE, filter.is_some());
        }
        self.filter.store(filter.filter(|_| options.get(&INTERCEPT_ACTIVE)));
        Ok(())
    }

    fn hooks(&self) -> HookSet {
        if self.filter.load().is_some() { HOOKS } else { HookSet::NONE }
    }

    /// The message must not be on its way when it is decided whether to hold it back.
    fn need(&self, flow: &FlowRef, direction: Direction) -> Need {
        let filter = self.filter.load();
        let Some(filter) = &*filter else { return Need::Nothing };
        if flow.is_replay().is_some() {
            return Need::Nothing;
        }
        match filter.foresee(flow, filters::known_at_head(direction), Horizon::Message) {
            Tri::No => Need::Nothing,
            Tri::Yes | Tri::Unknown => Need::Hold,
        }
    }

    fn request(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }

    fn response(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }

    fn tcp_message(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }

    fn udp_message(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }

    fn dns_request(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }

    fn dns_response(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }

    fn websocket_message(&self, flow: &FlowRef) -> Outcome {
        self.consider(flow)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::{Master, testing};
    use mitm_flow::{Replay, test_util};

    use super::*;

    async fn is_held(master: &Master, flow: &FlowRef) -> bool {
        testing::cycle(master, flow).await;
        let held = flow.is_intercepted();
        flow.resume();
        held
    }

    #[tokio::test]
    async fn matching_flows_are_held_back() {
        let addon = Arc::new(Intercept::default());
        let master = testing::master_with(addon.clone()).unwrap();
        let active = || master.options().get(&INTERCEPT_ACTIVE);
        let flow = test_util::http_flow_with_response();
        assert!(!active() && !is_held(&master, &flow).await);
        testing::set(&master, &["intercept=~m get"]).unwrap();
        assert!(active() && is_held(&master, &flow).await);
        assert!(!is_held(&master, &test_util::tcp_flow()).await);

        testing::set(&master, &["intercept_active=false"]).unwrap();
        assert!(!is_held(&master, &flow).await && addon.hooks() == HookSet::NONE);
        testing::set(&master, &["intercept_active=toggle"]).unwrap();
        assert!(is_held(&master, &flow).await);
        flow.set_is_replay(Some(Replay::Request));
        assert!(!is_held(&master, &flow).await);

        testing::set(&master, &["intercept"]).unwrap();
        assert!(!active());
        let error = testing::set(&master, &["intercept=~bad("]).unwrap_err().to_string();
        assert!(error.contains("Invalid filter expression: '~bad('"), "{error}");
        assert!(!active());
        testing::set(&master, &["intercept=~all"]).unwrap();
        for flow in test_util::flows() {
            assert!(is_held(&master, &flow).await, "{flow:?}");
        }
    }

    #[test]
    fn bodies_that_decide_are_held() {
        let addon = Arc::new(Intercept::default());
        let master = testing::master_with(addon.clone()).unwrap();
        let flow = test_util::http_flow();
        let need = |spec: &str| {
            testing::set(&master, &[spec]).unwrap();
            addon.need(&flow, Direction::Request)
        };
        assert_eq!(need("intercept"), Need::Nothing);
        assert_eq!(need("intercept=~m get"), Need::Hold);
        assert_eq!(need("intercept=~bq x"), Need::Hold);
        assert_eq!(need("intercept=~m post"), Need::Nothing);
        assert_eq!(need("intercept=~s"), Need::Nothing);
    }
}
