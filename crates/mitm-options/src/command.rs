//! [`Commands`]: named functions that people, key bindings, scripts and the web UI call.
//!
//! A command is declared with its parameters, so that a line of text can be checked, completed and
//! converted before the function runs. A line is [split](lexer) into words; the first names the
//! command, the others are read by the [types](ArgType) of its parameters. Words that stand for flows
//! are resolved by the command `view.flows.resolve`, which whoever keeps the flows registers.
//!
//! No lock is held while a command runs, so commands may call commands and register more.

mod complete;
pub mod escape;
pub mod lexer;
pub mod marker;
mod types;

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use mitm_flow::FlowRef;
use thiserror::Error;

pub use self::{
    complete::{Completion, Part, PartType, Partial},
    types::ArgType,
};
use crate::text;

/// Why a command was not carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// There is no word in the line.
    #[error("Invalid command: ''")]
    Empty,

    /// No command has this name.
    #[error("Unknown command: {0}")]
    Unknown(String),

    /// Too few or too many arguments, or a ready value of another type than the parameter.
    #[error("Command argument mismatch: expected {expected}, but got {received}")]
    Mismatch { expected: String, received: String },

    /// The command broke its declaration.
    #[error("{name} returned unexpected data - expected {expected}")]
    Returned { name: String, expected: String },

    /// A word could not be read, or the command failed. The text is for the user.
    #[error("{0}")]
    Failed(Arc<str>),
}

impl CommandError {
    /// Makes the error of a command that failed.
    pub fn new(message: impl Into<Arc<str>>) -> Self {
        Self::Failed(message.into())
    }
}

impl From<crate::OptionsError> for CommandError {
    fn from(error: crate::OptionsError) -> Self {
        Self::new(error.to_string())
    }
}

/// A value given to a command.
#[derive(Clone, Debug)]
pub enum ArgValue {
    /// For the types `str`, `path`, `cmd`, `arg`, `choice` and `marker`.
    Str(String),
    Bytes(Vec<u8>),
    Int(i64),
    Bool(bool),
    /// For `str[]` and `cut[]`.
    Strs(Vec<String>),
    Flow(FlowRef),
    Flows(Vec<FlowRef>),
}

/// What a command returns.
#[derive(Clone, Debug, Default)]
pub enum RetValue {
    #[default]
    None,
    Str(String),
    Bytes(Vec<u8>),
    Int(i64),
    Bool(bool),
    Strs(Vec<String>),
    Flow(FlowRef),
    Flows(Vec<FlowRef>),
    /// Rows of a table.
    Data(Vec<Vec<Cell>>),
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Str(String),
    Bytes(Vec<u8>),
}

macro_rules! from {
    ($($type:ty => $target:ident::$variant:ident),* $(,)?) => {
        $(impl From<$type> for $target {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

from! {
    String => ArgValue::Str,
    &str => ArgValue::Str,
    i64 => ArgValue::Int,
    bool => ArgValue::Bool,
    Vec<String> => ArgValue::Strs,
    FlowRef => ArgValue::Flow,
    Vec<FlowRef> => ArgValue::Flows,
    String => RetValue::Str,
    &str => RetValue::Str,
    Vec<u8> => RetValue::Bytes,
    i64 => RetValue::Int,
    bool => RetValue::Bool,
    Vec<String> => RetValue::Strs,
    FlowRef => RetValue::Flow,
    Vec<FlowRef> => RetValue::Flows,
    Vec<Vec<Cell>> => RetValue::Data,
    String => Cell::Str,
    &str => Cell::Str,
    Vec<u8> => Cell::Bytes,
}

impl From<()> for RetValue {
    fn from((): ()) -> Self {
        Self::None
    }
}

/// A parameter of a command.
#[derive(Clone, Debug)]
pub struct Param {
    pub name: Cow<'static, str>,
    pub ty: ArgType,
    pub kind: ParamKind,
}

/// Whether a parameter must be given.
#[derive(Clone, Debug)]
pub enum ParamKind {
    Required,
    /// May be left out; then the function gets the default, or nothing if there is none here.
    Optional(Option<ArgValue>),
    /// Takes all remaining words, none included. Only the last can be of this kind.
    Rest,
}

/// As `--commands` shows it: `*name` for the rest.
impl fmt::Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if matches!(self.kind, ParamKind::Rest) { "*" } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

/// The declaration of a command.
#[derive(Clone, Debug)]
pub struct CommandDecl {
    name: Cow<'static, str>,
    params: Vec<Param>,
    returns: Option<ArgType>,
    help: Cow<'static, str>,
}

impl CommandDecl {
    /// Declares a command without parameters that returns nothing. `help` is shown to users.
    pub fn new(name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), params: Vec::new(), returns: None, help: help.into() }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn arg(self, name: impl Into<Cow<'static, str>>, ty: ArgType) -> Self {
        self.param(Param { name: name.into(), ty, kind: ParamKind::Required })
    }

    /// Adds a parameter that may be left out.
    #[must_use]
    pub fn optional(
        self,
        name: impl Into<Cow<'static, str>>,
        ty: ArgType,
        default: impl Into<ArgValue>,
    ) -> Self {
        let kind = ParamKind::Optional(Some(default.into()));
        self.param(Param { name: name.into(), ty, kind })
    }

    /// Adds a parameter that takes the remaining words, each read as `ty`.
    #[must_use]
    pub fn rest(self, name: impl Into<Cow<'static, str>>, ty: ArgType) -> Self {
        self.param(Param { name: name.into(), ty, kind: ParamKind::Rest })
    }

    /// Adds a parameter.
    #[must_use]
    pub fn param(mut self, param: Param) -> Self {
        self.params.push(param);
        self
    }

    /// Says what the command returns.
    #[must_use]
    pub fn returns(mut self, ty: ArgType) -> Self {
        self.returns = Some(ty);
        self
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    pub fn return_type(&self) -> Option<&ArgType> {
        self.returns.as_ref()
    }

    pub fn help(&self) -> &str {
        &self.help
    }

    /// Returns the line that `--commands` prints: name, parameters and the type returned.
    pub fn signature(&self) -> String {
        let mut line = self.name.to_string();
        for param in &self.params {
            line.push(' ');
            line.push_str(&param.to_string());
        }
        if let Some(ty) = &self.returns {
            line.push_str(" -> ");
            line.push_str(ty.name());
        }
        line
    }

    fn mismatch(&self, received: &str) -> CommandError {
        let params: Vec<_> =
            self.params.iter().map(|param| format!("{param}: {}", param.ty)).collect();
        let received = if received.is_empty() { "nothing" } else { received };
        CommandError::Mismatch {
            expected: format!("{}({})", self.name, params.join(", ")),
            received: received.to_owned(),
        }
    }

    /// Pairs arguments with their parameters; `None` if there are too few or too many.
    fn bind<T>(&self, args: Vec<T>) -> Option<Vec<(&Param, T)>> {
        let mut bound = Vec::with_capacity(args.len());
        let mut args = args.into_iter();
        for param in &self.params {
            if let ParamKind::Rest = param.kind {
                bound.extend(args.by_ref().map(|arg| (param, arg)));
            } else if let Some(arg) = args.next() {
                bound.push((param, arg));
            } else if let ParamKind::Required = param.kind {
                return None;
            }
        }
        args.next().is_none().then_some(bound)
    }

    /// Adds the defaults of the parameters that were left out.
    fn add_defaults(&self, args: &mut Vec<ArgValue>) {
        let missing = self.params.iter().skip(args.len()).map_while(|param| match &param.kind {
            ParamKind::Optional(Some(default)) => Some(default.clone()),
            _ => None,
        });
        args.extend(missing);
    }
}

/// The function of a command. It gets the arguments in the order of the parameters, defaults
/// included; those of a [`ParamKind::Rest`] follow one by one.
pub type Handler = Arc<dyn Fn(Vec<ArgValue>) -> Result<RetValue, CommandError> + Send + Sync>;

struct Command {
    decl: CommandDecl,
    handler: Handler,
}

/// The registry. Clones lead to the same one.
#[derive(Clone, Default)]
pub struct Commands(Arc<ArcSwap<BTreeMap<String, Arc<Command>>>>);

impl Commands {
    /// Makes an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a command; one of the same name is replaced.
    pub fn register(&self, decl: CommandDecl, handler: Handler) {
        let command = Arc::new(Command { decl, handler });
        self.0.rcu(|commands| {
            let mut commands = BTreeMap::clone(commands);
            commands.insert(command.decl.name.to_string(), command.clone());
            commands
        });
    }

    /// Adds a command whose function takes its arguments from an [`Args`].
    pub fn add<R: Into<RetValue>>(
        &self,
        decl: CommandDecl,
        run: impl Fn(Args) -> Result<R, CommandError> + Send + Sync + 'static,
    ) {
        self.register(decl, Arc::new(move |args| run(Args::from(args)).map(Into::into)));
    }

    /// Returns whether a command is called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.0.load().contains_key(name)
    }

    /// Returns the names of all commands, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.load().keys().cloned().collect()
    }

    /// Returns the declaration of the command called `name`.
    pub fn decl(&self, name: &str) -> Option<CommandDecl> {
        self.0.load().get(name).map(|command| command.decl.clone())
    }

    /// Returns all declarations, sorted by name.
    pub fn decls(&self) -> Vec<CommandDecl> {
        self.0.load().values().map(|command| command.decl.clone()).collect()
    }

    /// Runs a line of text.
    pub fn execute(&self, line: &str) -> Result<RetValue, CommandError> {
        let mut words = lexer::words(line).into_iter();
        let name = words.next().ok_or(CommandError::Empty)?;
        self.call_strings(&name, words.as_slice())
    }

    /// Runs a command with words that are yet to be read by the types of its parameters.
    pub fn call_strings<S: AsRef<str>>(
        &self,
        name: &str,
        args: &[S],
    ) -> Result<RetValue, CommandError> {
        let command = self.find(name)?;
        let words: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let bound = command.decl.bind(words.clone()).ok_or_else(|| {
            let quoted: Vec<_> = words.iter().map(|word| lexer::quote(word)).collect();
            command.decl.mismatch(&quoted.join(" "))
        })?;
        let values = bound.into_iter().map(|(param, word)| param.ty.parse(self, word));
        let values = values.collect::<Result<_, _>>()?;
        self.run(&command, values)
    }

    /// Runs a command with ready values.
    pub fn call(&self, name: &str, args: Vec<ArgValue>) -> Result<RetValue, CommandError> {
        let command = self.find(name)?;
        let kinds: Vec<_> = args.iter().map(ArgValue::kind).collect();
        let bound = command.decl.bind(args);
        let fitting = bound.filter(|bound| bound.iter().all(|(param, arg)| param.ty.accepts(arg)));
        let Some(bound) = fitting else { return Err(command.decl.mismatch(&kinds.join(", "))) };
        let values = bound.into_iter().map(|(_, arg)| arg).collect();
        self.run(&command, values)
    }

    /// Returns what `--commands` prints: each command after its help, sorted.
    pub fn dump(&self) -> String {
        let commands = self.0.load();
        let mut lines: Vec<_> = commands
            .values()
            .map(|command| (command.decl.signature(), &*command.decl.help))
            .collect();
        lines.sort_unstable();
        let mut out = String::new();
        for (signature, help) in lines {
            text::push_comment(&mut out, help);
            out.push_str(&signature);
            out.push_str("\n\n");
        }
        out
    }

    /// Returns the flows that a word stands for.
    pub fn resolve(&self, spec: &str) -> Result<Vec<FlowRef>, CommandError> {
        let command = self.find(RESOLVE)?;
        match (command.handler)(vec![spec.into()])? {
            RetValue::Flows(flows) => Ok(flows),
            _ => Err(returned(RESOLVE, &ArgType::Flows)),
        }
    }

    fn find(&self, name: &str) -> Result<Arc<Command>, CommandError> {
        let command = self.0.load().get(name).cloned();
        command.ok_or_else(|| CommandError::Unknown(name.to_owned()))
    }

    fn run(&self, command: &Command, mut args: Vec<ArgValue>) -> Result<RetValue, CommandError> {
        command.decl.add_defaults(&mut args);
        let value = (command.handler)(args)?;
        match &command.decl.returns {
            None => Ok(RetValue::None),
            Some(ty) if ty.returnable(self, &value) => Ok(value),
            Some(ty) => Err(returned(&command.decl.name, ty)),
        }
    }
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.load().keys()).finish()
    }
}

/// The command that turns a word into flows.
const RESOLVE: &str = "view.flows.resolve";

fn returned(name: &str, ty: &ArgType) -> CommandError {
    CommandError::Returned { name: name.to_owned(), expected: ty.to_string() }
}

impl ArgValue {
    fn kind(&self) -> &'static str {
        match self {
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::Int(_) => "int",
            Self::Bool(_) => "bool",
            Self::Strs(_) => "str[]",
            Self::Flow(_) => "flow",
            Self::Flows(_) => "flow[]",
        }
    }
}

/// Arguments on their way into a function, taken one after the other.
///
/// The registry has checked them against the declaration, so an error here means that function and
/// declaration disagree.
#[derive(Debug)]
pub struct Args(std::vec::IntoIter<ArgValue>);

impl From<Vec<ArgValue>> for Args {
    fn from(args: Vec<ArgValue>) -> Self {
        Self(args.into_iter())
    }
}

macro_rules! take {
    ($($(#[$doc:meta])* $name:ident -> $type:ty: $variant:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(&mut self) -> Result<$type, CommandError> {
            match self.0.next() {
                Some(ArgValue::$variant(value)) => Ok(value),
                other => Err(undeclared(other.as_ref(), stringify!($name))),
            }
        })*
    };
}

impl Args {
    take! {
        /// Takes a `str`, `path`, `cmd`, `arg`, `choice` or `marker`.
        str -> String: Str;
        /// Takes `bytes`.
        bytes -> Vec<u8>: Bytes;
        /// Takes an `int`.
        int -> i64: Int;
        /// Takes a `bool`.
        bool -> bool: Bool;
        /// Takes a `str[]` or `cut[]`.
        strs -> Vec<String>: Strs;
        /// Takes a `flow`.
        flow -> FlowRef: Flow;
        /// Takes a `flow[]`.
        flows -> Vec<FlowRef>: Flows;
    }

    /// Takes all that is left; each must be text.
    pub fn rest(&mut self) -> Result<Vec<String>, CommandError> {
        let mut rest = Vec::with_capacity(self.0.len());
        while self.0.len() > 0 {
            rest.push(self.str()?);
        }
        Ok(rest)
    }
}

fn undeclared(value: Option<&ArgValue>, wanted: &str) -> CommandError {
    let got = value.map_or("nothing", ArgValue::kind);
    CommandError::new(format!("command argument mismatch: {wanted} wanted, but got {got}"))
}

#[cfg(test)]
mod tests;
