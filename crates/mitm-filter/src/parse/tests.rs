use proptest::prelude::*;

use super::*;
use crate::ops::Test;

/// The printed form of what `text` parses to.
fn printed(text: &str) -> String {
    match parse_with(text, Case::Insensitive) {
        Ok(filter) => filter.to_string(),
        Err(error) => panic!("{error}\n{}", error.caret()),
    }
}

fn error(text: &str) -> ParseError {
    match parse_with(text, Case::Insensitive) {
        Ok(filter) => panic!("{text:?} parses as {filter}"),
        Err(error) => error,
    }
}

#[test]
fn precedence_and_grouping() {
    let cases = [
        ("~q", "~q"),
        ("  ~q\r\n\t", "~q"),
        (r"google\.com", r"~u google\.com"),
        ("~q ~b test", "~q & ~b test"),
        ("~q | ~s ~t foo", "(~q | ~s) & ~t foo"),
        ("a & b c | d", "(~u a & ~u b) & (~u c | ~u d)"),
        ("a & b & c", "~u a & ~u b & ~u c"),
        ("a b c", "~u a & ~u b & ~u c"),
        ("(a & b) & c", "(~u a & ~u b) & ~u c"),
        ("((a))", "~u a"),
        ("!~q", "!~q"),
        ("!!~q", "!!~q"),
        ("!a & b", "!~u a & ~u b"),
        ("!(a | b) c", "!(~u a | ~u b) & ~u c"),
        ("a !b", "~u a & !~u b"),
        ("(~c 200)(~c 201)", "~c 200 & ~c 201"),
        ("~c 200~q", "~c 200 & ~q"),
        ("~c 2xx", "~c 2 & ~u xx"),
        ("~c 0200", "~c 200"),
        ("~c 200 | 300", "~c 200 | ~u 300"),
        ("~c 200!~q", "~c 200 & !~q"),
        ("foo~q", "~u foo & ~q"),
        ("foo(bar)", "~u foo & ~u bar"),
        ("~u http://foo.com/a?b=c", "~u http://foo.com/a?b=c"),
        ("~u\nfoo", "~u foo"),
        ("~ué", "~u é"),
        ("~q\u{a0}~s", "~q & ~u \u{a0} & ~s"),
    ];
    for (text, expected) in cases {
        assert_eq!(printed(text), expected, "{text:?}");
    }
}

#[test]
fn signs_are_words_where_no_operator_fits() {
    let cases = [
        ("foo|bar", "~u foo|bar"),
        ("foo& bar", "~u foo& & ~u bar"),
        ("foo |bar", "~u foo | ~u bar"),
        ("~u !foo", "~u !foo"),
        ("!foo", "!~u foo"),
        ("&", "~u &"),
        ("& |", "~u & & ~u |"),
        ("foo |", "~u foo & ~u |"),
        ("foo & &", "~u foo & ~u &"),
        ("foo & | bar", "(~u foo & ~u |) & ~u bar"),
        ("a | & | b", "~u a | ~u & | ~u b"),
        ("~q | ~s |", "(~q | ~s) & ~u |"),
        ("!", "~u !"),
        ("!!", "!~u !"),
        ("(a)!", "~u a & ~u !"),
        ("a &!", "~u a & ~u !"),
        ("(a | |)", "~u a | ~u |"),
        ("!a!b", "!~u a!b"),
        ("~u & b", "~u & & ~u b"),
    ];
    for (text, expected) in cases {
        assert_eq!(printed(text), expected, "{text:?}");
    }
}

#[test]
fn operators_may_touch_parentheses_and_signs() {
    let cases = [
        ("(~q)", "~q"),
        ("~q&~s", "~q & ~s"),
        ("~q|~s", "~q | ~s"),
        ("!(~q | ~s)", "!(~q | ~s)"),
        ("!(~q & ~t \"text/html\")", "!(~q & ~t text/html)"),
        ("~q!~s", "~q & !~s"),
        ("~q(~s)", "~q & ~s"),
        ("(~marked | ~e)", "~marked | ~e"),
    ];
    for (text, expected) in cases {
        assert_eq!(printed(text), expected, "{text:?}");
    }
    assert_eq!(error("~q~s").kind(), &Kind::Glued("q".into()));
    assert_eq!(error("~u\"a\"").offset(), 2);
    assert_eq!(error("~u(a)").kind(), &Kind::Glued("u".into()));
}

#[test]
fn quoted_strings() {
    let source = |text: &str| match parse_with(text, Case::Insensitive).unwrap().expr() {
        Expr::Match(_, pattern) => pattern.source().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(source(r#""a b""#), "a b");
    assert_eq!(source(r"'a b'"), "a b");
    assert_eq!(source(r#""~q""#), "~q");
    assert_eq!(source(r#""""#), "");
    assert_eq!(source(r#""\"\'\\\t\n""#), "\"'\\\t\n");
    assert_eq!(source(r#""\d\.\x00\w""#), r"\d\.\x00\w");
    assert_eq!(source(r#"'it\'s "so"'"#), "it's \"so\"");
    assert_eq!(source(r#""a\\b""#), r"a\b");
    assert_eq!(printed(r#"~d "a""b""#), "~d a & ~u b");
    assert_eq!(printed(r#""a\\.(b)""#), r#"~u "a\\.(b)""#);
}

#[test]
fn errors_say_where_and_why() {
    let cases = [
        ("~foo", 0, Kind::UnknownOperator("foo".into())),
        ("~q & ~Q", 5, Kind::UnknownOperator("Q".into())),
        ("~u", 2, Kind::MissingArgument { code: "u", what: "a regular expression" }),
        ("~hq ~q", 4, Kind::MissingArgument { code: "hq", what: "a regular expression" }),
        ("~c", 2, Kind::MissingArgument { code: "c", what: "a number" }),
        ("~c -1", 3, Kind::MissingArgument { code: "c", what: "a number" }),
        ("   ", 3, Kind::MissingOperand),
        ("()", 1, Kind::MissingOperand),
        ("(a | b", 0, Kind::Unclosed),
        ("a | (b", 4, Kind::Unclosed),
        ("a)", 1, Kind::Unopened),
        ("(a b)", 3, Kind::MissingCombinator),
        ("~u \"abc", 3, Kind::UnclosedQuote),
        ("'a\nb'", 0, Kind::UnclosedQuote),
    ];
    for (text, offset, kind) in cases {
        let error = error(text);
        assert_eq!((error.offset(), error.kind()), (offset, &kind), "{text:?}");
    }
    assert_eq!(error("").to_string(), "Empty filter expression");
    assert!(error("~foo").to_string().starts_with("Invalid filter expression: '~foo'"));
}

#[test]
fn a_bad_pattern_is_marked_inside_of_the_filter() {
    for (text, offset) in [
        ("~q & é*a**", 10),
        ("~q & é*a** | b", 10),
        ("*", 0),
        ("~h [", 3),
        (r#"~u "\"\\d(x""#, 9),
        ("~b é\\q", 5),
    ] {
        let error = error(text);
        assert!(matches!(error.kind(), Kind::Pattern(_)), "{error}");
        assert_eq!(error.offset(), offset, "{error}");
    }
}

#[test]
fn size_and_nesting_are_bounded() {
    assert!(matches!(error(&"a ".repeat(600_000)).kind(), Kind::TooLong(_)));
    assert!(matches!(error(&"~q ".repeat(10_001)).kind(), Kind::TooMany(_)));
    assert!(matches!(error(&"(".repeat(100_000)).kind(), Kind::TooDeep(_)));
    assert!(matches!(error(&"!".repeat(100_000)).kind(), Kind::TooDeep(_)));
    let nested = format!("{}~q{}", "(".repeat(200), ")".repeat(200));
    assert_eq!(printed(&nested), "~q");
    assert!(matches!(error(&format!("({nested})")).kind(), Kind::TooDeep(_)));
}

#[test]
fn a_long_filter_parses_in_time() {
    let text = vec!["~q"; 10_000].join(" | ");
    assert!(parse_with(&text, Case::Insensitive).is_ok());
    // Each sign is given back, and none twice.
    let text = format!("{}(", "a & (b | ".repeat(190));
    assert!(parse_with(&text, Case::Insensitive).is_err());
}

fn exprs() -> impl Strategy<Value = Expr> {
    let tests = (0..TESTS.len()).prop_map(|i| Expr::Test(TESTS[i].test));
    let sources = prop_oneof![
        Just(String::new()),
        "[a-z&|!.]{1,6}".prop_filter("a pattern", |s| !s.is_empty()),
        r#"[a-z ~"'\t\n\u{0b}\u{e9}\u{4e00}]{0,8}"#,
        Just(r"\d+\.\w(a|b)~".to_owned()),
        Just(r"\\".to_owned()),
        Just(r#"\\"\\'"#.to_owned()),
    ];
    let matches = (0..FIELDS.len(), sources).prop_map(|(i, source)| {
        let field = FIELDS[i].field;
        Expr::Match(field, Pattern::new(&source, field, Case::Insensitive).unwrap())
    });
    let leaf = prop_oneof![tests, matches, (0..1000u64).prop_map(Expr::Code)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_to_the_same(expr in exprs()) {
        let text = expr.to_string();
        let filter = parse_with(&text, Case::Insensitive);
        prop_assert_eq!(filter.as_ref().map(Filter::expr), Ok(&expr), "{}", text);
    }

    #[test]
    fn any_text_parses_or_fails_with_a_place(text in r#"[a-cqu~&|!()'"\\ é\n0-9*\[]{0,24}"#) {
        crate::fuzz_filter(text.as_bytes());
    }
}

#[test]
fn readings() {
    let reading = |text| parse_with(text, Case::Insensitive).unwrap().describe();
    assert_eq!(reading("foo & !~s"), "url matches /foo/i and not has response");
    assert_eq!(
        reading("(~q | ~c 200) ~b x"),
        "(has no response or response code is 200) and body matches /x/is"
    );
    assert_eq!(reading("!(~q & ~e)"), "not (has no response and has error)");
    assert_eq!(reading("~h a"), "header matches /a/im");
    let sensitive = parse_with("~h a", Case::Sensitive).unwrap();
    assert_eq!(sensitive.describe(), "header matches /a/m");
    assert_eq!(Filter::all().expr(), &Expr::Test(Test::All));
}
