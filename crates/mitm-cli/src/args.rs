//! From words to [`Args`]: what a command line asks for, with every option already under its name of today.
//!
//! Pure but for the width of the terminal: nothing is read, printed or set here. What is wrong comes back as a
//! [`clap::Error`] that is ready to print, with advice for those who come from another version.

use std::ffi::OsString;

use clap::{
    ArgMatches, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};
use indexmap::IndexMap;
use mitm_options::{OptionValue, is_single_user};
use mitm_proxy::Mode;

use crate::{
    flags::{self, Does, FILTER, Flag, Special, TABLE, Takes, Tool},
    not_yet,
};

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    #[default]
    Run,
    /// Print this, and exit.
    Version,
    ShortVersion,
    Options,
    Commands,
}

/// What a command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    pub action: Action,
    /// Read in place of the usual configuration files.
    pub conf: Option<String>,
    /// What `--confdir` says, else `--set confdir`.
    pub confdir: Option<String>,
    /// The arguments of `--set`.
    pub set: Vec<String>,
    /// The same for options of 2.0 that became several.
    pub old: Vec<String>,
    /// What the other flags say. They win over `set`.
    pub options: IndexMap<String, OptionValue>,
    /// The words after the flags.
    pub filter: Option<String>,
}

impl Args {
    fn option(&mut self, name: &str, value: impl Into<OptionValue>) {
        self.options.insert(name.to_owned(), value.into());
    }
}

/// Reads a command line; its first word is the program.
///
/// # Errors
/// A usage error, or the help: both are to be printed.
pub fn parse<I, W>(tool: Tool, words: I, width: usize) -> Result<Args, clap::Error>
where
    I: IntoIterator<Item = W>,
    W: Into<OsString> + Clone,
{
    let mut command = flags::command(tool, width);
    let matches = command
        .try_get_matches_from_mut(words)
        .map_err(|error| explain(tool, &mut command, error))?;
    refuse_later(tool, &mut command, &matches)?;
    let mut args = Args::default();
    for flag in flags::of(tool) {
        apply(flag, &matches, &mut args);
    }
    if tool == Tool::Mitmdump
        && let Some(words) = matches.get_many::<String>(FILTER)
    {
        args.filter = Some(words.map(String::as_str).collect::<Vec<_>>().join(" "));
    }
    if let Some(OptionValue::Strs(modes)) = args.options.get("mode")
        && let Some(error) =
            modes.iter().filter_map(|spec| Mode::parse(spec).err()).find(is_planned)
    {
        let message = format!("--mode {}: {}", error.spec, not_yet::MESSAGE);
        return Err(command.error(ErrorKind::InvalidValue, message));
    }
    if let Ok(Some(spec)) = matches.try_get_one::<String>("singleuser")
        && !is_single_user(spec)
    {
        let message = "--singleuser: Invalid single-user auth specification: valid is USER:PASSWORD, and --proxyauth \
                       takes other kinds.";
        return Err(command.error(ErrorKind::InvalidValue, message));
    }
    if args.confdir.is_none() {
        let confdir = |spec: &String| spec.strip_prefix("confdir=").map(str::to_owned);
        args.confdir = args.set.iter().rev().find_map(confdir);
    }
    Ok(args)
}

fn is_planned(error: &mitm_proxy::ModeError) -> bool {
    error.is_planned()
}

/// Refuses flags whose features are yet to come.
fn refuse_later(
    tool: Tool,
    command: &mut Command,
    matches: &ArgMatches,
) -> Result<(), clap::Error> {
    let later: Vec<_> =
        flags::of(tool).filter(|flag| flag.is_later() && is_given(flag, matches)).collect();
    if later.is_empty() {
        return Ok(());
    }
    let mut message: Vec<_> =
        later.iter().map(|flag| format!("{}: {}", spelled(flag), not_yet::MESSAGE)).collect();
    if later.iter().any(|flag| flag.long == "server-replay") && is_true(matches, "ssl-insecure") {
        message.push(
            "note: -k is short for --ssl-insecure, and no longer for --replay-kill-extra"
                .to_owned(),
        );
    }
    Err(command.error(ErrorKind::InvalidValue, message.join("\n")))
}

/// Returns whether the flag itself, not its opposite, is on the command line.
fn is_given(flag: &Flag, matches: &ArgMatches) -> bool {
    matches.value_source(flag.long) == Some(clap::parser::ValueSource::CommandLine)
}

fn is_true(matches: &ArgMatches, id: &str) -> bool {
    matches.try_get_one::<bool>(id).is_ok_and(|value| value == Some(&true))
}

/// Returns `--long (-x, -y)`.
fn spelled(flag: &Flag) -> String {
    let shorts: Vec<_> = flag.shorts.iter().map(|short| format!("-{short}")).collect();
    if shorts.is_empty() {
        format!("--{}", flag.long)
    } else {
        format!("--{} ({})", flag.long, shorts.join(", "))
    }
}

fn apply(flag: &Flag, matches: &ArgMatches, args: &mut Args) {
    if let (Does::Switch(option, value), Some(opposite)) = (flag.does, flag.opposite_id())
        && is_true(matches, opposite)
    {
        args.option(option, !value);
    }
    if !is_given(flag, matches) {
        return;
    }
    let text = || matches.get_one::<String>(flag.long).cloned().unwrap_or_default();
    let list = || -> Vec<String> {
        matches.get_many::<String>(flag.long).into_iter().flatten().cloned().collect()
    };
    match flag.does {
        Does::Set(option) => match flag.takes {
            Takes::Number(_) | Takes::Port(_) => {
                args.option(option, matches.get_one::<i64>(flag.long).copied().unwrap_or_default());
            }
            Takes::Many(_) => args.option(option, list()),
            Takes::Text(_) | Takes::OneOf(..) => args.option(option, text()),
            Takes::Nothing | Takes::Count => args.option(option, true),
        },
        Does::Switch(option, value) => args.option(option, value),
        Does::Special(special) => match special {
            // Clap answers it.
            Special::Help => {}
            Special::Version => args.action = Action::Version,
            Special::ShortVersion => args.action = Action::ShortVersion,
            Special::Options => args.action = Action::Options,
            Special::Commands => args.action = Action::Commands,
            Special::Conf => args.conf = Some(text()),
            Special::Confdir => {
                args.option("confdir", text());
                args.confdir = Some(text());
            }
            Special::Set => args.set = list(),
            Special::Quiet => {
                args.option("termlog_verbosity", "error");
                args.option("flow_detail", 0);
            }
            Special::Verbose => {
                args.option("termlog_verbosity", "debug");
                args.option("flow_detail", 2);
            }
            Special::Mode => args.option("mode", list()),
            Special::ModeOf(name) => {
                let spec = match flag.takes {
                    Takes::Nothing => name.to_owned(),
                    _ => format!("{name}:{}", text()),
                };
                args.option("mode", vec![spec]);
            }
            Special::Append => args.option("save_stream_file", format!("+{}", text())),
            Special::Detail => {
                args.option("flow_detail", i64::from(matches.get_count(flag.long)).min(4));
            }
            Special::NonAnonymous => args.option("proxyauth", "any"),
            Special::SingleUser => args.option("proxyauth", text()),
            Special::Htpasswd => args.option("proxyauth", format!("@{}", text())),
            Special::Old(name) => args.old.push(format!("{name}={}", text())),
        },
        // Refused before.
        Does::Later | Does::LaterSwitch => {}
    }
}

/// Replaces what clap says about unknown flags where more is known.
fn explain(tool: Tool, command: &mut Command, error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let Some(message) = advice(tool, given) else { return error };
    command.error(ErrorKind::UnknownArgument, message)
}

/// Says about an unknown flag what its user may have meant.
fn advice(tool: Tool, given: &str) -> Option<String> {
    let is_short = !given.starts_with("--");
    let name = given.trim_start_matches('-');
    if name.is_empty() {
        return None;
    }
    let of_another = |flag: &&Flag| {
        !flag.tools.contains(&tool)
            && if is_short {
                flag.shorts.iter().any(|short| name == short.to_string())
            } else {
                spellings(flag).any(|long| long == name)
            }
    };
    if let Some(flag) = TABLE.iter().find(of_another) {
        let tools: Vec<_> = flag.tools.iter().map(|tool| tool.name()).collect();
        return Some(format!(
            "{given} is a flag of {}, not of {}",
            tools.join(" and "),
            tool.name()
        ));
    }
    if is_short {
        return None;
    }
    let candidates: Vec<_> = flags::of(tool)
        .flat_map(|flag| {
            // Several spellings of one flag are no ambiguity, but a switch and its opposite are.
            let own = flag.longs().find(|long| long.starts_with(name));
            let opposite = flag.opposite.iter().copied().find(|long| long.starts_with(name));
            [own, opposite]
        })
        .flatten()
        .map(|long| format!("--{long}"))
        .collect();
    if candidates.len() > 1 {
        return Some(format!("{given} is ambiguous: it may stand for {}", candidates.join(", ")));
    }
    let with_hyphens = name.replace('_', "-");
    if with_hyphens != name
        && flags::of(tool).any(|flag| spellings(flag).any(|long| long == with_hyphens))
    {
        return Some(format!("unknown flag {given}: it is written --{with_hyphens}"));
    }
    let option = name.replace('-', "_");
    let is_option = mitm_options::core::REGISTER.iter().any(|decl| **decl.decl().name() == *option);
    if is_option {
        return Some(format!("unknown flag {given}: use --set {option}=VALUE"));
    }
    not_yet::is_option_to_come(&option).then(|| format!("{given}: {}", not_yet::MESSAGE))
}

fn spellings(flag: &Flag) -> impl Iterator<Item = &'static str> {
    flag.longs().chain(flag.opposite.iter().copied())
}
