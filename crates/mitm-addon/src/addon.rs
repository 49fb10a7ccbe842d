//! [`Addon`]: what a feature implements.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use mitm_flow::{Client, FlowRef, Shared};
use mitm_options::{Options, OptionsError};
use mitm_proxy::{
    for_each_hook,
    hooks::{
        ClientHelloData, Direction, Event, HookSet, Need, NextLayerData, ServerData,
        Socks5AuthData, TlsData,
    },
};
use thiserror::Error;

use crate::{LogEntry, Master};

/// What went wrong in an addon. It is logged with the addon's name; the flow goes on.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct AddonError(pub String);

impl AddonError {
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The end of a hook that needed time.
pub type HookResult = Result<(), AddonError>;

/// What a hook returns.
#[must_use]
pub enum Outcome {
    Done,
    /// The rest is done by the future, which the engine awaits before it goes on.
    Wait(Pin<Box<dyn Future<Output = HookResult> + Send>>),
    Failed(AddonError),
    /// The addons further down the chain are not told about this event.
    Halt,
}

impl Outcome {
    /// Makes an outcome that is done when `future` is.
    pub fn wait(future: impl Future<Output = HookResult> + Send + 'static) -> Self {
        Self::Wait(Box::pin(future))
    }
}

impl From<HookResult> for Outcome {
    fn from(result: HookResult) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) => Self::Failed(error),
        }
    }
}

/// Given to [`Addon::load`].
pub struct Loader<'a> {
    pub master: &'a Master,
}

macro_rules! define {
    ($($(#[$doc:meta])* $variant:ident $name:ident($payload:ty);)*) => {
        /// A feature. Every method has a default that does nothing.
        ///
        /// First come the methods of its life; `load` is called once, `configure` after it and after each change of an
        /// option, `running` when the listeners are up, `done` at the end. Then follow the hooks, in the order
        /// of a connection's life. A hook is called only if [`hooks`](Addon::hooks) names it; the engine
        /// waits for it, and for flow hooks also while the flow is intercepted after it. Hooks run on
        /// the engine's threads, many at once: state needs a lock, and what takes long belongs into
        /// [`Outcome::Wait`].
        pub trait Addon: Send + Sync + 'static {
            /// Returns the name, as in error messages and look-ups.
            fn name(&self) -> &str;

            /// Called once, before anything else: the place to register options and commands.
            fn load(&self, _loader: &Loader<'_>) -> HookResult {
                Ok(())
            }

            /// Options changed; at the start with the names of all. An error rolls the change back.
            ///
            /// # Errors
            /// A value is not valid: the message names the option and what is valid.
            fn configure(&self, _options: &Options, _updated: &BTreeSet<String>) -> Result<(), OptionsError> {
                Ok(())
            }

            /// The proxy is up.
            fn running(&self) -> Outcome {
                Outcome::Done
            }

            /// The proxy has stopped, or the addon is removed.
            fn done(&self) -> Outcome {
                Outcome::Done
            }

            /// Flows changed, by a hook or a command. Called only if [`wants_updates`](Addon::wants_updates).
            fn update(&self, _flows: &[FlowRef]) {}

            fn wants_updates(&self) -> bool {
                false
            }

            /// A line for the event log. Nothing may be logged here.
            fn add_log(&self, _entry: &LogEntry) {}

            /// Returns the hooks to be called; asked again after each `configure`.
            fn hooks(&self) -> HookSet {
                HookSet::NONE
            }

            /// Returns what this addon wants of the body of this message of `flow`, whose head is known. Of a TCP flow,
            /// which has begun: whether messages are looked at after their hook (see [`Need`]).
            fn need(&self, _flow: &FlowRef, _direction: Direction) -> Need {
                Need::Nothing
            }

            /// False for addons that users bring: while such a one listens to server hooks, connections are not
            /// shared.
            fn is_built_in(&self) -> bool {
                true
            }

            $($(#[$doc])* fn $name(&self, _data: &$payload) -> Outcome {
                Outcome::Done
            })*
        }

        /// Calls the method of `addon` that `event` is for.
        pub fn dispatch(addon: &dyn Addon, event: &Event) -> Outcome {
            match event {
                $(Event::$variant(data) => addon.$name(data),)*
            }
        }
    };
}

for_each_hook!(define);

/// How addons are kept.
pub type AddonRef = Arc<dyn Addon>;
