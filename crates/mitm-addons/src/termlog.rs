//! [`TermLog`]: prints the event log to standard output.

use std::collections::BTreeSet;

use jiff::{Timestamp, tz::TimeZone};
use mitm_addon::{Addon, HookResult, Level, Loader, LogEntry, log::Threshold};
use mitm_options::{Opt, Options, OptionsError};
use parking_lot::Mutex;

use crate::output::{Block, Flush, Output, Style, many_lines, one_line};

static TERMLOG_VERBOSITY: Opt<String> = Opt::<String>::new(
    "termlog_verbosity",
    "info",
    "The lowest severity of events that are printed. Of them, alert stands between info and warn.",
)
.choices(Level::NAMES);

/// Prints each entry as `[time][client] message`. Until its option is set it prints info and above.
pub struct TermLog {
    output: Output,
    threshold: Mutex<Option<Threshold>>,
}

impl TermLog {
    pub fn new(output: Output) -> Self {
        Self { output, threshold: Mutex::new(None) }
    }
}

impl Addon for TermLog {
    fn name(&self) -> &'static str {
        "termlog"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        loader.master.options().register_all(&[&TERMLOG_VERBOSITY]);
        self.output.report_failure_to(loader.master.downgrade());
        let output = self.output.clone();
        let threshold = loader.master.log().subscribe_from(Level::Info, move |entry| {
            output.print(line(entry, output.is_terminal()).as_str(), Flush::Now);
        });
        *self.threshold.lock() = Some(threshold);
        Ok(())
    }

    fn configure(&self, options: &Options, updated: &BTreeSet<String>) -> Result<(), OptionsError> {
        if updated.contains(TERMLOG_VERBOSITY.name())
            && let Some(level) = Level::from_name(&options.get(&TERMLOG_VERBOSITY))
            && let Some(threshold) = &*self.threshold.lock()
        {
            threshold.set(level);
        }
        Ok(())
    }
}

fn line(entry: &LogEntry, styled: bool) -> Block {
    let mut block = Block::new(styled);
    block.styled(Style::CYAN.dim(), &time_of_day(entry.timestamp));
    if let Some(client) = &entry.client {
        block.styled(Style::YELLOW.dim(), &format!("[{}]", one_line(client)));
    }
    let style = match entry.level {
        Level::Error => Style::RED,
        Level::Warn => Style::YELLOW,
        Level::Alert => Style::MAGENTA,
        Level::Info | Level::Debug => Style::PLAIN,
    };
    block.push(" ").styled(style, &many_lines(&entry.msg)).end();
    block
}

/// Returns `[HH:MM:SS.mmm]` in local time.
fn time_of_day(timestamp: f64) -> String {
    // A clock that is off by more than a few thousand years shows the beginning of time.
    let timestamp = Timestamp::from_millisecond((timestamp * 1000.0) as i64).unwrap_or_default();
    let time = timestamp.to_zoned_datetime(TimeZone::system()).time();
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    format!("[{hour:02}:{minute:02}:{second:02}.{:03}]", time.millisecond())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::testing;

    use super::*;
    use crate::output::Capture;

    fn entry(level: Level, client: Option<&str>, msg: &str) -> LogEntry {
        let (client, msg) = (client.map(Into::into), msg.into());
        LogEntry { level, client, msg, timestamp: 0.9995, is_traffic: false }
    }

    #[test]
    fn lines_have_time_and_client() {
        let text = line(&entry(Level::Info, None, "a\x1b[0m\nb"), false);
        let (time, msg) = text.as_str().split_once(' ').unwrap();
        assert_eq!(msg, "a.[0m\nb\n");
        assert!(time.starts_with('[') && time.ends_with(":00.999]") && time.len() == 14, "{time}");
        let text = line(&entry(Level::Warn, Some("1.2.3.4:5"), "client connect"), false);
        assert!(text.as_str().ends_with("][1.2.3.4:5] client connect\n"));
    }

    #[test]
    fn terminals_get_colours() {
        let shape = |level| {
            let block = line(&entry(level, Some("c"), "m"), true);
            let text = block.as_str().to_owned();
            let time = text.get(9..23).unwrap().to_owned();
            text.replace(&time, "[T]")
        };
        let prefix = "\x1b[36m\x1b[2m[T]\x1b[0m\x1b[33m\x1b[2m[c]\x1b[0m ";
        assert_eq!(shape(Level::Error), format!("{prefix}\x1b[31mm\x1b[0m\n"));
        assert_eq!(shape(Level::Alert), format!("{prefix}\x1b[35mm\x1b[0m\n"));
        assert_eq!(shape(Level::Info), format!("{prefix}m\x1b[0m\n"));
    }

    #[test]
    fn the_option_is_the_threshold() {
        let (output, capture) = Capture::output(false);
        let master = testing::master_with(Arc::new(TermLog::new(output))).unwrap();
        let printed = |level| {
            master.log().add(&entry(level, None, "x"));
            !capture.take().is_empty()
        };
        assert!(printed(Level::Info) && !printed(Level::Debug));
        testing::set(&master, &["termlog_verbosity=alert"]).unwrap();
        assert!(printed(Level::Alert) && printed(Level::Error) && !printed(Level::Info));
        testing::set(&master, &["termlog_verbosity=debug"]).unwrap();
        assert!(printed(Level::Debug));
        assert!(testing::set(&master, &["termlog_verbosity=loud"]).is_err());
    }
}
