//! The texts of `--help` and `--version`.

use mitm_cli::{
    args::parse,
    flags::{self, Tool},
    version,
};

#[test]
fn help() {
    let help = parse(Tool::Mitmdump, ["mitmdump", "-h"], 100).unwrap_err();
    assert_eq!((help.exit_code(), help.use_stderr()), (0, false));
    let help = help.to_string();
    insta::assert_snapshot!(help);
    for flag in flags::of(Tool::Mitmdump) {
        for long in flag.longs().filter(|_| !flag.is_later()) {
            assert!(help.contains(&format!("--{long}")), "{long}");
        }
    }
}

#[test]
fn narrow_terminals_get_narrow_help() {
    let help = parse(Tool::Mitmdump, ["mitmdump", "--help"], 60).unwrap_err().to_string();
    let is_prose = |line: &&str| !line.trim_start().starts_with("mitmdump ");
    for line in help.lines().filter(is_prose) {
        assert!(line.chars().count() <= 60, "{line}");
    }
}

#[test]
fn versions_have_four_lines() {
    let block = version::block();
    let names: Vec<_> = block.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["mitm-rs", "Python", "TLS", "Platform"]);
    assert!(
        block.starts_with("mitm-rs:  0.1.0 (compatible with mitmproxy 11 and 12)\n"),
        "{block}"
    );
}
