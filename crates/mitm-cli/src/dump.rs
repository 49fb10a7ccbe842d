//! `mitmdump`: start-up, run, exit code.
//!
//! 1. The command line is read; help, versions and usage errors end it here.
//! 2. The event log is installed, then the addons, which declare their options.
//! 3. Options are set, see [`startup`].
//! 4. It runs until the addons or a signal end it. The first SIGINT or SIGTERM lets what is running finish; the second
//!    ends the program at once. SIGUSR1 logs what the program holds, see [`status`]. SIGPIPE is ignored, as the standard
//!    library sees to.
//!
//! | exit code | |
//! |---|---|
//! | 0 | all went well; also help and versions |
//! | 1 | an option was refused, or an error was logged |
//! | 2 | the command line was not understood |
//! | 130, 143 | ended at once by a second SIGINT or SIGTERM |

use std::{
    ffi::OsString,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mitm_addon::{Level, Master, log::EventLog};
use mitm_addons::{DumpAddons, ErrorCheck, Output};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::{
    args::{self, Action, Args},
    flags::Tool,
    not_yet::NotYet,
    startup, status, terminal, version,
};

const NAME: &str = "mitmdump";

/// Runs the program with the words of its command line, of which the first is its name. Returns the exit code.
pub fn mitmdump<I, W>(words: I) -> i32
where
    I: IntoIterator<Item = W>,
    W: Into<OsString> + Clone,
{
    let args = match args::parse(Tool::Mitmdump, words, terminal::width()) {
        Ok(args) => args,
        Err(error) => return terminal::usage(&error),
    };
    match args.action {
        Action::Version => return terminal::print(&version::block()),
        Action::ShortVersion => return terminal::print(&format!("{}\n", version::VERSION)),
        Action::Options | Action::Commands | Action::Run => {}
    }
    start(&args).unwrap_or_else(|error| {
        terminal::complain(&format!("{NAME}: {error}"));
        1
    })
}

fn start(args: &Args) -> anyhow::Result<i32> {
    let log = EventLog::default();
    let has_failed = Arc::new(AtomicBool::new(false));
    let seen = has_failed.clone();
    let _errors = log.subscribe_from(Level::Error, move |_| seen.store(true, Ordering::Release));
    // A program that embeds this one may have its own subscriber, which then is the one to see what happens.
    let _ =
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.clone()));

    let master = Master::new(log);
    let output = Output::stdout();
    let DumpAddons { addons, error_check } = mitm_addons::dump_addons(master.log(), &output);
    // The one that refuses comes first, so that the others have done nothing yet.
    master.add(Arc::new(NotYet))?;
    for addon in addons {
        master.add(addon)?;
    }

    startup::configure(&master, args)?;
    match args.action {
        Action::Options => return Ok(terminal::print(&master.options().annotated())),
        Action::Commands => return Ok(terminal::print(&master.commands().dump())),
        Action::Run | Action::Version | Action::ShortVersion => {}
    }
    startup::name_unknown(master.options())?;

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(run(&master, &error_check))?;
    output.flush();
    // A thread may be reading from standard input, which may never end.
    runtime.shutdown_background();
    if code == 0 && has_failed.load(Ordering::Acquire) {
        terminal::complain(&format!("{NAME}: errors occurred during run"));
        return Ok(1);
    }
    Ok(code)
}

async fn run(master: &Master, check: &ErrorCheck) -> io::Result<i32> {
    let mut signals = Signals::new()?;
    let stopped = master.clone();
    let watcher = tokio::spawn(async move {
        signals.next().await;
        stopped.shutdown();
        let code = signals.next().await;
        std::process::exit(code);
    });
    let status = tokio::spawn(status::log_when_asked(master.clone())?);
    let code = master.run(|| check.check()).await;
    status.abort();
    watcher.abort();
    Ok(code)
}

/// The signals that ask a program to end.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one, and returns the exit code of a program that it ends at once.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> i32 {
        if tokio::signal::ctrl_c().await.is_err() {
            // There is nothing to wait for.
            std::future::pending::<()>().await;
        }
        130
    }
}
