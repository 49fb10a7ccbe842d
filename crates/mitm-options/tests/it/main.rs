//! Start-up as a program does it: configuration file, `--set`, flags, options that come late.

use std::{fs, sync::Arc};

use mitm_options::{
    ArgType, CommandDecl, Commands, Opt, OptionDecl, OptionType, Options, OptionsError, core,
    register_core,
};

#[test]
fn command_line_beats_file_beats_default() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("config.yaml"),
        "listen_port: 1\nshowhost: true\nscript_level: 1\nscript_name: file\nscripts: [s.py]\n",
    )
    .unwrap();
    fs::write(dir.path().join("config.yml"), "listen_port: 2\ntcp_timeout: 7\n").unwrap();

    let options = Options::new();
    register_core(&options);
    options.register_all(&[&SCRIPTS]);
    // A script, once loaded, declares options of its own.
    options.on_change(Arc::new(|options, updated| {
        if updated.contains("scripts") && !options.get(&SCRIPTS).is_empty() {
            for name in ["script_level", "script_name"] {
                let (ty, default) = match name {
                    "script_level" => (OptionType::Int, 0.into()),
                    _ => (OptionType::Str, "none".into()),
                };
                options.register(OptionDecl::new(name, ty, default, "", Vec::new())?);
            }
            options.apply_deferred()?;
        }
        if options.get(&core::TCP_TIMEOUT) < 0 {
            return Err(OptionsError::invalid("tcp_timeout must not be negative"));
        }
        Ok(())
    }));

    options.load_config_dir(dir.path()).unwrap();
    options.set_specs(&["script_level=2", "tcp_timeout=8", "typo=1"], true).unwrap();
    options.update(vec![core::LISTEN_PORT.to(Some(3))]).unwrap();

    assert_eq!(options.get(&core::LISTEN_PORT), Some(3));
    assert!(options.get(&core::SHOWHOST));
    assert_eq!(options.get(&core::TCP_TIMEOUT), 8);
    assert_eq!(options.get(&SCRIPTS), [dir.path().join("s.py").to_str().unwrap()]);
    // The script was loaded by the file, before `--set` was read.
    assert_eq!(options.get_value("script_level"), Some(2.into()));
    assert_eq!(options.get_value("script_name"), Some("file".into()));
    let unknown: Vec<_> = options.unknown_deferred().into_iter().map(|o| o.name).collect();
    assert_eq!(unknown, ["typo"]);

    assert!(options.set_specs(&["tcp_timeout=-1", "showhost=toggle"], false).is_err());
    assert!(options.get(&core::SHOWHOST));
}

static SCRIPTS: Opt<Vec<String>> = Opt::<Vec<String>>::new("scripts", &[], "Scripts to run.");

#[test]
fn an_addon_sets_options_by_command() {
    let options = Options::new();
    register_core(&options);
    let commands = Commands::new();
    let target = options.clone();
    let decl = CommandDecl::new("set", "Set an option.")
        .arg("option", ArgType::Str)
        .rest("value", ArgType::Str);
    commands.add(decl, move |mut args| {
        let name = args.str()?;
        let values = args.rest()?;
        let specs: Vec<_> = if values.is_empty() {
            vec![name]
        } else {
            values.iter().map(|value| format!("{name}={value}")).collect()
        };
        target.set_specs(&specs, false)?;
        Ok(())
    });
    commands.execute("set mode regular 'reverse:https://h:1'").unwrap();
    assert_eq!(options.get(&core::MODE), ["regular", "reverse:https://h:1"]);
    let error = commands.execute("set tls_version_client_min TLS9").unwrap_err().to_string();
    assert!(error.contains("tls_version_client_min") && error.contains("'TLS1_2'"), "{error}");
}

#[test]
fn the_annotated_options_are_all_there() {
    let options = Options::new();
    register_core(&options);
    let text = options.annotated();
    for option in core::REGISTER {
        let name = option.decl().name().clone();
        assert!(text.contains(&format!("\n{name}:")), "{name}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 72));
}
