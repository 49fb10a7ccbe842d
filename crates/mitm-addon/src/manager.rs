//! [`Manager`]: the chain of addons, and how events run down it.
//!
//! Addons are called one after the other in the order of the chain. One that needs time holds up the rest
//! of the chain for this event only. One that fails is logged, and the next is called.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use mitm_flow::FlowRef;
use mitm_proxy::hooks::{
    Direction, Event, Hook, HookFuture, HookSet, Hooks, Need, SERVER_HOOKS, Stage,
};
use tracing::error;

use crate::{
    AddonError, Outcome,
    addon::{AddonRef, dispatch},
};

/// The chain of addons.
#[derive(Default)]
pub struct Manager {
    chain: ArcSwap<Vec<Entry>>,
    /// The union of all entries' hooks.
    wanted: AtomicU64,
    servers_are_watched: AtomicBool,
}

#[derive(Clone)]
struct Entry {
    addon: AddonRef,
    hooks: HookSet,
    wants_updates: bool,
}

impl Manager {
    /// Appends an addon to the chain.
    pub fn push(&self, addon: &AddonRef) {
        self.change(|chain| {
            chain.push(Entry { addon: addon.clone(), hooks: HookSet::NONE, wants_updates: false });
        });
    }

    /// Takes the addon called `name` out of the chain.
    pub fn remove(&self, name: &str) -> Option<AddonRef> {
        let found = self.get(name)?;
        self.change(|chain| chain.retain(|entry| !Arc::ptr_eq(&entry.addon, &found)));
        Some(found)
    }

    /// Returns the addon called `name`.
    pub fn get(&self, name: &str) -> Option<AddonRef> {
        let chain = self.chain.load();
        chain.iter().find(|entry| entry.addon.name() == name).map(|entry| entry.addon.clone())
    }

    /// Returns all addons in order.
    pub fn addons(&self) -> Vec<AddonRef> {
        self.chain.load().iter().map(|entry| entry.addon.clone()).collect()
    }

    /// Asks all addons again which hooks they want.
    pub fn refresh(&self) {
        self.change(|_| ());
    }

    fn change(&self, change: impl Fn(&mut Vec<Entry>)) {
        self.chain.rcu(|chain| {
            let mut chain = Vec::clone(chain);
            change(&mut chain);
            for entry in &mut chain {
                entry.hooks = entry.addon.hooks();
                entry.wants_updates = entry.addon.wants_updates();
            }
            chain
        });
        let chain = self.chain.load();
        let union = chain.iter().fold(HookSet::NONE, |union, entry| union.union(entry.hooks));
        let updates = chain.iter().any(|entry| entry.wants_updates);
        // Whoever wants updates is told after every hook with a flow, so all of them are wanted.
        let wanted = if updates { union.union(HookSet::ALL) } else { union };
        self.wanted.store(wanted.bits(), Ordering::Release);
        let watched = chain
            .iter()
            .any(|entry| !entry.addon.is_built_in() && entry.hooks.intersects(SERVER_HOOKS));
        self.servers_are_watched.store(watched, Ordering::Release);
    }

    /// Tells those who want to know that flows changed.
    pub fn update(&self, flows: &[FlowRef]) {
        for entry in self.chain.load().iter().filter(|entry| entry.wants_updates) {
            entry.addon.update(flows);
        }
    }
}

/// True if `entry` is to be called for an event of `stage`.
fn takes_part(entry: &Entry, event: &Event, stage: Stage) -> bool {
    if !entry.hooks.has(event.hook()) {
        return false;
    }
    let direction = match event.hook() {
        Hook::Request => Direction::Request,
        Hook::Response => Direction::Response,
        _ => return true,
    };
    match (stage, event.flow()) {
        (Stage::Whole, _) | (_, None) => true,
        (Stage::Head, Some(flow)) => entry.addon.need(flow, direction) == Need::Head,
        (Stage::Tail, Some(flow)) => entry.addon.need(flow, direction) != Need::Head,
    }
}

fn report(addon: &AddonRef, error: &AddonError) {
    error!(traffic = true, "Addon error: {}: {error}", addon.name());
}

impl Hooks for Manager {
    fn wanted(&self) -> HookSet {
        HookSet::from_bits(self.wanted.load(Ordering::Acquire))
    }

    fn fire(self: Arc<Self>, event: Event, stage: Stage) -> Option<HookFuture> {
        let chain = self.chain.load_full();
        for at in 0..chain.len() {
            let entry = &chain[at];
            if !takes_part(entry, &event, stage) {
                continue;
            }
            match dispatch(&*entry.addon, &event) {
                Outcome::Done => {}
                Outcome::Failed(error) => report(&entry.addon, &error),
                Outcome::Halt => break,
                Outcome::Wait(first) => {
                    return Some(Box::pin(async move {
                        if let Err(error) = first.await {
                            report(&chain[at].addon, &error);
                        }
                        for entry in &chain[at + 1..] {
                            if !takes_part(entry, &event, stage) {
                                continue;
                            }
                            match dispatch(&*entry.addon, &event) {
                                Outcome::Done => {}
                                Outcome::Failed(error) => report(&entry.addon, &error),
                                Outcome::Halt => break,
                                Outcome::Wait(future) => {
                                    if let Err(error) = future.await {
                                        report(&entry.addon, &error);
                                    }
                                }
                            }
                        }
                        self.after(&event);
                    }));
                }
            }
        }
        self.after(&event);
        None
    }

    fn need(&self, flow: &FlowRef, direction: Direction) -> (Need, bool) {
        let mut greatest = Need::Nothing;
        let mut changes_head = false;
        for entry in self.chain.load().iter().filter(|entry| entry.hooks != HookSet::NONE) {
            match entry.addon.need(flow, direction) {
                Need::Head => changes_head = true,
                need => greatest = greatest.max(need),
            }
        }
        (greatest, changes_head)
    }

    fn servers_are_watched(&self) -> bool {
        self.servers_are_watched.load(Ordering::Acquire)
    }
}

impl Manager {
    fn after(&self, event: &Event) {
        if let Some(flow) = event.flow() {
            self.update(std::slice::from_ref(flow));
        }
    }
}
