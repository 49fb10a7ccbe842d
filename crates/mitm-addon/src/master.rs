//! [`Master`]: what a program builds, fills with addons and runs.
//!
//! A run, step by step:
//!
//! 1. [`Master::new`] registers the options of the engine.
//! 2. [`Master::add`] loads each addon: it registers its options and commands.
//! 3. The program sets options from files and the command line; each change is a transaction in which all addons are
//!    configured.
//! 4. [`Master::run`] starts the listeners, tells the addons that it runs, and waits for [`Master::shutdown`].
//! 5. The listeners stop, running exchanges get a moment, addons are told that it is over.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use mitm_flow::FlowRef;
use mitm_options::{Commands, Options, OptionsError, core as opts};
use mitm_proxy::{Event, Hooks, ListenDefaults, Mode, Proxy, Settings, hooks::Stage};
use thiserror::Error;
use tokio::sync::Notify;
use tracing::{error, info};

use crate::{
    AddonError, Loader, Manager, Outcome,
    addon::AddonRef,
    log::EventLog,
    sequence::{self, Shape},
};

/// An addon cannot be added.
#[derive(Debug, Error)]
pub enum MasterError {
    #[error("An addon called '{0}' already exists.")]
    Duplicate(String),
    #[error("{name}: {error}")]
    Load { name: String, error: AddonError },
    #[error(transparent)]
    Options(#[from] OptionsError),
}

/// The hub. Clones are handles on the same one.
#[derive(Clone)]
pub struct Master(Arc<Inner>);

struct Inner {
    options: Options,
    commands: Commands,
    manager: Arc<Manager>,
    proxy: Proxy,
    log: EventLog,
    started: AtomicBool,
    shutdown: Notify,
    should_exit: AtomicBool,
    exit_code: AtomicI32,
    /// Listeners are changed by one at a time, who does what the options say by then.
    changing: tokio::sync::Mutex<()>,
    /// The runtime to work on, once there is one.
    runtime: OnceLock<tokio::runtime::Handle>,
}

/// How long running exchanges may take to finish after a shutdown.
const GRACE: Duration = Duration::from_millis(500);

impl Master {
    /// Makes a master without addons.
    pub fn new(log: EventLog) -> Self {
        let options = Options::new();
        mitm_options::register_core(&options);
        let manager = Arc::new(Manager::default());
        let hooks: Arc<dyn Hooks> = manager.clone();
        let master = Self(Arc::new(Inner {
            commands: Commands::default(),
            proxy: Proxy::new(hooks, Settings::default()),
            options,
            manager,
            log,
            started: AtomicBool::new(false),
            shutdown: Notify::new(),
            should_exit: AtomicBool::new(false),
            exit_code: AtomicI32::new(0),
            changing: tokio::sync::Mutex::default(),
            runtime: OnceLock::new(),
        }));
        let weak = Arc::downgrade(&master.0);
        master.0.options.on_change(Arc::new(move |options, updated| {
            weak.upgrade().map_or(Ok(()), |inner| Master(inner).configure(options, updated))
        }));
        master
    }

    /// Returns a handle that does not keep the master alive, for addons.
    pub fn downgrade(&self) -> WeakMaster {
        WeakMaster(Arc::downgrade(&self.0))
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    pub fn commands(&self) -> &Commands {
        &self.0.commands
    }

    pub fn addons(&self) -> &Arc<Manager> {
        &self.0.manager
    }

    pub fn proxy(&self) -> &Proxy {
        &self.0.proxy
    }

    pub fn log(&self) -> &EventLog {
        &self.0.log
    }

    /// Loads an addon and puts it at the end of the chain.
    ///
    /// # Errors
    /// Another addon has its name, or it fails to load or to take the present options.
    #[expect(clippy::needless_pass_by_value, reason = "a handle is given")]
    pub fn add(&self, addon: AddonRef) -> Result<(), MasterError> {
        let name = addon.name().to_owned();
        if self.0.manager.get(&name).is_some() {
            return Err(MasterError::Duplicate(name));
        }
        let loader = Loader { master: self };
        addon.load(&loader).map_err(|error| MasterError::Load { name, error })?;
        self.0.manager.push(&addon);
        self.0.options.apply_deferred()?;
        let all = self.0.options.names().iter().map(ToString::to_string).collect();
        addon.configure(&self.0.options, &all)?;
        self.0.manager.refresh();
        Ok(())
    }

    /// Takes an addon out of the chain and ends it.
    pub async fn remove(&self, name: &str) {
        if let Some(addon) = self.0.manager.remove(name) {
            finish(&addon, addon.done()).await;
        }
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        for addon in self.0.manager.addons() {
            addon.configure(options, updated)?;
        }
        self.0.manager.refresh();
        if self.0.manager.servers_are_watched() {
            self.0.proxy.clear_pool();
        }
        Ok(())
    }

    /// Tells those who want to know that flows changed.
    pub fn update(&self, flows: &[FlowRef]) {
        self.0.manager.update(flows);
    }

    /// Plays the events of a flow that comes from a file.
    pub async fn load_flow(&self, flow: &FlowRef) {
        self.play(flow, Shape::of(flow)).await;
    }

    /// Plays the events of a flow whose shape is known, without looking at the flow.
    pub async fn play(&self, flow: &FlowRef, shape: Shape) {
        let hooks: Arc<dyn Hooks> = self.0.manager.clone();
        sequence::play(&hooks, flow, shape).await;
    }

    /// Tells all listeners about an event that does not come from the engine.
    pub async fn trigger(&self, event: Event) {
        if self.0.manager.wanted().has(event.hook())
            && let Some(rest) = self.0.manager.clone().fire(event, Stage::Whole)
        {
            rest.await;
        }
    }

    /// True once the addons were told that the proxy runs.
    pub fn is_running(&self) -> bool {
        self.0.started.load(Ordering::Acquire)
    }

    /// Starts and stops listeners as the options say. What cannot be started is logged.
    pub async fn listen(&self) {
        let _turn = self.0.changing.lock().await;
        let options = &self.0.options;
        let modes = if options.get(&opts::SERVER) { options.get(&opts::MODE) } else { Vec::new() };
        let modes: Vec<Mode> = modes.iter().filter_map(|spec| Mode::parse(spec).ok()).collect();
        let defaults = ListenDefaults {
            host: options.get(&opts::LISTEN_HOST),
            port: options.get(&opts::LISTEN_PORT).and_then(|port| u16::try_from(port).ok()),
        };
        for failed in self.0.proxy.listen(modes, &defaults).await {
            let in_use = failed.source.kind() == std::io::ErrorKind::AddrInUse;
            if in_use && !failed.has_own_port {
                error!(
                    "{failed}\nTry another port: --listen-port 8082, or --mode regular@8082 for this mode \
                     alone."
                );
            } else {
                error!("{failed}");
            }
        }
    }

    /// Starts or stops listeners in the background, when an option says so at run time.
    pub fn listen_later(&self) {
        if let Some(runtime) = self.0.runtime.get()
            && self.is_running()
        {
            let master = self.clone();
            runtime.spawn(async move { master.listen().await });
        }
    }

    /// Runs until [`shutdown`](Self::shutdown). `check` is asked when everything is up, and may end the run by an exit
    /// code. Returns the exit code.
    pub async fn run(&self, check: impl Fn() -> Option<i32>) -> i32 {
        // A second run has the same runtime.
        let _ = self.0.runtime.set(tokio::runtime::Handle::current());
        let code = self.start(&check).await;
        if code.is_none() {
            while !self.0.should_exit.load(Ordering::Acquire) {
                let asked = self.0.shutdown.notified();
                if self.0.should_exit.load(Ordering::Acquire) {
                    break;
                }
                asked.await;
            }
        }
        self.0.proxy.shutdown(GRACE).await;
        for addon in self.0.manager.addons() {
            finish(&addon, addon.done()).await;
        }
        code.unwrap_or_else(|| self.0.exit_code.load(Ordering::Acquire))
    }

    /// Starts the listeners, then tells the addons. Returns the exit code if something speaks against it.
    async fn start(&self, check: &impl Fn() -> Option<i32>) -> Option<i32> {
        if let Some(code) = check() {
            return Some(code);
        }
        self.listen().await;
        if let Some(code) = check() {
            return Some(code);
        }
        self.0.started.store(true, Ordering::Release);
        for addon in self.0.manager.addons() {
            finish(&addon, addon.running()).await;
        }
        check()
    }

    /// Ends the run.
    pub fn shutdown(&self) {
        self.0.should_exit.store(true, Ordering::Release);
        self.0.shutdown.notify_waiters();
    }

    /// Ends the run with an exit code.
    pub fn shutdown_with(&self, code: i32) {
        self.0.exit_code.store(code, Ordering::Release);
        self.shutdown();
    }

    /// Sets the exit code of the run, without ending it.
    pub fn set_exit_code(&self, code: i32) {
        self.0.exit_code.store(code, Ordering::Release);
    }

    /// Reports something users asked for, such as the end of a command.
    pub fn alert(&self, text: &str) {
        info!(alert = true, "{text}");
    }
}

/// Waits for the rest of a lifecycle method and reports its error.
async fn finish(addon: &AddonRef, outcome: Outcome) {
    let result = match outcome {
        Outcome::Done | Outcome::Halt => Ok(()),
        Outcome::Failed(error) => Err(error),
        Outcome::Wait(rest) => rest.await,
    };
    if let Err(error) = result {
        error!("Addon error: {}: {error}", addon.name());
    }
}

/// A handle on a master that may be gone.
#[derive(Clone, Default)]
pub struct WeakMaster(Weak<Inner>);

impl WeakMaster {
    pub fn upgrade(&self) -> Option<Master> {
        self.0.upgrade().map(Master)
    }
}
