//! [`Options`]: the registry of options and the way they change.
//!
//! Reading takes no lock: a reader looks at an immutable snapshot. A change is a *transaction*:
//!
//! 1. wait until no other transaction runs;
//! 2. check every new value, and publish a snapshot that has them all;
//! 3. call the subscriber with the names that were set (also those set to the value they had);
//! 4. if it refuses, publish the old values again, call it once more with the same names, so that
//!    what it derived from them goes back too, and return its error.
//!
//! No lock is held during 3 and 4, and readers see the candidate meanwhile. The subscriber may
//! change options itself: such a *nested* transaction runs at once, inside the outer one, and is
//! undone with it. Nested is what comes from the thread of the outer transaction, or from a thread
//! that entered it by a [`Ticket`] (a thread to which the subscriber handed work and for which it
//! waits). Any other thread waits its turn, for a limited time.
//!
//! **Start-up.** Names that no option has yet go to the *deferred table*: a script may declare them
//! later. The last call wins, in the table as elsewhere; so a program whose command line is to beat
//! the configuration file calls [`load_config`](Options::load_config), then
//! [`set_specs`](Options::set_specs) with `--set` (deferring), then [`update`](Options::update) with
//! its other flags, and [`apply_deferred`](Options::apply_deferred) whenever options were
//! registered. When everything is loaded, [`unknown_deferred`](Options::unknown_deferred) says what
//! nobody declared. Where the file is (`confdir`) the program must find out before, from its flags.
//!
//! What is not here: what values mean. Whoever reads an option checks it in its subscriber.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use mitm_flow::Value;
use parking_lot::{Condvar, Mutex};

use crate::{
    Declare, Opt, OptType, OptionDecl, OptionType, OptionValue, OptionsError, compat, spec,
};

/// How long a transaction waits for the one before it.
const BUSY_AFTER: Duration = Duration::from_mins(1);

/// How many transactions may run inside one another.
const MAX_DEPTH: usize = 16;

/// Told of changes; may refuse them. The options it is given hold the candidate values.
pub type ConfigureFn =
    Arc<dyn Fn(&Options, &BTreeSet<String>) -> Result<(), OptionsError> + Send + Sync>;

/// The registry. Clones lead to the same one.
#[derive(Clone)]
pub struct Options(Arc<Inner>);

struct Inner {
    snapshot: ArcSwap<Snapshot>,
    subscriber: ArcSwapOption<ConfigureFn>,
    state: Mutex<State>,
    /// Notified when a transaction ends.
    ended: Condvar,
    busy_after: Duration,
}

type Snapshot = BTreeMap<Arc<str>, Entry>;

#[derive(Clone)]
struct Entry {
    decl: Arc<OptionDecl>,
    value: Arc<OptionValue>,
}

#[derive(Default)]
struct State {
    deferred: DeferredTable,
    running: Option<Running>,
    /// Counts transactions, to tell a ticket for an old one.
    last_id: u64,
}

struct Running {
    id: u64,
    /// The threads whose transactions are nested in this one.
    threads: Vec<ThreadId>,
    /// What to put back on failure; one frame per transaction inside another.
    frames: Vec<Frame>,
}

/// The values before a transaction, of the options it set.
type Frame = BTreeMap<Arc<str>, (OptionType, Arc<OptionValue>)>;

type DeferredTable = BTreeMap<String, Deferred>;

/// A value for an option that does not exist yet.
#[derive(Clone)]
enum Deferred {
    /// From `--set`: read when the type is known.
    Specs(Vec<String>),
    /// From a configuration file.
    Value { value: Value, origin: Origin },
}

/// Where in a configuration file a value stood.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) path: Option<Arc<str>>,
    /// From 1; 0 if the value is not from a file.
    pub(crate) line: u64,
}

impl Origin {
    fn wrap(&self, error: OptionsError) -> OptionsError {
        if self.line == 0 {
            return error;
        }
        let error = OptionsError::Line { line: self.line, error: Box::new(error) };
        match &self.path {
            None => error,
            Some(path) => OptionsError::Read { path: path.to_string(), reason: error.to_string() },
        }
    }
}

/// A name that was set but that no option has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownOption {
    pub name: String,
    /// The configuration file and the line, if it was set there; else it was set by `--set`.
    pub origin: Option<String>,
}

/// Changes and new entries of the deferred table.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<(String, OptionValue)>,
    deferred: Vec<(String, Deferred)>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Makes an empty registry.
    pub fn new() -> Self {
        Self::with_patience(BUSY_AFTER)
    }

    fn with_patience(busy_after: Duration) -> Self {
        Self(Arc::new(Inner {
            snapshot: ArcSwap::default(),
            subscriber: ArcSwapOption::empty(),
            state: Mutex::default(),
            ended: Condvar::new(),
            busy_after,
        }))
    }

    /// Installs the one subscriber; it is not called for what was set before.
    pub fn on_change(&self, subscriber: ConfigureFn) {
        self.0.subscriber.store(Some(Arc::new(subscriber)));
    }

    /// Adds an option, with its default as value, and returns a warning if it replaced one.
    ///
    /// The same declaration again changes nothing. The subscriber is not called: an option that just
    /// came into being has its default.
    pub fn register(&self, decl: OptionDecl) -> Option<String> {
        let _lock = self.0.state.lock();
        let mut snapshot = Snapshot::clone(&self.0.snapshot.load());
        let name = decl.name().clone();
        let replaces = match snapshot.get(&name) {
            Some(old) if *old.decl == decl => return None,
            old => old.is_some(),
        };
        let value = Arc::new(decl.default().clone());
        snapshot.insert(name.clone(), Entry { decl: Arc::new(decl), value });
        self.0.snapshot.store(Arc::new(snapshot));
        replaces.then(|| format!("Over-riding existing option {name}"))
    }

    /// Adds several options; returns the warnings.
    pub fn register_all(&self, decls: &[&dyn Declare]) -> Vec<String> {
        decls.iter().filter_map(|decl| self.register(decl.decl())).collect()
    }

    /// Returns the value of an option, or its default if it is not registered.
    pub fn get<T: OptType>(&self, option: &Opt<T>) -> T {
        let snapshot = self.0.snapshot.load();
        let value = snapshot.get(option.name()).and_then(|entry| T::from_value(&entry.value));
        value.unwrap_or_else(|| option.default())
    }

    /// Returns the value of the option called `name`.
    pub fn get_value(&self, name: &str) -> Option<OptionValue> {
        self.0.snapshot.load().get(name).map(|entry| OptionValue::clone(&entry.value))
    }

    /// Returns the declaration of the option called `name`.
    pub fn decl(&self, name: &str) -> Option<Arc<OptionDecl>> {
        self.0.snapshot.load().get(name).map(|entry| entry.decl.clone())
    }

    /// Returns whether an option is called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.0.snapshot.load().contains_key(name)
    }

    /// Returns the names of all options, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.0.snapshot.load().keys().cloned().collect()
    }

    /// Returns all options with their values, sorted by name, as of one moment.
    pub fn all(&self) -> Vec<(Arc<OptionDecl>, OptionValue)> {
        let snapshot = self.0.snapshot.load();
        let pair = |entry: &Entry| (entry.decl.clone(), OptionValue::clone(&entry.value));
        snapshot.values().map(pair).collect()
    }

    /// Returns the default of every option, sorted by name.
    pub fn defaults(&self) -> Vec<(Arc<str>, OptionValue)> {
        let snapshot = self.0.snapshot.load();
        snapshot.iter().map(|(name, e)| (name.clone(), e.decl.default().clone())).collect()
    }

    /// Returns whether the option called `name` has another value than its default.
    pub fn has_changed(&self, name: &str) -> Option<bool> {
        self.0.snapshot.load().get(name).map(|entry| *entry.value != *entry.decl.default())
    }

    /// Sets options, all or none.
    pub fn update(&self, changes: Vec<(String, OptionValue)>) -> Result<(), OptionsError> {
        self.transact(|snapshot, _| {
            let known = |(name, _): &&(String, _)| !snapshot.contains_key(name.as_str());
            let unknown: Vec<_> = changes.iter().filter(known).map(|(n, _)| n.clone()).collect();
            if !unknown.is_empty() {
                return Err(OptionsError::Unknown(unknown));
            }
            Ok(Plan { changes, ..Plan::default() })
        })
    }

    /// Sets one declared option.
    pub fn set<T: OptType>(&self, option: &Opt<T>, value: T) -> Result<(), OptionsError> {
        self.update(vec![option.to(value)])
    }

    /// Sets those options that exist and returns the names that none has.
    pub fn update_known(
        &self,
        changes: Vec<(String, OptionValue)>,
    ) -> Result<Vec<String>, OptionsError> {
        let mut unknown = Vec::new();
        self.transact(|snapshot, _| {
            let (changes, rest): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|(name, _)| snapshot.contains_key(name.as_str()));
            unknown = rest.into_iter().map(|(name, _)| name).collect();
            Ok(Plan { changes, ..Plan::default() })
        })?;
        Ok(unknown)
    }

    /// Sets those options that exist and keeps the rest until they do.
    pub fn update_defer(&self, changes: Vec<(String, OptionValue)>) -> Result<(), OptionsError> {
        self.transact(|snapshot, _| {
            let mut plan = Plan::default();
            for (name, value) in changes {
                if snapshot.contains_key(name.as_str()) {
                    plan.changes.push((name, value));
                } else {
                    let origin = Origin { path: None, line: 0 };
                    plan.deferred.push((name, Deferred::Value { value: value.to_value(), origin }));
                }
            }
            Ok(plan)
        })
    }

    /// Sets options as `--set` and the command `set` write them, and returns warnings (about old
    /// names of options, which are understood).
    ///
    /// | spec | bool | str | optional str | int | optional int | sequence |
    /// |---|---|---|---|---|---|---|
    /// | `name` | true | – | null | – | null | empty |
    /// | `name=` | true | empty | empty | – | null | one empty string |
    /// | `name=x` | `true`, `false`, `toggle` | `x` | `x` | a number | a number | `x` |
    ///
    /// Several specs of one name make a list; they replace what the list held. Names that no option
    /// has are an error, or kept until one does if `defer` is set.
    pub fn set_specs<S: AsRef<str>>(
        &self,
        specs: &[S],
        defer: bool,
    ) -> Result<Vec<String>, OptionsError> {
        let mut warnings = Vec::new();
        let grouped = spec::group(specs);
        self.transact(|snapshot, _| {
            let mut plan = Plan::default();
            let mut unknown = Vec::new();
            for (name, values) in grouped {
                if let Some(entry) = snapshot.get(name.as_str()) {
                    let value = spec::parse(&entry.decl, &values, &entry.value)?;
                    plan.changes.push((name, value));
                } else if let Some(upgraded) = compat::upgrade_spec(&name, &values)? {
                    warnings.push(upgraded.warning);
                    for (name, value) in upgraded.entries {
                        let origin = Origin { path: None, line: 0 };
                        plan.set_or_defer(snapshot, name.to_owned(), value, origin)?;
                    }
                } else if defer {
                    plan.deferred.push((name, Deferred::Specs(values)));
                } else {
                    unknown.push(name);
                }
            }
            if unknown.is_empty() { Ok(plan) } else { Err(OptionsError::Unknown(unknown)) }
        })?;
        Ok(warnings)
    }

    /// Sets what a configuration file holds; unknown names are kept until an option has them.
    pub(crate) fn set_entries(
        &self,
        entries: Vec<(String, Value, Origin)>,
    ) -> Result<(), OptionsError> {
        self.transact(|snapshot, _| {
            let mut plan = Plan::default();
            for (name, value, origin) in entries {
                let line = origin.line;
                plan.set_or_defer(snapshot, name, value, origin)
                    .map_err(|error| OptionsError::Line { line, error: Box::new(error) })?;
            }
            Ok(plan)
        })
    }

    /// Sets the options of the deferred table that exist by now.
    ///
    /// They leave the table also if they are refused, so that the next call is not refused for them.
    pub fn apply_deferred(&self) -> Result<(), OptionsError> {
        let is_ready = |snapshot: &Snapshot, name: &str| snapshot.contains_key(name);
        {
            let state = self.0.state.lock();
            let snapshot = self.0.snapshot.load();
            if !state.deferred.keys().any(|name| is_ready(&snapshot, name)) {
                return Ok(());
            }
        }
        self.transact(|snapshot, deferred| {
            let mut plan = Plan::default();
            let ready: Vec<_> =
                deferred.extract_if(.., |name, _| is_ready(snapshot, name)).collect();
            for (name, deferred) in ready {
                let Some(entry) = snapshot.get(name.as_str()) else { continue };
                let value = match deferred {
                    Deferred::Specs(values) => spec::parse(&entry.decl, &values, &entry.value)?,
                    Deferred::Value { value, origin } => {
                        read_value(&entry.decl, value).map_err(|error| origin.wrap(error))?
                    }
                };
                plan.changes.push((name, value));
            }
            Ok(plan)
        })
    }

    /// Returns what is left in the deferred table and worth a warning once everything is loaded.
    ///
    /// Options that another of the tools has may stand in a shared configuration file and are left
    /// out.
    pub fn unknown_deferred(&self) -> Vec<UnknownOption> {
        let state = self.0.state.lock();
        let unknown = |(name, deferred): (&String, &Deferred)| {
            let origin = match deferred {
                Deferred::Specs(_) => None,
                Deferred::Value { origin, .. } if compat::is_of_another_tool(name) => {
                    return None;
                }
                Deferred::Value { origin, .. } => {
                    origin.path.as_ref().map(|path| format!("{path} line {}", origin.line))
                }
            };
            Some(UnknownOption { name: name.clone(), origin })
        };
        state.deferred.iter().filter_map(unknown).collect()
    }

    /// Sets every option to its default.
    pub fn reset(&self) -> Result<(), OptionsError> {
        self.transact(|snapshot, _| {
            let changes = snapshot.iter().map(|(n, e)| (n.to_string(), e.decl.default().clone()));
            Ok(Plan { changes: changes.collect(), ..Plan::default() })
        })
    }

    /// Sets one option to its default.
    pub fn reset_one(&self, name: &str) -> Result<(), OptionsError> {
        self.transact(|snapshot, _| {
            let entry = snapshot
                .get(name)
                .ok_or_else(|| OptionsError::invalid(format!("No such option: {name}")))?;
            let changes = vec![(name.to_owned(), entry.decl.default().clone())];
            Ok(Plan { changes, ..Plan::default() })
        })
    }

    /// Returns a ticket to the running transaction, if this thread takes part in it.
    pub fn ticket(&self) -> Option<Ticket> {
        let state = self.0.state.lock();
        let running = state.running.as_ref()?;
        let takes_part = running.threads.contains(&thread::current().id());
        takes_part.then(|| Ticket { options: self.clone(), id: running.id })
    }

    fn transact(
        &self,
        plan: impl FnOnce(&Snapshot, &mut DeferredTable) -> Result<Plan, OptionsError>,
    ) -> Result<(), OptionsError> {
        let turn = self.take_turn()?;
        let names = {
            let mut state = self.0.state.lock();
            let snapshot = self.0.snapshot.load_full();
            let plan = plan(&snapshot, &mut state.deferred)?;
            self.publish(&mut state, &snapshot, plan, turn.depth)?
        };
        if names.is_empty() {
            return Ok(());
        }
        let subscriber = self.0.subscriber.load_full();
        let Some(subscriber) = subscriber else { return Ok(()) };
        let Err(error) = subscriber(self, &names) else { return Ok(()) };
        let names = self.roll_back(turn.depth, names);
        // What it says now is about values that it accepted before, so the first error is the
        // one to report.
        drop(subscriber(self, &names));
        Err(error)
    }

    /// Waits for the transaction of others to end, and begins one or a nested one.
    fn take_turn(&self) -> Result<Turn<'_>, OptionsError> {
        let me = thread::current().id();
        let deadline = Instant::now() + self.0.busy_after;
        let mut state = self.0.state.lock();
        loop {
            match &mut state.running {
                None => break,
                Some(running) if running.threads.contains(&me) => {
                    let depth = running.frames.len();
                    if depth >= MAX_DEPTH {
                        let frame = running.frames.last().into_iter().flatten();
                        let names = frame.map(|(name, _)| name.to_string()).collect();
                        return Err(OptionsError::TooDeep(names));
                    }
                    running.frames.push(Frame::new());
                    return Ok(Turn { options: self, depth });
                }
                Some(_) => {
                    if self.0.ended.wait_until(&mut state, deadline).timed_out() {
                        return Err(OptionsError::Busy);
                    }
                }
            }
        }
        state.last_id += 1;
        let id = state.last_id;
        state.running = Some(Running { id, threads: vec![me], frames: vec![Frame::new()] });
        Ok(Turn { options: self, depth: 0 })
    }

    /// Checks and publishes the planned values; returns the names.
    fn publish(
        &self,
        state: &mut State,
        snapshot: &Snapshot,
        plan: Plan,
        depth: usize,
    ) -> Result<BTreeSet<String>, OptionsError> {
        let mut next = snapshot.clone();
        let mut frame = Frame::new();
        let mut names = BTreeSet::new();
        for (name, value) in plan.changes {
            let Some(entry) = next.get_mut(name.as_str()) else {
                return Err(OptionsError::Unknown(vec![name]));
            };
            entry.decl.check(&value)?;
            let old = std::mem::replace(&mut entry.value, Arc::new(value));
            frame.entry(entry.decl.name().clone()).or_insert((entry.decl.ty(), old));
            names.insert(name);
        }
        for name in &names {
            // Set now, so an older wish for the time it would exist is void.
            state.deferred.remove(name);
        }
        state.deferred.extend(plan.deferred);
        if let Some(running) = &mut state.running
            && let Some(top) = running.frames.get_mut(depth)
        {
            *top = frame;
        }
        if !names.is_empty() {
            self.0.snapshot.store(Arc::new(next));
        }
        Ok(names)
    }

    /// Publishes the values from before the transaction at `depth`, and returns the names of all that
    /// changed since: those it set and those that nested transactions did.
    fn roll_back(&self, depth: usize, mut names: BTreeSet<String>) -> BTreeSet<String> {
        let mut state = self.0.state.lock();
        let Some(running) = &mut state.running else { return names };
        let Some(frame) = running.frames.get_mut(depth).map(std::mem::take) else { return names };
        let mut next = Snapshot::clone(&self.0.snapshot.load());
        for (name, (ty, value)) in frame {
            // An option may have been declared anew meanwhile.
            if let Some(entry) = next.get_mut(&name)
                && entry.decl.ty() == ty
            {
                entry.value = value;
            }
            names.insert(name.to_string());
        }
        self.0.snapshot.store(Arc::new(next));
        names
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let snapshot = self.0.snapshot.load();
        f.debug_map().entries(snapshot.iter().map(|(name, entry)| (name, &entry.value))).finish()
    }
}

impl Plan {
    fn set_or_defer(
        &mut self,
        snapshot: &Snapshot,
        name: String,
        value: Value,
        origin: Origin,
    ) -> Result<(), OptionsError> {
        if let Some(entry) = snapshot.get(name.as_str()) {
            let value = read_value(&entry.decl, value)?;
            self.changes.push((name, value));
        } else {
            self.deferred.push((name, Deferred::Value { value, origin }));
        }
        Ok(())
    }
}

fn read_value(decl: &OptionDecl, value: Value) -> Result<OptionValue, OptionsError> {
    let value = OptionValue::try_from(value).map_err(|kind| decl.type_error(kind))?;
    decl.check(&value)?;
    Ok(value)
}

/// A running transaction: ends when dropped, also by a panic of the subscriber.
struct Turn<'a> {
    options: &'a Options,
    /// Its index in [`Running::frames`].
    depth: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.options.0.state.lock();
        if self.depth == 0 {
            state.running = None;
            self.options.0.ended.notify_all();
        } else if let Some(running) = &mut state.running {
            // What was set inside is undone with what surrounds it.
            let depth = self.depth.min(running.frames.len());
            let inner: Vec<Frame> = running.frames.drain(depth..).collect();
            if let Some(outer) = running.frames.last_mut() {
                for (name, old) in inner.into_iter().flatten() {
                    outer.entry(name).or_insert(old);
                }
            }
        }
    }
}

/// Lets another thread take part in a transaction, for work that its own thread waits for.
#[derive(Clone, Debug)]
pub struct Ticket {
    options: Options,
    id: u64,
}

impl Ticket {
    /// Until the guard is dropped, what this thread changes is nested in the transaction. `None` if
    /// that is over.
    pub fn enter(&self) -> Option<Entered<'_>> {
        let mut state = self.options.0.state.lock();
        let running = state.running.as_mut().filter(|running| running.id == self.id)?;
        running.threads.push(thread::current().id());
        Some(Entered { ticket: self, thread: thread::current().id() })
    }
}

/// The participation of a thread in a transaction; see [`Ticket::enter`].
#[derive(Debug)]
pub struct Entered<'a> {
    ticket: &'a Ticket,
    thread: ThreadId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut state = self.ticket.options.0.state.lock();
        if let Some(running) = &mut state.running
            && running.id == self.ticket.id
            && let Some(at) = running.threads.iter().rposition(|&thread| thread == self.thread)
        {
            running.threads.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
