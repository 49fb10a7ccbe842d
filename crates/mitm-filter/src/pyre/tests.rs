use super::*;

const TEXT: Settings =
    Settings { bytes: false, ignore_case: false, multi_line: false, dot_all: false, crlf: false };
const BYTES: Settings = Settings { bytes: true, ..TEXT };
const NO_CASE: Settings = Settings { ignore_case: true, ..TEXT };

#[track_caller]
fn check(settings: Settings, pattern: &str, hits: &[&str], misses: &[&str]) {
    let program = match Program::new(pattern, settings) {
        Ok(program) => program,
        Err(error) => panic!("{pattern}: {} at {}", error.message, error.at),
    };
    for text in hits {
        assert!(program.search(text.as_bytes()).unwrap(), "{pattern} misses {text:?}: {program:?}");
    }
    for text in misses {
        assert!(!program.search(text.as_bytes()).unwrap(), "{pattern} hits {text:?}: {program:?}");
    }
}

#[track_caller]
fn refused(settings: Settings, pattern: &str, at: usize) {
    match Program::new(pattern, settings) {
        Ok(program) => panic!("{pattern} compiles to {program:?}"),
        Err(error) => assert_eq!(error.at, at, "{pattern}: {}", error.message),
    }
}

fn is_linear(pattern: &str) -> bool {
    matches!(Program::new(pattern, TEXT).unwrap().engine, Engine::Linear(_))
}

#[test]
fn the_dollar_matches_before_a_last_line_feed() {
    check(TEXT, "foo$", &["foo", "foo\n"], &["foo\n\n", "foo\r\n", "foox"]);
    check(TEXT, r"foo\Z", &["foo"], &["foo\n"]);
    check(TEXT, "(a|b$)", &["a", "b\n"], &["bc"]);
    check(TEXT, "a$\nb?", &["a\n"], &["a\nb", "a"]);
    check(TEXT, "^$", &["", "\n"], &["a", "\n\n"]);
    assert!(is_linear("foo$|(?:bar|x$)"));
    assert!(!is_linear("a$\n"));
    let lines = Settings { multi_line: true, ..TEXT };
    check(lines, "^b$", &["a\nb\nc", "b"], &["a b", "b\r\n"]);
    let headers = Settings { multi_line: true, crlf: true, ..BYTES };
    check(headers, "^a: b$", &["a: b\r\n", "x: y\r\na: b\r\nz: 1\r\n", "a: b"], &["a: bc\r\n"]);
    check(headers, "b\r$", &["a: b\r\n"], &["a: b"]);
    check(headers, r"b$(?=\s)", &["a: b\r\n"], &["a: b"]);
}

#[test]
fn dots_and_classes() {
    check(TEXT, "a.b", &["axb", "a\rb", "aéb"], &["a\nb", "ab"]);
    check(Settings { dot_all: true, ..BYTES }, "a.b", &["a\nb"], &["aéb"]);
    check(TEXT, "[]a]", &["]", "a"], &["b"]);
    check(TEXT, "[^]a]", &["b"], &["]", "a"]);
    check(TEXT, "[a-]", &["-", "a"], &["b"]);
    check(TEXT, r"[\w-]", &["-", "é", "_"], &["+"]);
    check(TEXT, "[[a]", &["[", "a"], &["]"]);
    check(TEXT, "[a&&b]", &["&", "a", "b"], &["c"]);
    check(TEXT, r"[\b]", &["\x08"], &["b"]);
    check(TEXT, r"^[\W\d]$", &["1", "-"], &["a", "_"]);
    check(TEXT, r"^[^\W\d]$", &["a", "_"], &["1", "-"]);
    check(TEXT, r"^\S$", &["a"], &["\u{1c}", "\u{3000}", "\u{85}"]);
    check(BYTES, r"^\S$", &["a", "\u{1c}"], &[" ", "\x0b"]);
    check(TEXT, r"^\w$", &["²", "é", "中"], &["\u{300}", "-"]);
    check(TEXT, r"^\d$", &["5", "٣"], &["²", "a"]);
    check(BYTES, r"^\d$", &["5"], &["٣"]);
    check(TEXT, r"\ud800", &[], &["a"]);
    check(TEXT, r"[^\ud800]", &["a"], &[""]);
}

#[test]
fn bytes_patterns_are_made_of_bytes() {
    check(BYTES, "^é$", &["é"], &["e"]);
    check(BYTES, "^.é$", &["xé"], &["ééé"]);
    check(BYTES, "^..$", &["é", "ab"], &["a"]);
    check(Settings { ignore_case: true, ..BYTES }, "^É$", &["É"], &["é"]);
    check(Settings { ignore_case: true, ..BYTES }, "^AbC$", &["aBc"], &[]);
    let program = Program::new(r"\xff\x00[\x80-\x90]", BYTES).unwrap();
    assert!(program.search(b"\xff\x00\x85").unwrap());
    let program = Program::new(r"(\xff)\1", BYTES).unwrap();
    assert!(program.search(b"a\xff\xff").unwrap() && !program.search(b"\xff\xfe").unwrap());
    let program = Program::new(r"(?<=\xff)\W(?!\xff)", BYTES).unwrap();
    assert!(program.search(b"\xff\x80").unwrap() && !program.search(b"\xff\x80\xff").unwrap());
}

#[test]
fn case() {
    check(NO_CASE, "Straße", &["STRAßE", "STRAẞE"], &["STRASSE"]);
    check(NO_CASE, "^k$", &["K", "\u{212a}"], &["c"]);
    check(NO_CASE, "^i$", &["I", "İ", "ı"], &["j"]);
    check(NO_CASE, "^[h-j]$", &["I", "İ", "ı", "J"], &["k"]);
    check(NO_CASE, "(?-i:a)b", &["aB"], &["Ab"]);
    check(TEXT, "(?i:a)b", &["Ab"], &["aB"]);
    check(TEXT, "(?i)ab", &["AB"], &[]);
    check(NO_CASE, "^(?a:k)$", &["K", "k"], &["\u{212a}"]);
    check(NO_CASE, "^(?a:[j-l])$", &["K", "k"], &["\u{212a}"]);
    check(NO_CASE, r"^(?a:\w)$", &["K"], &["é"]);
    check(NO_CASE, r"(a)\1", &["aA"], &["ab"]);
    check(NO_CASE, r"[^a]", &["b"], &["A"]);
}

#[test]
fn literals() {
    check(NO_CASE, "task", &["a TASK", "ta\u{17f}K"], &["tas", "", "mask"]);
    check(TEXT, "task", &["task", "xtask"], &["TASK", "tas"]);
    check(Settings { ignore_case: true, ..BYTES }, "ask", &["éASK"], &["a\u{17f}k"]);
    check(NO_CASE, "(?-i:a)sk", &["aSK"], &["ASK"]);
    let long = format!("{}TASK", "x".repeat(100));
    check(NO_CASE, "task", &[&long], &[]);
    check(TEXT, "task", &[], &[&long]);
}

#[test]
fn python_syntax() {
    check(TEXT, "(?P<x>a|b)(?P=x)", &["aa", "bb"], &["ab"]);
    check(TEXT, r"^(a)?(?(1)b|c)$", &["ab", "c"], &["b", "ac"]);
    check(TEXT, r"(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)\10", &["abcdefghijj"], &["abcdefghija0"]);
    check(TEXT, r"(a)\141", &["aa"], &["aaa1".get(..1).unwrap()]);
    check(TEXT, r"(b)(c)\2(?:0)", &["bcc0"], &["bcb0"]);
    check(TEXT, "^a{,2}$", &["", "aa"], &["aaa"]);
    check(TEXT, "^a{,}$", &["", "aaaa"], &["b"]);
    check(TEXT, "^a{2,}$", &["aa", "aaaa"], &["a"]);
    check(TEXT, "a{x}|a{}|a{1,b}", &["a{x}", "a{}", "a{1,b}"], &["a"]);
    check(TEXT, "(?#comment)a(?# more\\) )b", &["ab"], &[]);
    check(TEXT, "(?x) a b # c\n | d\\ e", &["ab", "d e"], &["a b", "de"]);
    check(TEXT, "a(?x: b )c ", &["abc "], &["abc"]);
    check(TEXT, "(?s)a.b", &["a\nb"], &[]);
    check(TEXT, "(?m)^b", &["a\nb"], &[]);
    check(TEXT, "(?>a+)b", &["aab"], &["aac"]);
    check(TEXT, "^a++a", &[], &["aaa"]);
    check(TEXT, "a(?!b)", &["ac"], &["ab"]);
    check(TEXT, "(?<!b)a", &["ca"], &["ba"]);
    check(TEXT, r"\x41\u00e9\U0001F600\101\0", &["Aé😀A\0"], &[]);
    check(TEXT, r"\a\f\n\r\t\v\\\.\-\/\é", &["\x07\x0c\n\r\t\x0b\\.-/é"], &[]);
    check(TEXT, "(?:)*a(?:)+()*", &["a"], &["b"]);
    check(TEXT, "(?:^)*a", &["ba"], &["b"]);
    check(TEXT, "(?=a)+a((?<=a|c){2})+?b|(?!c){0,3}d(?:$|^)+", &["ab", "d"], &["b", "dc"]);
    check(TEXT, "", &["", "a"], &[]);
    check(TEXT, "a||b", &["x"], &[]);
    check(TEXT, r"a\Z|b\z", &["a", "b"], &["ac"]);
}

#[test]
fn word_boundaries_are_pythons() {
    check(TEXT, r"\bfoo\b", &["a foo.", "foo"], &["foox", "foo_", "fooé"]);
    // A combining mark ends a word in Python.
    check(TEXT, r"\bfoo\b", &["foo\u{301}"], &[]);
    check(TEXT, r"o\Bo", &["foo"], &["o"]);
    check(BYTES, r"\bfoo\b", &["fooé"], &["foo_"]);
    check(TEXT, r"(?a:\bfoo\b)", &["fooé"], &["foo_"]);
    check(TEXT, r"(?a:\bfoo\b)(?!x)", &["fooé"], &["foo_"]);
}

#[test]
fn what_python_refuses_is_refused_where_it_is_wrong() {
    for (pattern, at) in [
        ("*", 0),
        ("a**", 2),
        ("a{2}{3}", 4),
        ("^*", 1),
        (r"\b+", 2),
        ("(", 0),
        ("a)", 1),
        ("é(a", 2),
        ("[a", 0),
        ("[]", 0),
        ("[z-a]", 1),
        (r"[\d-z]", 1),
        (r"\q", 0),
        ("a\\", 1),
        (r"\x1", 0),
        (r"\u12", 0),
        (r"\U00110000", 0),
        (r"\400", 0),
        (r"\8", 0),
        (r"[\8]", 1),
        (r"(a\1)", 2),
        (r"\1(a)", 0),
        ("(?P<1>a)", 4),
        ("(?P<a>a)(?P<a>b)", 8),
        ("(?P=x)", 4),
        ("a(?i)", 1),
        ("(?L)a", 2),
        ("(?i-i:a)", 4),
        ("(?-u:a)", 2),
        ("(?z)", 2),
        ("(?a)(?u)b", 4),
        ("(?<=a+)b", 0),
        (r"(a)(?<=(b)\2)", 10),
        ("(?(1)a)", 3),
        ("(?(x)a)", 3),
        ("(a)(?(1)a|b|c)", 11),
        ("a{3,2}", 2),
        ("a{4294967295}", 2),
        ("(?#", 0),
        ("(?P", 3),
    ] {
        refused(TEXT, pattern, at);
    }
    refused(BYTES, r"\u0041", 0);
    refused(BYTES, "(?u)a", 2);
    assert!(Program::new("(?L)a", BYTES).is_ok());
}

#[test]
fn programs_are_bounded() {
    let error = Program::new(r"\w{5000}{1}", TEXT).unwrap_err();
    assert_eq!(error.message, "a repeat cannot be repeated");
    let error = Program::new(r"(?:\w{500}){500}", TEXT).unwrap_err();
    assert_eq!(error.message, "the pattern is too large");
    assert!(Program::new(r"(?:(?:\w{500}){500}(?=a)){500}", TEXT).is_err());
    let deep = format!("{}a{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(Program::new(&deep, TEXT).unwrap_err().message, "groups are nested too deeply");
    let deep = format!("{}a{}", "(".repeat(90), ")".repeat(90));
    assert!(Program::new(&deep, TEXT).is_ok());
}

#[test]
fn too_much_backtracking_is_an_error() {
    let program = Program::new(r"^(?:(a|aa)+)\1$", TEXT).unwrap();
    assert!(program.search(format!("{}b", "a".repeat(40)).as_bytes()).is_err());
    assert!(program.search(b"aaaa").unwrap());
}

#[test]
fn a_long_text_is_not_too_much_backtracking() {
    let program = Program::new(r"(?:a|ab)(?=(x))\1|(\w)(?=:)", BYTES).unwrap();
    for len in [1 << 10, 256 << 10, 300 << 10, 3 << 20] {
        let mut text = b"ab".repeat(len / 2);
        assert!(!program.search(&text).unwrap());
        text.extend_from_slice(b"ax");
        assert!(program.search(&text).unwrap());
    }
}
