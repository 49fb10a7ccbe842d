//! Agreement with mitmproxy on filters, and with Python on regular expressions, over seeded random ones.

use mitm_filter::{Case, Filter, ParseError, help, parse_with};
use serde_json::json;

use crate::{
    expressions::{self, REGEX, Random, UNARY, has_extension},
    facts::TestFlow,
    peer,
};

const FILTERS: usize = 1_300;
const PATTERNS: usize = 2_000;

fn parse(text: &str) -> Result<Filter, ParseError> {
    parse_with(text, Case::Insensitive)
}

#[test]
fn the_corpus_has_all_operators() {
    let mut codes: Vec<String> = UNARY
        .iter()
        .map(|code| format!("~{code}"))
        .chain(REGEX.iter().map(|code| format!("~{code} regex")))
        .chain(["~c int".to_owned()])
        .collect();
    codes.sort();
    let known: Vec<String> =
        help().into_iter().map(|(syntax, _)| syntax).take(codes.len()).collect();
    assert_eq!(codes, known);
}

#[test]
fn filters_mean_what_they_mean_to_mitmproxy() {
    let mut random = Random::from_env(2026);
    let expressions = expressions::corpus(&mut random, FILTERS);
    let Some(answer) = peer::run("evaluate.py", &json!({ "expressions": expressions })) else {
        return;
    };
    assert_eq!(answer["version"], "11.0.2");
    let flows = TestFlow::peer_flows();
    let names: Vec<&str> = flows.iter().map(|(name, _)| *name).collect();
    assert_eq!(answer["flows"], json!(names));

    let mut differences = Vec::new();
    let (mut accepted, mut hits, mut extensions) = (0, 0, 0);
    for (text, theirs) in expressions.iter().zip(answer["results"].as_array().unwrap()) {
        let ours = parse(text).ok().map(|filter| {
            flows.iter().map(|(_, flow)| filter.try_matches(flow).unwrap()).collect::<Vec<_>>()
        });
        if theirs.is_null() && ours.is_some() && has_extension(text) {
            extensions += 1;
            continue;
        }
        accepted += usize::from(ours.is_some());
        hits += ours.iter().flatten().filter(|&&hit| hit).count();
        if &json!(ours) != theirs {
            let error = parse(text).err().map(|error| error.to_string());
            differences.push(format!("{text:?}\n  ours   {ours:?} {error:?}\n  theirs {theirs}"));
        }
    }
    println!(
        "{} expressions, {accepted} accepted, {extensions} extensions, {hits} hits",
        expressions.len()
    );
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(accepted > 1_800 && hits > 2_500 && extensions > 0);
}

/// Pieces of patterns that mean something on `TEXTS`, and pieces that are mistakes here and there.
const ATOMS: &[&str] = &[
    "a", "b", "A", "é", "É", "k", "i", "1", "_", " ", "-", ".", ".", "\\.", r"\w", r"\W", r"\d",
    r"\D", r"\s", r"\S", "[ab]", "[^ab]", "[a-c]", "[^b-]", r"[\w-]", r"[^\W1]", r"[\s\S]", "[]]",
    "[é]", "[^é]", r"\n", r"\x61", r"\141", r"\x", "{", "}", "a{", "(?P<n>a)", "(?P=n)", r"\1",
    r"\2", "^", "$", r"\A", r"\Z", r"\b", r"\B", "(?i:a)", "(?-i:a)", "(?#c)", "ab", "ba",
];
const REPEATS: &[&str] = &[
    "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{1,}", "{2}?", "*+", "?+", "{1,2}+",
];
const GROUPS: &[&str] = &[
    "(", "(", "(", "(?:", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?(1)", "(?s:", "(?m:",
    "(?x:",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "b",
    "aa",
    "ab",
    "ba",
    "aab",
    "abb",
    "bab",
    "abab",
    "AB",
    "a b",
    "a1",
    "1",
    "_",
    "-a-",
    "a\n",
    "\n",
    "a\nb",
    "\na",
    "b\n\n",
    "é",
    "É",
    "éé",
    "aéb",
    "k\u{212a}",
    "iİı",
    "ab ab",
    "a.b",
    "a{2}",
    "a]b",
    "ba\r\nab",
    " a_1 ",
    "e\u{301}a",
    "a\u{1c}b",
    "aaaaabbbbb",
    "bbbaaab1",
];

fn pattern(random: &mut Random, depth: usize) -> String {
    let mut text = String::new();
    for _ in 0..=random.below(3) {
        if depth > 0 && random.one_in(3) {
            text.push_str(random.pick(GROUPS));
            text.push_str(&pattern(random, depth - 1));
            text.push(')');
        } else {
            text.push_str(random.pick(ATOMS));
        }
        if random.one_in(4) {
            text.push_str(random.pick(REPEATS));
        }
        if random.one_in(8) {
            text.push('|');
        }
    }
    text
}

/// A filter of one operator with the pattern, quoted.
fn filter_of(operator: &str, pattern: &str) -> Result<Filter, ParseError> {
    let quoted = pattern.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    parse(&format!("~{operator} \"{quoted}\""))
}

#[test]
fn patterns_match_as_in_python() {
    let mut random = Random::from_env(7);
    let mut patterns: Vec<String> = (0..PATTERNS).map(|i| pattern(&mut random, i % 4)).collect();
    patterns.extend(ATOMS.iter().map(|&atom| atom.to_owned()));
    let job = json!({ "patterns": patterns, "texts": TEXTS });
    let Some(answer) = peer::run("search.py", &job) else { return };

    let mut differences = Vec::new();
    let mut accepted = 0;
    for (side, operator) in [("text", "marker"), ("bytes", "bq")] {
        for (pattern, theirs) in patterns.iter().zip(answer[side].as_array().unwrap()) {
            let filter = filter_of(operator, pattern);
            let ours = filter.as_ref().ok().map(|filter| {
                let hits = TEXTS.iter().map(|text| {
                    let mut flow = TestFlow::get();
                    flow.marked = (*text).to_owned();
                    flow.request_body = text.as_bytes().to_vec().into();
                    filter.try_matches(&flow).map_err(|error| error.to_string())
                });
                hits.collect::<Vec<_>>()
            });
            accepted += usize::from(ours.is_some());
            match (ours, theirs.as_array()) {
                (None, None) => {}
                (Some(ours), Some(theirs)) => {
                    for ((text, ours), theirs) in TEXTS.iter().zip(ours).zip(theirs) {
                        // Only since Python 3.14 is the empty text no boundary.
                        if text.is_empty() && pattern.contains("\\B") {
                            continue;
                        }
                        if ours != Ok(theirs.as_bool().unwrap()) {
                            differences
                                .push(format!("{side} {pattern:?} in {text:?}: ours {ours:?}"));
                        }
                    }
                }
                (ours, _) => differences.push(format!(
                    "{side} {pattern:?}: accepted by {}: {:?}",
                    if ours.is_some() { "us" } else { "Python" },
                    filter.err().map(|error| error.to_string()),
                )),
            }
        }
    }
    println!("{} patterns, {accepted} accepted as text or bytes", patterns.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    assert!(accepted > PATTERNS / 2);
}
