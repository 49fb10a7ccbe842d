//! [`UpstreamAuth`]: says our own name and password to the proxy behind this one, or to the server behind a reverse proxy.
//!
//! | mode | where |
//! |---|---|
//! | upstream, tunnels | `Proxy-Authorization` of the CONNECT to the proxy |
//! | upstream, plain requests | `Proxy-Authorization` of the request to the proxy |
//! | upstream by SOCKS | the proxy's own way to ask (RFC 1929), unless the mode names other credentials |
//! | reverse | `Authorization` of the request to the server |
//!
//! For plain requests to a proxy and for SOCKS it is the engine that does it, at the moment of sending, by the same
//! option: so the proxy's credentials are neither in the flow nor in a file, and cannot reach a server that a hook
//! directs the request to.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use data_encoding::BASE64;
use mitm_addon::{Addon, HookResult, Loader, Outcome};
use mitm_flow::FlowRef;
use mitm_options::{Declare as _, Opt, Options, OptionsError};
use mitm_proxy::{Hook, HookSet};

use crate::modes;

static UPSTREAM_AUTH: Opt<Option<String>> = Opt::<Option<String>>::new(
    "upstream_auth",
    None,
    "Credentials, as USER:PASSWORD, for the upstream proxy or the server of a reverse proxy.",
);

const HOOKS: HookSet = HookSet::of(&[Hook::HttpConnectUpstream, Hook::Requestheaders]);

/// See the [module](self).
#[derive(Default)]
pub struct UpstreamAuth {
    /// The value of the header.
    basic: ArcSwapOption<Bytes>,
}

impl Addon for UpstreamAuth {
    fn name(&self) -> &'static str {
        "upstream_auth"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        loader.master.options().register(UPSTREAM_AUTH.decl());
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        if !updated.contains(UPSTREAM_AUTH.name()) {
            return Ok(());
        }
        let spec = options.get(&UPSTREAM_AUTH).filter(|spec| !spec.is_empty());
        if let Some(spec) = &spec
            && spec.split_once(':').is_none_or(|(user, _)| user.is_empty())
        {
            return Err(OptionsError::invalid(
                "Invalid upstream auth specification: valid for upstream_auth is USER:PASSWORD.",
            ));
        }
        let basic =
            spec.map(|spec| Bytes::from(format!("Basic {}", BASE64.encode(spec.as_bytes()))));
        self.basic.store(basic.map(Arc::new));
        Ok(())
    }

    fn hooks(&self) -> HookSet {
        if self.basic.load().is_some() { HOOKS } else { HookSet::NONE }
    }

    fn http_connect_upstream(&self, flow: &FlowRef) -> Outcome {
        if let (Some(basic), Some(request)) = (&*self.basic.load(), flow.request()) {
            let basic = Bytes::clone(basic);
            request.update(|request| request.headers.set("Proxy-Authorization", basic));
        }
        Outcome::Done
    }

    fn requestheaders(&self, flow: &FlowRef) -> Outcome {
        let basic = self.basic.load();
        let (Some(basic), Some(request)) = (&*basic, flow.request()) else { return Outcome::Done };
        let client = flow.client();
        if modes::is(&client, "reverse") {
            let basic = Bytes::clone(basic);
            request.update(|request| request.headers.set("Authorization", basic));
        }
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use mitm_addon::testing;
    use mitm_flow::test_util;

    use super::*;

    /// Plays a hook; returns what the request then says as (`Authorization`, `Proxy-Authorization`).
    fn headers(mode: &str, hook: impl Fn(&FlowRef) -> Outcome) -> [Option<Bytes>; 2] {
        let flow = test_util::http_flow();
        flow.client().update(|client| client.proxy_mode = mode.into());
        let request = flow.request().unwrap();
        request.update(|request| request.headers.set("Authorization", "theirs"));
        assert!(matches!(hook(&flow), Outcome::Done));
        ["Authorization", "Proxy-Authorization"]
            .map(|name| request.with(|request| request.headers.get(name).cloned()))
    }

    #[test]
    fn each_is_told_its_own() {
        let addon = Arc::new(UpstreamAuth::default());
        let master = testing::master_with(addon.clone()).unwrap();
        assert_eq!(addon.hooks(), HookSet::NONE);
        testing::set(&master, &["upstream_auth=user:pass:word"]).unwrap();
        assert_eq!(addon.hooks(), HOOKS);
        let ours = Bytes::from_static(b"Basic dXNlcjpwYXNzOndvcmQ=");
        let theirs = Bytes::from_static(b"theirs");
        let request = |flow: &FlowRef| addon.requestheaders(flow);
        for mode in ["regular", "upstream:http://p", "socks5", "transparent"] {
            assert_eq!(headers(mode, request), [Some(theirs.clone()), None], "{mode}");
        }
        assert_eq!(headers("reverse:http://h", request), [Some(ours.clone()), None]);
        let connect = |flow: &FlowRef| addon.http_connect_upstream(flow);
        assert_eq!(headers("upstream:http://p", connect), [Some(theirs), Some(ours)]);
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let master = testing::master_with(Arc::new(UpstreamAuth::default())).unwrap();
        for bad in ["user", ":", ":pass"] {
            let error = testing::set(&master, &[&format!("upstream_auth={bad}")]).unwrap_err();
            assert!(error.to_string().contains("Invalid upstream auth specification"), "{error}");
        }
        testing::set(&master, &["upstream_auth=user:"]).unwrap();
        testing::set(&master, &["upstream_auth"]).unwrap();
    }
}
