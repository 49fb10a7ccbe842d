//! The event log: what the engine and the addons report, as lines for people.
//!
//! Everything is reported through `tracing`; [`EventLog`] is the layer that turns events into [`LogEntry`]s and
//! hands them to the sinks. Three fields have a meaning: `client` is the address shown in front of the line, `alert`
//! lifts an information to an alert, and `traffic` says that the program itself is in order.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use arc_swap::ArcSwap;
use tracing::{Event, Metadata, Subscriber, field::Field};
use tracing_subscriber::{Layer, layer::Context};

/// The severity of an entry, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Debug,
    Info,
    Alert,
    Warn,
    Error,
}

impl Level {
    /// The names users know, from the most severe.
    pub const NAMES: &[&str] = &["error", "warn", "info", "alert", "debug"];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Alert => "alert",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Debug, Self::Info, Self::Alert, Self::Warn, Self::Error]
            .into_iter()
            .find(|level| level.as_str() == name)
    }
}

/// One line of the event log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    pub level: Level,
    /// The client connection it is about.
    pub client: Option<String>,
    pub msg: String,
    /// Unix seconds.
    pub timestamp: f64,
    /// Something went wrong with what passes the proxy, which is no reason not to start: the listeners are up before
    /// the start is over.
    pub is_traffic: bool,
}

type Call = Arc<dyn Fn(&LogEntry) + Send + Sync>;

#[derive(Clone)]
struct Sink {
    call: Call,
    /// What it wants to see, if it says so.
    level: Option<Arc<AtomicU8>>,
}

/// Collects entries and passes them to the sinks. Clones share the sinks.
#[derive(Clone)]
pub struct EventLog(Arc<Inner>);

struct Inner {
    sinks: ArcSwap<Vec<Sink>>,
    /// What [`EventLog::set_minimum`] asked for, or [`UNSET`].
    asked: AtomicU8,
    /// The lowest level that somebody wants.
    minimum: AtomicU8,
}

const UNSET: u8 = u8::MAX;

impl Default for EventLog {
    fn default() -> Self {
        Self(Arc::new(Inner {
            sinks: ArcSwap::from_pointee(Vec::new()),
            asked: AtomicU8::new(UNSET),
            minimum: AtomicU8::new(Level::Info as u8),
        }))
    }
}

/// The level from which on a sink sees entries, see [`EventLog::subscribe_from`].
#[must_use]
pub struct Threshold {
    log: EventLog,
    level: Arc<AtomicU8>,
}

impl Threshold {
    pub fn set(&self, level: Level) {
        self.level.store(level as u8, Ordering::Relaxed);
        self.log.find_minimum();
    }
}

impl EventLog {
    /// Calls `sink` for each entry from now on.
    pub fn subscribe(&self, sink: impl Fn(&LogEntry) + Send + Sync + 'static) {
        self.push(&Sink { call: Arc::new(sink), level: None });
    }

    /// Calls `sink` for each entry of at least `level` from now on. Entries that no sink wants are not made.
    pub fn subscribe_from(
        &self,
        level: Level,
        sink: impl Fn(&LogEntry) + Send + Sync + 'static,
    ) -> Threshold {
        let level = Arc::new(AtomicU8::new(level as u8));
        self.push(&Sink { call: Arc::new(sink), level: Some(level.clone()) });
        self.find_minimum();
        Threshold { log: self.clone(), level }
    }

    fn push(&self, sink: &Sink) {
        self.0.sinks.rcu(|sinks| {
            let mut sinks = Vec::clone(sinks);
            sinks.push(sink.clone());
            sinks
        });
    }

    /// Leaves out entries below `level` before they are made, unless a sink asked for them.
    pub fn set_minimum(&self, level: Level) {
        self.0.asked.store(level as u8, Ordering::Relaxed);
        self.find_minimum();
    }

    fn find_minimum(&self) {
        let sinks = self.0.sinks.load();
        let wanted = sinks.iter().filter_map(|sink| sink.level.as_ref());
        let minimum = wanted
            .map(|level| level.load(Ordering::Relaxed))
            .fold(self.0.asked.load(Ordering::Relaxed), u8::min);
        let minimum = if minimum == UNSET { Level::Info as u8 } else { minimum };
        if self.0.minimum.swap(minimum, Ordering::Relaxed) != minimum {
            // What was asked about an event before is remembered beside it.
            tracing::callsite::rebuild_interest_cache();
        }
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            // It may turn out to be an alert.
            tracing::Level::INFO if metadata.fields().field("alert").is_some() => Level::Alert,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        level as u8 >= self.0.minimum.load(Ordering::Relaxed)
            && metadata.target().starts_with("mitm")
    }

    /// Passes an entry to the sinks.
    pub fn add(&self, entry: &LogEntry) {
        for sink in self.0.sinks.load().iter() {
            let from = sink.level.as_ref().map_or(0, |level| level.load(Ordering::Relaxed));
            if entry.level as u8 >= from {
                (sink.call)(entry);
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for EventLog {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO if line.alert => Level::Alert,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        let Line { msg, client, traffic, .. } = line;
        let timestamp = mitm_flow::now();
        self.add(&LogEntry { level, client, msg, timestamp, is_traffic: traffic });
    }
}

#[derive(Default)]
struct Line {
    msg: String,
    client: Option<String>,
    alert: bool,
    traffic: bool,
}

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.msg.insert_str(0, &format!("{value:?}")),
            "client" => self.client = Some(format!("{value:?}")),
            "alert" => self.alert = format!("{value:?}") == "true",
            name => {
                // Writing to a string does not fail.
                let _ = write!(self.msg, " {name}={value:?}");
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.msg.insert_str(0, value),
            "client" => self.client = Some(value.to_owned()),
            name => {
                let _ = write!(self.msg, " {name}={value}");
            }
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "alert" => self.alert = value,
            "traffic" => self.traffic = value,
            name => {
                let _ = write!(self.msg, " {name}={value}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn events_become_entries() {
        let log = EventLog::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        log.subscribe(move |entry| sink.lock().push(entry.clone()));
        let subscriber = tracing_subscriber::registry().with(log);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(client = %"1.2.3.4:5", "client connect");
            tracing::info!(alert = true, "saved {} flows", 3);
            tracing::error!(traffic = true, "disk full");
            tracing::debug!("too fine");
        });
        let seen = seen.lock();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[0].client.as_deref(), Some("1.2.3.4:5"));
        assert_eq!((seen[0].level, seen[0].msg.as_str()), (Level::Info, "client connect"));
        assert_eq!((seen[1].level, seen[1].msg.as_str()), (Level::Alert, "saved 3 flows"));
        assert_eq!((seen[2].level, seen[2].msg.as_str()), (Level::Error, "disk full"));
        assert!(seen[2].is_traffic && !seen[1].is_traffic);
    }

    #[test]
    fn each_sink_has_its_own_threshold() {
        let log = EventLog::default();
        let (fine, coarse) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let count = |counter: &Arc<Mutex<i32>>| {
            let counter = Arc::clone(counter);
            move |_: &LogEntry| *counter.lock() += 1
        };
        let threshold = log.subscribe_from(Level::Warn, count(&fine));
        let _errors = log.subscribe_from(Level::Error, count(&coarse));
        let subscriber = tracing_subscriber::registry().with(log);
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..2 {
                tracing::debug!("fine");
                tracing::error!("coarse");
                threshold.set(Level::Debug);
            }
        });
        assert_eq!((*fine.lock(), *coarse.lock()), (3, 2));
    }
}
