//! [`ProxyAuth`]: lets in only those who say a name and a password.
//!
//! The option `proxyauth` says whom: anybody who says something (`any`), one user (`USER:PASSWORD`), the users of a
//! file (`@PATH`) or of a directory (`ldap:…`). How a client is asked depends on the
//! mode: one that knows that it talks to a proxy is asked as by a proxy (407), all others as by the server (401), and
//! those of SOCKS5 in its own way.
//!
//! Each request is checked, except that a client whose CONNECT or SOCKS greeting was accepted is known for as long
//! as its connection lasts. Credentials are taken out of the request whether or not they are right, before another
//! addon, the server or a file sees them; scripts find them in the metadata `proxyauth`, which is never written to a file.

mod apr1;
mod cache;
mod credentials;
mod gate;
mod htpasswd;
mod ldap;
mod validator;

use std::{collections::BTreeSet, collections::HashMap, sync::Arc};

use arc_swap::ArcSwapOption;
use mitm_addon::{Addon, AddonError, HookResult, Loader, Outcome};
use mitm_flow::{Client, FlowRef, Headers, Response, Shared, status, value::Value};
use mitm_options::{Declare as _, Opt, Options, OptionsError};
use mitm_proxy::{Hook, HookSet, hooks::Socks5AuthData};
use parking_lot::Mutex;
use tracing::info;
use uuid::Uuid;

use self::{credentials::Credentials, validator::Validator};
use crate::modes;

static PROXYAUTH: Opt<Option<String>> = Opt::<Option<String>>::new(
    "proxyauth",
    None,
    "Ask clients for a name and a password: USER:PASSWORD, any (whatever they say), @PATH (an htpasswd file), or \
     ldap[s]:HOST[:PORT]:BIND_DN:PASSWORD:SUBTREE[?search_filter_key=ATTRIBUTE].",
);

/// The key of the metadata: a list of name and password.
const METADATA: &str = "proxyauth";

const HOOKS: HookSet = HookSet::of(&[
    Hook::ClientDisconnected,
    Hook::HttpConnect,
    Hook::Requestheaders,
    Hook::Socks5Auth,
]);

/// See the [module](self).
#[derive(Default)]
pub struct ProxyAuth {
    validator: ArcSwapOption<Validator>,
    known: Arc<Known>,
    is_running: std::sync::atomic::AtomicBool,
}

/// The connections that have authenticated themselves as a whole.
#[derive(Default)]
struct Known(Mutex<HashMap<Uuid, Arc<Credentials>>>);

impl Known {
    fn get(&self, client: &Shared<Client>) -> Option<Arc<Credentials>> {
        let id = client.with(|client| client.id);
        self.0.lock().get(&id).cloned()
    }

    fn put(&self, client: &Shared<Client>, credentials: Arc<Credentials>) {
        let mut known = self.0.lock();
        // Whoever left while the answer was on its way will not be forgotten again.
        let (id, is_gone) = client.with(|client| (client.id, client.timestamp_end.is_some()));
        if !is_gone {
            known.insert(id, credentials);
        }
    }

    fn remove(&self, client: &Shared<Client>) {
        let id = client.with(|client| client.id);
        self.0.lock().remove(&id);
    }
}

/// How clients of a mode are asked.
struct Manner {
    /// The header they answer in.
    answer: &'static str,
    status: u16,
    challenge: &'static str,
}

const AS_PROXY: Manner =
    Manner { answer: "Proxy-Authorization", status: 407, challenge: "Proxy-Authenticate" };
const AS_SERVER: Manner =
    Manner { answer: "Authorization", status: 401, challenge: "WWW-Authenticate" };

impl Manner {
    fn of(client: &Shared<Client>) -> &'static Self {
        let is_proxy = modes::is(client, "regular") || modes::is(client, "upstream");
        if is_proxy { &AS_PROXY } else { &AS_SERVER }
    }

    /// The answer to who is not let in.
    fn refusal(&self) -> Response {
        let code = self.status;
        let reason = status::reason(code).unwrap_or_default();
        let page = format!(
            "<html><head><title>{code} {reason}</title></head><body><h1>{code} {reason}</h1></body></html>"
        );
        let mut headers = Headers::new();
        headers.add(self.challenge, "Basic realm=\"mitmproxy\"");
        Response::make(code, page, headers)
    }
}

impl ProxyAuth {
    /// Checks the credentials of a request. If it `admits` they hold for the whole connection.
    fn authenticate(&self, validator: &Arc<Validator>, flow: &FlowRef, admits: bool) -> Outcome {
        let Some(request) = flow.request() else { return Outcome::Done };
        let client = flow.client();
        let manner = Manner::of(&client);
        let answers = request.update(|request| {
            let answers: Vec<_> = request.headers.get_all(manner.answer).cloned().collect();
            if !answers.is_empty() {
                request.headers.remove(manner.answer);
            }
            answers
        });
        let said = match &answers[..] {
            [answer] => Credentials::from_basic(answer),
            _ => None,
        };
        let Some(credentials) = said.map(Arc::new) else {
            flow.set_response(Some(Shared::new(manner.refusal())));
            return Outcome::Done;
        };
        let known = admits.then(|| Arc::clone(&self.known));
        let (flow, checked) = (flow.clone(), Arc::clone(&credentials));
        check(validator, &credentials, move |is_valid| {
            if is_valid {
                mark(&flow, &checked);
                if let Some(known) = known {
                    known.put(&client, checked);
                }
            } else {
                log_refusal(&client);
                flow.set_response(Some(Shared::new(manner.refusal())));
            }
        })
    }
}

/// Asks the validator, at once if it can tell at once, and calls `then` with the answer.
fn check(
    validator: &Arc<Validator>,
    credentials: &Arc<Credentials>,
    then: impl FnOnce(bool) + Send + 'static,
) -> Outcome {
    if let Some(is_valid) = validator.check_now(credentials) {
        then(is_valid);
        return Outcome::Done;
    }
    let (validator, credentials) = (Arc::clone(validator), Arc::clone(credentials));
    Outcome::wait(async move {
        then(validator.check(&credentials).await);
        Ok(())
    })
}

/// Tells scripts who sent this.
fn mark(flow: &FlowRef, credentials: &Credentials) {
    let value = [&credentials.name, &credentials.password].map(|text| Value::Str(text.clone()));
    flow.set_metadata_entry(METADATA, Value::List(value.into()));
}

fn log_refusal(client: &Shared<Client>) {
    let name = client.with(|client| client.peername.as_ref().map(ToString::to_string));
    info!(client = %name.unwrap_or_default(), "Proxy authentication failed.");
}

impl Addon for ProxyAuth {
    fn name(&self) -> &'static str {
        "proxyauth"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        loader.master.options().register(PROXYAUTH.decl());
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        let is_relevant = updated.contains(PROXYAUTH.name())
            || ldap::TRUST.iter().any(|name| updated.contains(*name));
        if !is_relevant {
            return Ok(());
        }
        let validator = match options.get(&PROXYAUTH).filter(|spec| !spec.is_empty()) {
            None => None,
            Some(spec) => {
                Some(Arc::new(Validator::parse(&spec, options).map_err(OptionsError::invalid)?))
            }
        };
        if validator.is_none() {
            self.known.0.lock().clear();
        }
        if let (Some(validator), true, Ok(runtime)) = (
            &validator,
            self.is_running.load(std::sync::atomic::Ordering::Relaxed),
            tokio::runtime::Handle::try_current(),
        ) {
            let validator = Arc::clone(validator);
            // Whether the server can be reached is a matter for the log: it may be back in a minute.
            runtime.spawn(async move {
                if let Err(error) = validator.try_out().await {
                    tracing::error!("{error}");
                }
            });
        }
        self.validator.store(validator);
        Ok(())
    }

    fn running(&self) -> Outcome {
        self.is_running.store(true, std::sync::atomic::Ordering::Relaxed);
        match self.validator.load_full() {
            Some(validator) => {
                Outcome::wait(async move { validator.try_out().await.map_err(AddonError::new) })
            }
            None => Outcome::Done,
        }
    }

    fn hooks(&self) -> HookSet {
        if self.validator.load().is_some() { HOOKS } else { HookSet::NONE }
    }

    fn client_disconnected(&self, client: &Shared<Client>) -> Outcome {
        self.known.remove(client);
        Outcome::Done
    }

    fn http_connect(&self, flow: &FlowRef) -> Outcome {
        match &*self.validator.load() {
            Some(validator) => self.authenticate(validator, flow, true),
            None => Outcome::Done,
        }
    }

    fn requestheaders(&self, flow: &FlowRef) -> Outcome {
        let validator = self.validator.load();
        let Some(validator) = &*validator else { return Outcome::Done };
        // What is replayed or read from a file was sent by nobody who could be asked.
        if flow.is_replay().is_some() || !flow.is_live() {
            return Outcome::Done;
        }
        let client = flow.client();
        let Some(credentials) = self.known.get(&client) else {
            return self.authenticate(validator, flow, false);
        };
        mark(flow, &credentials);
        // A client whose CONNECT did not get it anywhere may go on with a plain request, which says them again. Inside of
        // a tunnel the header is between the client and another proxy.
        if let Some(request) = flow.request()
            && request.with(|request| {
                let mut answers = request.headers.get_all(AS_PROXY.answer);
                answers.any(|answer| Credentials::from_basic(answer).as_ref() == Some(&credentials))
            })
        {
            request.update(|request| request.headers.remove(AS_PROXY.answer));
        }
        Outcome::Done
    }

    fn socks5_auth(&self, data: &Shared<Socks5AuthData>) -> Outcome {
        let validator = self.validator.load();
        let Some(validator) = &*validator else { return Outcome::Done };
        let (client, credentials) = data.with(|data| {
            let (name, password) = (data.username.clone(), data.password.clone());
            (data.client.clone(), Arc::new(Credentials { name, password }))
        });
        let (data, known) = (data.clone(), Arc::clone(&self.known));
        let checked = Arc::clone(&credentials);
        check(validator, &credentials, move |is_valid| {
            if is_valid {
                data.update(|data| data.valid = true);
                known.put(&client, checked);
            } else {
                log_refusal(&client);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use bytes::Bytes;
    use data_encoding::BASE64;
    use mitm_addon::{Master, testing};
    use mitm_flow::{Replay, test_util};

    use super::*;

    fn auth(spec: &str) -> (Arc<ProxyAuth>, Master) {
        let addon = Arc::new(ProxyAuth::default());
        let master = testing::master_with(addon.clone()).unwrap();
        testing::set(&master, &[&format!("proxyauth={spec}")]).unwrap();
        (addon, master)
    }

    fn basic(said: &str) -> Bytes {
        format!("basic {}", BASE64.encode(said.as_bytes())).into()
    }

    fn flow(mode: &str) -> FlowRef {
        let flow = test_util::http_flow();
        flow.set_live(true);
        flow.client().update(|client| {
            client.proxy_mode = mode.into();
            client.timestamp_end = None;
        });
        flow
    }

    fn say(flow: &FlowRef, header: &'static str, value: Bytes) {
        flow.request().unwrap().update(|request| request.headers.add(header, value));
    }

    fn has(flow: &FlowRef, header: &str) -> bool {
        flow.request().unwrap().with(|request| request.headers.contains(header))
    }

    fn status(flow: &FlowRef) -> Option<u16> {
        flow.response().map(|response| response.with(|response| response.status_code))
    }

    async fn play(outcome: Outcome) {
        match outcome {
            Outcome::Done => {}
            Outcome::Wait(future) => future.await.unwrap(),
            _ => panic!("no other outcome"),
        }
    }

    fn said(flow: &FlowRef) -> Option<Value> {
        Value::Map(flow.metadata().to_vec()).get(METADATA).cloned()
    }

    #[tokio::test]
    async fn every_mode_asks_in_its_own_way() {
        let (addon, _master) = auth("user:pass:word");
        for (mode, answer, code, challenge) in [
            ("regular", "Proxy-Authorization", 407, "Proxy-Authenticate"),
            ("regular@8080", "Proxy-Authorization", 407, "Proxy-Authenticate"),
            ("Upstream:http://h", "Proxy-Authorization", 407, "Proxy-Authenticate"),
            ("reverse:http://h", "Authorization", 401, "WWW-Authenticate"),
            ("transparent", "Authorization", 401, "WWW-Authenticate"),
            ("socks5", "Authorization", 401, "WWW-Authenticate"),
        ] {
            let right = flow(mode);
            say(&right, answer, basic("user:pass:word"));
            play(addon.requestheaders(&right)).await;
            assert_eq!((status(&right), has(&right, answer)), (None, false), "{mode}");
            let expected = ["user", "pass:word"].map(Value::from);
            assert_eq!(said(&right), Some(Value::List(expected.into())));

            let silent = flow(mode);
            play(addon.requestheaders(&silent)).await;
            let response = silent.response().unwrap().get();
            assert_eq!(response.status_code, code, "{mode}");
            assert_eq!(response.headers.get(challenge).unwrap(), "Basic realm=\"mitmproxy\"");
            assert!(!response.headers.contains("content-type"));
            let page = response.body.bytes().unwrap().unwrap();
            let page = std::str::from_utf8(&page).unwrap();
            assert!(page.starts_with(&format!("<html><head><title>{code} ")), "{page}");

            for wrong in ["user:pass", "User:pass:word", "user:pass:wordx", ":", "user:"] {
                let wrong_flow = flow(mode);
                say(&wrong_flow, answer, basic(wrong));
                play(addon.requestheaders(&wrong_flow)).await;
                assert_eq!(status(&wrong_flow), Some(code), "{wrong}");
                assert!(!has(&wrong_flow, answer) && said(&wrong_flow).is_none());
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_said_properly_is_not_said() {
        let (addon, _master) = auth("any");
        let twice = flow("regular");
        say(&twice, "Proxy-Authorization", basic("a:b"));
        say(&twice, "proxy-authorization", basic("a:b"));
        play(addon.requestheaders(&twice)).await;
        assert_eq!((status(&twice), has(&twice, "Proxy-Authorization")), (Some(407), false));
        let digest = flow("regular");
        say(&digest, "Proxy-Authorization", Bytes::from_static(b"Digest username=x"));
        play(addon.requestheaders(&digest)).await;
        assert_eq!(status(&digest), Some(407));
        let anything = flow("regular");
        say(&anything, "Proxy-Authorization", basic(":"));
        play(addon.requestheaders(&anything)).await;
        assert_eq!(status(&anything), None);
    }

    #[tokio::test]
    async fn a_connect_admits_its_connection() {
        let (addon, master) = auth("user:pass");
        let refused = flow("regular");
        play(addon.http_connect(&refused)).await;
        assert_eq!(status(&refused), Some(407));

        let connect = flow("regular");
        say(&connect, "Proxy-Authorization", basic("user:pass"));
        play(addon.http_connect(&connect)).await;
        assert_eq!((status(&connect), has(&connect, "Proxy-Authorization")), (None, false));

        let inside = test_util::http_flow();
        inside.set_live(true);
        let inner =
            FlowRef::http(connect.client(), inside.server(), inside.request().unwrap().get());
        say(&inner, "Authorization", basic("user:pass"));
        say(&inner, "Proxy-Authorization", basic("for:another"));
        play(addon.requestheaders(&inner)).await;
        assert!(status(&inner).is_none() && said(&inner).is_some());
        assert!(has(&inner, "Authorization") && has(&inner, "Proxy-Authorization"));
        // The same words again are for us.
        let again =
            FlowRef::http(connect.client(), inside.server(), inside.request().unwrap().get());
        say(&again, "Proxy-Authorization", basic("user:pass"));
        play(addon.requestheaders(&again)).await;
        assert!(!has(&again, "Proxy-Authorization"));

        testing::set(&master, &["proxyauth=user:other"]).unwrap();
        assert_eq!(addon.known.0.lock().len(), 1, "who is in stays in");
        play(addon.client_disconnected(&connect.client())).await;
        assert!(addon.known.0.lock().is_empty());
    }

    #[tokio::test]
    async fn socks_clients_are_asked_in_their_way() {
        let (addon, _master) = auth("user:pass");
        let flow = flow("socks5");
        for (password, valid) in [("wrong", false), ("pass", true)] {
            let data = Shared::new(Socks5AuthData {
                client: flow.client(),
                username: "user".into(),
                password: password.into(),
                valid: false,
            });
            play(addon.socks5_auth(&data)).await;
            assert_eq!(data.with(|data| data.valid), valid);
        }
        say(&flow, "Authorization", basic("user:pass"));
        play(addon.requestheaders(&flow)).await;
        assert!(status(&flow).is_none() && has(&flow, "Authorization"));
    }

    #[tokio::test]
    async fn nobody_is_asked_about_what_was_recorded() {
        let (addon, _master) = auth("user:pass");
        let replayed = flow("regular");
        replayed.set_is_replay(Some(Replay::Request));
        play(addon.requestheaders(&replayed)).await;
        let loaded = flow("regular");
        loaded.set_live(false);
        play(addon.requestheaders(&loaded)).await;
        assert_eq!((status(&replayed), status(&loaded)), (None, None));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn users_of_a_file_are_let_in() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bcrypt = bcrypt::hash_with_salt("secret", 4, [1; 16]).unwrap();
        writeln!(file, "b:{bcrypt}\na:$apr1$x$16j9.5e7KiXmuYFAYpPJM/").unwrap();
        file.flush().unwrap();
        let (addon, master) = auth(&format!("@{}", file.path().display()));
        for _ in 0..2 {
            for (text, code) in [("b:secret", None), ("a:a", None), ("a:secret", Some(407))] {
                let flow = flow("regular");
                say(&flow, "Proxy-Authorization", basic(text));
                play(addon.requestheaders(&flow)).await;
                assert_eq!(
                    (status(&flow), said(&flow).is_some()),
                    (code, code.is_none()),
                    "{text}"
                );
            }
        }
        // Who was let in once is let in at once.
        let again = flow("regular");
        say(&again, "Proxy-Authorization", basic("b:secret"));
        assert!(matches!(addon.requestheaders(&again), Outcome::Done) && status(&again).is_none());
        assert!(addon.hooks().has(Hook::Requestheaders));
        testing::set(&master, &["proxyauth"]).unwrap();
        assert_eq!(addon.hooks(), HookSet::NONE);
    }

    #[test]
    fn bad_values_are_refused_and_say_no_secrets() {
        let master = testing::master_with(Arc::new(ProxyAuth::default())).unwrap();
        for (spec, text) in [
            ("nobody", "Invalid proxyauth specification"),
            ("@/nowhere/htpasswd", "Could not open htpasswd file: /nowhere/htpasswd"),
            ("ldap:host:dn:s3cret", "Invalid LDAP specification"),
            ("ldaps:host:port:dn:s3cret:sub", "Invalid LDAP specification"),
        ] {
            let error = testing::set(&master, &[&format!("proxyauth={spec}")]).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(text) && !error.contains("s3cret"), "{spec}: {error}");
        }
    }
}
