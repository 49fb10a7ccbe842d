//! Random filter expressions, the same for the same seed, for comparison with mitmproxy.
//!
//! Stands alone: the tests of other crates that compare filters include this file by its path.

use std::env;

/// Arguments, as they are written in a filter: some hit, some miss, some are mistakes.
const ARGUMENTS: &[&str] = &[
    "a",
    "address",
    "ADDRESS",
    "example",
    r"example\.com",
    r"\.php$",
    "path$",
    "^http",
    "get",
    "post",
    "^P",
    "200",
    "404",
    ":22",
    ":8080",
    "127",
    "10.0.0",
    "foo",
    "hello",
    "me$",
    "it.s",
    "grapes",
    ":default:",
    "second",
    "^second",
    "line$",
    "^key:",
    "list",
    "None",
    "1.5",
    "qvalue",
    "svalue",
    "^x-dup",
    "header",
    "Content-Type",
    "application/json",
    "text/",
    "image",
    "html",
    "websocket",
    "dns",
    "google",
    "8.8.4.4",
    "compressed",
    "message",
    "MESSAGE",
    r"\x00",
    "é",
    "caf.",
    "caf..",
    r"\d",
    r"^\w+$",
    ".",
    "",
    "text",
    "binary",
    "!a",
    "&a",
    "|",
    "a|b",
    "a&b",
    "(?i:A)",
    r"\bone\b",
    "*",
    "[",
    r"a\q",
    "(a)(?!d)",
    "x$\n",
    "it's",
    "a b",
    "\"",
    // Of the flow files that older versions recorded.
    "/form",
    "secret$",
    "edited",
    "cookie",
    "red_circle",
    "remark",
    "note",
    "compressed text",
    "over TLS",
    "name=value&",
    "datagram",
    "first line\n",
    r"\xff",
];

pub(crate) const UNARY: &[&str] = &[
    "a",
    "all",
    "dns",
    "e",
    "http",
    "marked",
    "q",
    "replay",
    "replayq",
    "replays",
    "s",
    "tcp",
    "udp",
    "websocket",
];
pub(crate) const REGEX: &[&str] = &[
    "b", "bq", "bs", "comment", "d", "dst", "h", "hq", "hs", "m", "marker", "meta", "src", "t",
    "tq", "ts", "u",
];

/// Writes an argument so that mitmproxy and this project read the same.
fn written(argument: &str, random: &mut Random) -> String {
    let word = !argument.is_empty() && argument.chars().all(|c| !"()~'\" \t\r\n".contains(c));
    if word && !random.one_in(3) {
        return argument.to_owned();
    }
    let quote = random.pick(&['"', '\'']);
    let mut text = String::from(quote);
    for c in argument.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\\' => text.push_str("\\\\"),
            c if c == quote => text.extend(['\\', c]),
            c => text.push(c),
        }
    }
    text.push(quote);
    text
}

fn blank(random: &mut Random) -> &'static str {
    random.pick(&[" ", " ", " ", " ", "", "  ", "\t", "\n"])
}

fn operand(random: &mut Random, depth: usize) -> String {
    match random.below(if depth == 0 { 8 } else { 11 }) {
        // Mostly followed by the blank that mitmproxy wants.
        0..3 => format!("~{}{}", random.pick(UNARY), if random.one_in(20) { "" } else { " " }),
        3..6 => {
            let operator = random.pick(REGEX);
            let argument = random.pick(ARGUMENTS);
            let between = if random.one_in(20) { blank(random) } else { " " };
            format!("~{operator}{between}{}", written(argument, random))
        }
        6 => {
            let code = random.pick(&[
                "200",
                "404",
                "101",
                "0200",
                "20",
                "4o4",
                "x",
                "99999999999999999999999",
            ]);
            format!("~c {code}")
        }
        7 => {
            let argument = random.pick(ARGUMENTS);
            written(argument, random)
        }
        8 => format!("!{}{}", blank(random), operand(random, depth - 1)),
        _ => format!("({}{}{})", blank(random), expression(random, depth - 1), blank(random)),
    }
}

fn expression(random: &mut Random, depth: usize) -> String {
    let mut text = operand(random, depth);
    for _ in 0..random.below(3) {
        // Side by side is an error inside of parentheses.
        let sign = random.pick(&["&", "&", "|", "|", "&", "|", if depth >= 2 { " " } else { "&" }]);
        text.extend([blank(random), sign, blank(random)]);
        text.push_str(&operand(random, depth));
    }
    // Mistakes, and signs that turn into words.
    if random.one_in(25) {
        let sign = random.pick(&["&", "|", "!", "(", ")", "~", "\"", "'", "~q", "~nope", "~u"]);
        text.extend([blank(random), sign, blank(random)]);
    }
    text
}

/// True for what only this project accepts: an operator that touches a parenthesis or sign.
pub(crate) fn has_extension(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    UNARY.iter().any(|code| {
        let code: Vec<char> = format!("~{code}").chars().collect();
        chars.windows(code.len() + 1).any(|window| {
            let (last, start) = window.split_last().unwrap();
            start == code && "()&|!".contains(*last)
        })
    })
}

/// `count` random expressions, each regex operator with each argument, and the flags alone.
pub(crate) fn corpus(random: &mut Random, count: usize) -> Vec<String> {
    let mut expressions: Vec<String> =
        (0..count).map(|i| expression(random, if i % 50 == 0 { 3 } else { i % 3 })).collect();
    for operator in REGEX {
        for argument in ARGUMENTS {
            expressions.push(format!("~{operator} {}", written(argument, random)));
        }
    }
    expressions.extend(UNARY.iter().map(|code| format!("~{code}")));
    expressions
}

/// A small generator of repeatable random numbers (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// Starts from `seed`, or from `MITM_TEST_SEED` to look further.
    pub(crate) fn from_env(seed: u64) -> Self {
        Self(env::var("MITM_TEST_SEED").map_or(seed, |seed| seed.parse().unwrap()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
