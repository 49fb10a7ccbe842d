//! The registries of options and of commands.
//!
//! Command line, configuration file, console, web UI and scripts read and write the same two
//! registries, which the addons fill with typed declarations:
//!
//! - [`Options`]: named values that change in transactions. Declared by [`Opt`] (or [`OptionDecl`]
//!   at run time), set by `--set` specs, a YAML [configuration file](Options::load_config) or
//!   [`Options::update`], read without locks.
//! - [`Commands`]: named functions. Called from a line of text, whose words are read by the types of
//!   the [parameters](CommandDecl), or with ready values.
//!
//! What values mean is not known here: who declares an option checks it, who declares a command
//! carries it out. Nothing here starts threads or opens sockets; configuration files are read, and
//! directories listed to complete paths.

pub mod command;
mod compat;
mod config;
pub mod core;
mod decl;
mod dump;
mod error;
mod registry;
mod size;
mod spec;
mod text;
mod value;

pub use crate::{
    command::{
        ArgType, ArgValue, Args, Cell, CommandDecl, CommandError, Commands, Completion, Handler,
        Param, RetValue,
    },
    compat::is_single_user,
    config::FILE_NAMES,
    core::register_core,
    decl::{Declare, Opt, OptType, OptionDecl},
    dump::help_line,
    error::OptionsError,
    registry::{ConfigureFn, Entered, Options, Ticket, UnknownOption},
    size::parse_size,
    text::expand_user,
    value::{OptionType, OptionValue},
};
