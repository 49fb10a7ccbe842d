//! [`ErrorCheck`]: ends a run during whose start-up an error was logged.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mitm_addon::{
    Addon, Level, LogEntry, Outcome,
    log::{EventLog, Threshold},
};
use parking_lot::Mutex;

use crate::output::many_lines;

/// More errors than this are not repeated.
const MAX_REPEATED: usize = 100;

/// Listens for errors from its creation until [`running`](Addon::running), but for those of traffic, which is served
/// already. It stands last in the chain, so that the other addons are up by then.
pub struct ErrorCheck {
    errors: Arc<Errors>,
    /// Print the errors again: for programs that do not print the event log.
    repeats: bool,
    _threshold: Threshold,
}

#[derive(Default)]
struct Errors {
    is_over: AtomicBool,
    seen: Mutex<Vec<LogEntry>>,
}

impl ErrorCheck {
    pub fn new(log: &EventLog, repeats: bool) -> Self {
        let errors = Arc::new(Errors::default());
        let sink = errors.clone();
        let threshold = log.subscribe_from(Level::Error, move |entry| {
            if !entry.is_traffic && !sink.is_over.load(Ordering::Acquire) {
                let mut seen = sink.seen.lock();
                if seen.len() < MAX_REPEATED {
                    seen.push(entry.clone());
                }
            }
        });
        Self { errors, repeats, _threshold: threshold }
    }

    /// Returns the exit code if there were errors, having said so on standard error.
    pub fn check(&self) -> Option<i32> {
        // If standard error is closed nobody can be told, and the exit code says it.
        let _ = io::stderr().write_all(self.report()?.as_bytes());
        Some(1)
    }

    fn report(&self) -> Option<String> {
        let seen = self.errors.seen.lock();
        let plural = match seen.len() {
            0 => return None,
            1 => "",
            _ => "s",
        };
        if !self.repeats {
            return Some(format!("Error{plural} logged during startup, exiting...\n"));
        }
        let errors = seen.iter().map(|entry| format!("{}\n", many_lines(&entry.msg)));
        Some(format!("Error{plural} logged during startup:\n{}", errors.collect::<String>()))
    }
}

impl Addon for ErrorCheck {
    fn name(&self) -> &'static str {
        "errorcheck"
    }

    fn running(&self) -> Outcome {
        self.errors.is_over.store(true, Ordering::Release);
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(log: &EventLog, level: Level, msg: &str) {
        let is_traffic = msg.contains("disk full");
        let msg = msg.to_owned();
        log.add(&LogEntry { level, client: None, msg, timestamp: 0.0, is_traffic });
    }

    #[test]
    fn errors_count_until_the_start_is_over() {
        let events = EventLog::default();
        let check = ErrorCheck::new(&events, false);
        log(&events, Level::Warn, "not so bad");
        log(&events, Level::Error, "disk full");
        assert_eq!(check.check(), None);
        log(&events, Level::Error, "bad");
        assert_eq!(check.report().unwrap(), "Error logged during startup, exiting...\n");
        log(&events, Level::Error, "worse");
        assert_eq!(check.report().unwrap(), "Errors logged during startup, exiting...\n");
        assert_eq!(check.check(), Some(1));

        let check = ErrorCheck::new(&events, true);
        drop(check.running());
        log(&events, Level::Error, "late");
        assert_eq!(check.check(), None);
    }

    #[test]
    fn errors_can_be_repeated() {
        let events = EventLog::default();
        let check = ErrorCheck::new(&events, true);
        log(&events, Level::Error, "bad\x1b");
        log(&events, Level::Error, "worse");
        assert_eq!(check.report().unwrap(), "Errors logged during startup:\nbad.\nworse\n");
    }
}
