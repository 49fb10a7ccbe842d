//! The flags of the programs: what a row of the [table](TABLE) says, and the parser made of all rows.
//!
//! A row is the only place that knows a flag: its spellings (those of mitmproxy 2.0 and today's), its argument, what
//! it sets, its help and which of the programs have it. Reading a command line with the parser is the business of
//! [`args`](crate::args).

mod table;

use clap::{Arg, ArgAction, Command, builder::PossibleValuesParser, value_parser};

pub use self::table::TABLE;

/// The programs that share the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Mitmproxy,
    Mitmdump,
    Mitmweb,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mitmproxy, Self::Mitmdump, Self::Mitmweb];

    /// Returns the name of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mitmproxy => "mitmproxy",
            Self::Mitmdump => "mitmdump",
            Self::Mitmweb => "mitmweb",
        }
    }
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Today's long spelling, without the dashes; also its name in the parser.
    pub long: &'static str,
    /// Other long spellings.
    pub aliases: &'static [&'static str],
    /// One-letter spellings.
    pub shorts: &'static [char],
    /// For switches: the long spellings that switch back to the default.
    pub opposite: &'static [&'static str],
    pub takes: Takes,
    pub does: Does,
    pub group: Group,
    pub tools: &'static [Tool],
    /// The flags that cannot be given together with it.
    pub against: &'static [&'static str],
    /// The flags that it replaces if it comes after them.
    pub replaces: &'static [&'static str],
    pub help: &'static str,
}

/// The argument of a flag, with the name that the help shows.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    Nothing,
    /// Nothing, and how often the flag is given counts.
    Count,
    Text(&'static str),
    Number(&'static str),
    Port(&'static str),
    OneOf(&'static str, &'static [&'static str]),
    /// May be given several times; all count.
    Many(&'static str),
}

/// What a flag does.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Sets this option to the argument.
    Set(&'static str),
    /// Sets this option to this value; the opposite spellings set it to the other.
    Switch(&'static str, bool),
    /// What its name says; [`args`](crate::args) knows.
    Special(Special),
    /// Its feature does not exist yet.
    Later,
    /// The same, but switching it off is no more than what is so.
    LaterSwitch,
}

/// Flags that do more than to set one option to what they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Help,
    Version,
    ShortVersion,
    Options,
    Commands,
    Conf,
    Confdir,
    Set,
    Quiet,
    Verbose,
    Mode,
    /// A mode of its own flag: this one, with the argument as its data.
    ModeOf(&'static str),
    Append,
    Detail,
    NonAnonymous,
    SingleUser,
    Htpasswd,
    /// An option of 2.0, which became several.
    Old(&'static str),
}

/// The headings of the help, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    General,
    Flows,
    Proxy,
    Tls,
    Replay,
    Change,
    Screen,
}

impl Group {
    fn heading(self) -> &'static str {
        match self {
            Self::General => "General",
            Self::Flows => "Flows",
            Self::Proxy => "Proxy",
            Self::Tls => "TLS and certificates",
            Self::Replay => "Replay",
            Self::Change => "Changing messages",
            Self::Screen => "User interface",
        }
    }
}

impl Flag {
    /// Makes a flag of all programs without an argument.
    pub(crate) const fn new(
        group: Group,
        long: &'static str,
        does: Does,
        help: &'static str,
    ) -> Self {
        Self {
            long,
            aliases: &[],
            shorts: &[],
            opposite: &[],
            takes: Takes::Nothing,
            does,
            group,
            tools: &Tool::ALL,
            against: &[],
            replaces: &[],
            help,
        }
    }

    /// Returns all long spellings, today's first.
    pub fn longs(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.long).chain(self.aliases.iter().copied())
    }

    /// Returns whether the feature is yet to come.
    pub fn is_later(&self) -> bool {
        matches!(self.does, Does::Later | Does::LaterSwitch)
    }

    /// Returns the name of the opposite spellings in the parser.
    pub(crate) fn opposite_id(&self) -> Option<&'static str> {
        self.opposite.first().copied()
    }

    fn arg(&self) -> Arg {
        let mut help = self.help.to_owned();
        if let Some(opposite) = self.opposite_id() {
            help = format!("{help} [opposite: --{opposite}]");
        }
        let mut arg = Arg::new(self.long)
            .long(self.long)
            .visible_aliases(self.aliases)
            .help(help)
            .help_heading(self.group.heading())
            .conflicts_with_all(self.against.iter().chain(self.opposite.first()))
            .overrides_with_all(self.replaces)
            .hide(self.is_later());
        if let [first, rest @ ..] = self.shorts {
            arg = arg.short(*first).visible_short_aliases(rest.to_vec());
        }
        match self.takes {
            Takes::Nothing if matches!(self.does, Does::Special(Special::Help)) => {
                arg.action(ArgAction::Help)
            }
            Takes::Nothing => arg.action(ArgAction::SetTrue),
            Takes::Count => arg.action(ArgAction::Count),
            Takes::Text(name) => arg.value_name(name).action(ArgAction::Set),
            Takes::Number(name) => arg
                .value_name(name)
                .action(ArgAction::Set)
                .allow_negative_numbers(true)
                .value_parser(value_parser!(i64)),
            Takes::Port(name) => arg
                .value_name(name)
                .action(ArgAction::Set)
                .value_parser(value_parser!(i64).range(0..=0xffff)),
            Takes::OneOf(name, choices) => arg
                .value_name(name)
                .action(ArgAction::Set)
                .value_parser(PossibleValuesParser::new(choices)),
            Takes::Many(name) => arg.value_name(name).action(ArgAction::Append),
        }
    }

    fn opposite_arg(&self) -> Option<Arg> {
        let (&first, rest) = self.opposite.split_first()?;
        let arg = Arg::new(first).long(first).visible_aliases(rest).hide(true);
        Some(arg.action(ArgAction::SetTrue).conflicts_with(self.long))
    }
}

/// Returns the flags of a program.
pub fn of(tool: Tool) -> impl Iterator<Item = &'static Flag> {
    TABLE.iter().filter(move |flag| flag.tools.contains(&tool))
}

/// The name of the positional arguments in the parser.
pub(crate) const FILTER: &str = "filter";

/// Makes the parser of a program; `width` is that of its help, in columns.
pub fn command(tool: Tool, width: usize) -> Command {
    let mut command = Command::new(tool.name())
        .bin_name(tool.name())
        .about(about(tool))
        .override_usage(usage(tool))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .infer_long_args(true)
        // What is given twice counts as given last.
        .args_override_self(true)
        .term_width(width);
    for flag in of(tool) {
        command = command.arg(flag.arg()).args(flag.opposite_arg());
    }
    if tool == Tool::Mitmdump {
        let filter = Arg::new(FILTER)
            .value_name("FILTER")
            .num_args(0..)
            .trailing_var_arg(true)
            .help(
                "Read, print and write only flows that match this filter expression. All that follows its first word \
                 belongs to it, so flags come before",
            );
        command = command.arg(filter);
    }
    command.after_help(after_help(tool))
}

fn usage(tool: Tool) -> String {
    let filter = if tool == Tool::Mitmdump { " [FILTER]..." } else { "" };
    format!("{} [OPTIONS]{filter}", tool.name())
}

fn about(tool: Tool) -> &'static str {
    match tool {
        Tool::Mitmproxy => "An intercepting HTTP proxy with a console interface",
        Tool::Mitmdump => "Intercept, record, filter and re-read HTTP and HTTPS traffic",
        Tool::Mitmweb => "An intercepting HTTP proxy with a web interface",
    }
}

fn after_help(tool: Tool) -> String {
    let later: Vec<_> =
        of(tool).filter(|flag| flag.is_later()).map(|flag| format!("--{}", flag.long)).collect();
    let mut text = String::new();
    if tool == Tool::Mitmdump {
        text.push_str(
            "Examples:\n  \
             mitmdump -w outfile                        record what passes port 8080\n  \
             mitmdump -nr infile -w outfile '~m post'   copy the POST requests of a file\n  \
             mitmdump -p 8081 -dd '~d example.com'      print headers, of one site only\n\n",
        );
    }
    text.push_str(
        "Options without a flag of their own are set by --set or in config.yaml; --options lists all. Long flags may \
         be abbreviated.",
    );
    if !later.is_empty() {
        text.push_str("\n\nNot supported yet, and refused: ");
        text.push_str(&later.join(", "));
        text.push('.');
    }
    text
}
