use mitm_flow::test_util::http_flow;

use super::*;

/// Commands of every kind; `@two` stands for two flows, `@one` for one, the rest for none.
fn commands() -> Commands {
    let commands = Commands::new();
    let flow = http_flow();
    let resolve = CommandDecl::new("view.flows.resolve", "Resolve a flow spec.")
        .arg("flow_spec", ArgType::Str)
        .returns(ArgType::Flows);
    commands.add(resolve, move |mut args| match args.str()?.as_str() {
        "@two" => Ok(vec![flow.clone(), http_flow()]),
        "@one" => Ok(vec![flow.clone()]),
        "~bad (" => Err(CommandError::new("Invalid filter expression: '~bad ('")),
        _ => Ok(Vec::new()),
    });
    let options = CommandDecl::new("colour.options", "").returns(ArgType::StrSeq);
    commands.add(options, |_| Ok(vec!["red".to_owned(), "dark red".to_owned()]));
    let echo = CommandDecl::new("echo", "Say what was said.")
        .arg("text", ArgType::Str)
        .optional("times", ArgType::Int, 1)
        .returns(ArgType::Str);
    commands.add(echo, |mut args| {
        let (text, times) = (args.str()?, args.int()?);
        Ok(text.repeat(usize::try_from(times).unwrap_or(0)))
    });
    let set = CommandDecl::new("set", "").arg("option", ArgType::Str).rest("value", ArgType::Str);
    commands.add(set.returns(ArgType::StrSeq), |mut args| {
        let mut all = vec![args.str()?];
        all.extend(args.rest()?);
        Ok(all)
    });
    let paint = CommandDecl::new("paint", "")
        .arg("flow", ArgType::Flow)
        .arg("colour", ArgType::Choice("colour.options".into()))
        .arg("wet", ArgType::Bool);
    commands.add(paint, |_| Ok(()));
    let count = CommandDecl::new("count", "").arg("flows", ArgType::Flows).returns(ArgType::Int);
    commands.add(count, |mut args| Ok(i64::try_from(args.flows()?.len()).unwrap_or(i64::MAX)));
    let liar = CommandDecl::new("liar", "").returns(ArgType::Int);
    commands.add(liar, |_| Ok("three"));
    let choose = CommandDecl::new("choose", "")
        .arg("prompt", ArgType::Str)
        .arg("cmd", ArgType::Cmd)
        .rest("args", ArgType::Arg);
    commands.add(choose, |_| Ok(()));
    let mark = CommandDecl::new("mark", "").arg("m", ArgType::Marker).arg("cut", ArgType::CutSpec);
    commands.add(mark, |_| Ok(()));
    commands
}

fn run(line: &str) -> String {
    match commands().execute(line) {
        Ok(RetValue::None) => "ok".to_owned(),
        Ok(RetValue::Str(text)) => text,
        Ok(RetValue::Strs(list)) => list.join("|"),
        Ok(RetValue::Int(number)) => number.to_string(),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn lines_are_executed() {
    for (line, result) in [
        ("echo hi", "hi"),
        ("\"echo\" 'a b' 2", "a ba b"),
        ("echo a\\tb", "a\tb"),
        ("set a", "a"),
        ("set a b 'c d'", "a|b|c d"),
        ("count @two", "2"),
        ("count ~nothing", "0"),
        ("paint @one 'dark red' true", "ok"),
        ("mark :grapes: request.url,response.content", "ok"),
        ("choose ? echo {choice}", "ok"),
        ("", "Invalid command: ''"),
        (" \t", "Invalid command: ''"),
        ("nope x", "Unknown command: nope"),
        ("choose ? nope", "Unknown command: nope"),
        ("echo a x", "Not an integer: x"),
        ("echo \\xzz", "invalid \\x escape"),
        ("paint @two red true", "Command requires one flow, specification matched 2."),
        ("paint @none red true", "Command requires one flow, specification matched 0."),
        ("paint @one blue true", "Invalid choice. Valid are 'red', 'dark red', got blue"),
        ("paint @one red yes", "Booleans are 'true' or 'false', got yes"),
        ("count '~bad ('", "Invalid filter expression: '~bad ('"),
        ("liar", "liar returned unexpected data - expected int"),
        (
            "echo",
            "Command argument mismatch: expected echo(text: str, times: int), but got nothing",
        ),
        (
            "count a 'b c'",
            "Command argument mismatch: expected count(flows: flow[]), but got a \"b c\"",
        ),
    ] {
        assert_eq!(run(line), result, "{line}");
    }
}

#[test]
fn without_a_view_flow_arguments_fail_by_name() {
    let commands = Commands::new();
    commands.add(CommandDecl::new("count", "").arg("flows", ArgType::Flows), |_| Ok(()));
    let error = commands.execute("count @all").unwrap_err().to_string();
    assert_eq!(error, "Unknown command: view.flows.resolve");
}

#[test]
fn ready_values_are_checked() {
    let commands = commands();
    assert!(matches!(commands.call("count", vec![vec![http_flow()].into()]), Ok(RetValue::Int(1))));
    assert!(matches!(commands.call("echo", vec!["x".into()]), Ok(RetValue::Str(s)) if s == "x"));
    for args in [vec![], vec![ArgValue::Int(1)], vec!["a".into(), 1.into(), 2.into()]] {
        assert!(matches!(commands.call("echo", args), Err(CommandError::Mismatch { .. })));
    }
    assert_eq!(commands.call("nope", vec![]).unwrap_err(), CommandError::Unknown("nope".into()));
}

#[test]
fn a_command_of_the_same_name_is_replaced() {
    let commands = commands();
    commands.add(CommandDecl::new("echo", "").returns(ArgType::Str), |_| Ok("new"));
    assert!(matches!(commands.execute("echo"), Ok(RetValue::Str(s)) if s == "new"));
}

#[test]
fn dump_shows_help_and_signature() {
    let commands = Commands::new();
    let decl = CommandDecl::new("b.c", "Help that is\n   wrapped.")
        .arg("flows", ArgType::Flows)
        .rest("args", ArgType::Arg)
        .returns(ArgType::StrSeq);
    commands.add(decl, |_| Ok(Vec::<String>::new()));
    commands.add(CommandDecl::new("a", ""), |_| Ok(()));
    let expected = "a\n\n# Help that is wrapped.\nb.c flows *args -> str[]\n\n";
    assert_eq!(commands.dump(), expected);
}

fn parts(line: &str) -> Vec<(String, String, bool)> {
    let parts = commands().parse_partial(line).parts.into_iter();
    let parts = parts.filter(|part| part.ty != PartType::Space);
    parts
        .map(|part| {
            let ty = match part.ty {
                PartType::Arg(ty) => ty.to_string(),
                PartType::Space | PartType::Unknown => "unknown".to_owned(),
            };
            (part.text, ty, part.valid)
        })
        .collect()
}

#[test]
fn unfinished_lines_are_understood() {
    let part = |text: &str, ty: &str, valid| (text.to_owned(), ty.to_owned(), valid);
    assert_eq!(
        parts("paint @two 'dark red' maybe more"),
        [
            part("paint", "cmd", true),
            part("@two", "flow", false),
            part("'dark red'", "choice", true),
            part("maybe", "bool", false),
            part("more", "unknown", false),
        ]
    );
    assert_eq!(parts("nope x"), [part("nope", "cmd", false), part("x", "unknown", false)]);
    assert_eq!(
        parts("choose ? echo hi x"),
        [
            part("choose", "cmd", true),
            part("?", "str", true),
            part("echo", "cmd", true),
            part("hi", "str", true),
            part("x", "int", false),
        ]
    );
    assert_eq!(parts("set a b c").last(), Some(&part("c", "str", true)));
    let remaining = commands().parse_partial("paint @one ").remaining;
    let names: Vec<_> = remaining.iter().map(|param| param.name.to_string()).collect();
    assert_eq!(names, ["colour", "wet"]);
}

#[test]
fn words_are_completed() {
    let complete = |line: &str| commands().complete(line);
    let candidates = |line: &str| complete(line).candidates;
    assert_eq!(candidates("co"), ["colour.options", "count"]);
    assert_eq!(complete("  co").start, 2);
    assert_eq!(candidates("").len(), commands().names().len());
    assert_eq!(candidates("count @a"), ["@all"]);
    assert_eq!(candidates("count ").len(), 19);
    assert_eq!(candidates("paint @one "), ["red", "\"dark red\""]);
    assert_eq!(candidates("paint @one \"dark"), ["\"dark red\""]);
    assert_eq!(complete("paint @one \"dark").start, 11);
    assert_eq!(candidates("paint @one red "), ["false", "true"]);
    assert_eq!(candidates("mark :grap"), [":grapes:"]);
    assert_eq!(candidates("mark x request.url,client_conn.s"), ["request.url,client_conn.sni"]);
    assert_eq!(candidates("choose ? ec"), ["echo"]);
    assert!(candidates("nope x").is_empty());
    assert!(candidates("echo a 1 ").is_empty());
}

#[test]
fn paths_are_completed() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_str().unwrap();
    std::fs::create_dir(dir.path().join("sub dir")).unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::fs::write(dir.path().join(".hidden"), "").unwrap();
    let commands = Commands::new();
    commands.add(CommandDecl::new("load", "").arg("path", ArgType::Path), |_| Ok(()));
    let candidates = |line: String| commands.complete(&line).candidates;
    assert_eq!(
        candidates(format!("load {base}/")),
        [format!("{base}/file"), format!("\"{base}/sub dir/\"")]
    );
    assert_eq!(candidates(format!("load {base}/fi")), [format!("{base}/file")]);
    assert_eq!(candidates(format!("load {base}/.h")), [format!("{base}/.hidden")]);
    assert!(candidates(format!("load {base}/none/")).is_empty());
}
