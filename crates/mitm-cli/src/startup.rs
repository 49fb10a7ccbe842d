//! From [`Args`] to options: configuration files first, then `--set`, then the flags, so that the command line wins
//! over the file and a flag over `--set`.

use std::fs;

use mitm_addon::Master;
use mitm_filter::ParseError;
use mitm_options::{OptionValue, Options, OptionsError, core as opts, expand_user};
use thiserror::Error;
use tracing::{info, warn};

use crate::{args::Args, not_yet};

/// The options that the words after the flags set.
const FILTERS: [&str; 3] = ["dumper_filter", "readfile_filter", "save_stream_filter"];

/// Why a program does not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("{0}\n{caret}", caret = .0.caret())]
    Filter(ParseError),
    #[error("cannot read {path}: {error}")]
    Config { path: String, error: std::io::Error },
    #[error("{0}: {MESSAGE}", MESSAGE = not_yet::MESSAGE)]
    NotYet(String),
}

/// Sets all options that `args` and the configuration files name.
pub(crate) fn configure(master: &Master, args: &Args) -> Result<(), StartError> {
    let options = master.options();
    // Before anything is set: a file to write to must not be emptied for a filter that is none.
    if let Some(filter) = &args.filter {
        mitm_filter::parse(filter).map_err(StartError::Filter)?;
    }
    let mut warnings = load_files(options, args)?;
    warnings.extend(options.set_specs(&args.set, true)?);
    warnings.extend(options.set_specs(&args.old, false)?);
    let mut changes: Vec<_> =
        args.options.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(filter) = &args.filter {
        let filter = OptionValue::Str(filter.clone());
        changes.extend(FILTERS.map(|name| (name.to_owned(), filter.clone())));
    }
    options.update(changes)?;
    // Now it is known what is to be seen of the log.
    for warning in warnings {
        warn!("{warning}");
    }
    if let Some(filter) = &args.filter {
        info!("Only processing flows that match \"{filter}\"");
    }
    Ok(())
}

fn load_files(options: &Options, args: &Args) -> Result<Vec<String>, StartError> {
    if let Some(path) = &args.conf {
        let file = expand_user(path);
        // The usual files may be missing, one that was asked for may not.
        fs::metadata(&file).map_err(|error| StartError::Config { path: path.clone(), error })?;
        return Ok(options.load_config(&file)?);
    }
    let confdir = args.confdir.clone().unwrap_or_else(|| opts::CONFDIR.default());
    Ok(options.load_config_dir(&expand_user(&confdir))?)
}

/// Says which options were set that nobody has, when everything is loaded.
pub(crate) fn name_unknown(options: &Options) -> Result<(), StartError> {
    for unknown in options.unknown_deferred() {
        let name = unknown.name;
        match (unknown.origin, not_yet::is_option_to_come(&name)) {
            (None, true) => return Err(StartError::NotYet(name)),
            (None, false) => warn!("unknown option {name} has no effect (--options lists all)"),
            (Some(origin), true) => warn!("{origin}: {name}: {}", not_yet::MESSAGE),
            (Some(origin), false) => {
                warn!("{origin}: unknown option {name} has no effect (--options lists all)");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use mitm_addon::log::EventLog;
    use mitm_addons::Output;
    use mitm_options::Declare as _;

    use super::*;
    use crate::{
        args,
        flags::{self, Does, Takes, Tool},
        not_yet::{self, NotYet},
    };

    fn master() -> Master {
        let master = Master::new(EventLog::default());
        master.add(Arc::new(NotYet)).unwrap();
        let addons = mitm_addons::dump_addons(master.log(), &Output::new(std::io::sink(), false));
        for addon in addons.addons {
            master.add(addon).unwrap();
        }
        master
    }

    /// Sets options as the words and the texts of `config.yaml` and `config.yml` say.
    fn start(words: &[&str], yaml: &str, yml: &str) -> Result<Options, StartError> {
        let confdir = tempfile::tempdir().unwrap();
        fs::write(confdir.path().join("config.yaml"), yaml).unwrap();
        fs::write(confdir.path().join("config.yml"), yml).unwrap();
        start_in(confdir.path(), words)
    }

    fn start_in(confdir: &Path, words: &[&str]) -> Result<Options, StartError> {
        let confdir = confdir.to_str().unwrap();
        let words = ["mitmdump", "--confdir", confdir].into_iter().chain(words.iter().copied());
        let args = args::parse(Tool::Mitmdump, words, 100).unwrap();
        let master = master();
        configure(&master, &args)?;
        name_unknown(master.options())?;
        Ok(master.options().clone())
    }

    fn port(words: &[&str], yaml: &str, yml: &str) -> Option<i64> {
        start(words, yaml, yml).unwrap().get(&opts::LISTEN_PORT)
    }

    #[test]
    fn flags_win_over_set_and_set_over_files() {
        let (yaml, yml) = ("listen_port: 1", "listen_port: 2");
        assert_eq!(port(&[], "", ""), None);
        assert_eq!(port(&[], yaml, ""), Some(1));
        assert_eq!(port(&[], yaml, yml), Some(2));
        assert_eq!(port(&["--set", "listen_port=3"], yaml, yml), Some(3));
        assert_eq!(port(&["-p", "4", "--set", "listen_port=3"], yaml, yml), Some(4));
        assert_eq!(port(&["--set", "listen_port"], yaml, yml), None);
    }

    #[test]
    fn lists_and_shorthands_replace_what_files_say() {
        let options = start(
            &["-m", "regular@1", "-v"],
            "mode: [regular@2, regular@3]\nflow_detail: 4\ntermlog_verbosity: warn",
            "",
        )
        .unwrap();
        assert_eq!(options.get(&opts::MODE), ["regular@1"]);
        assert_eq!(options.get_value("flow_detail"), Some(2.into()));
        assert_eq!(options.get_value("termlog_verbosity"), Some("debug".into()));
    }

    #[test]
    fn words_set_three_filters() {
        let options = start(&["~m", "post"], "dumper_filter: ~q", "").unwrap();
        for name in FILTERS {
            assert_eq!(options.get_value(name), Some("~m post".into()), "{name}");
        }
    }

    #[test]
    fn a_bad_filter_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::write(&out, "old").unwrap();
        let error = start_in(dir.path(), &["-w", out.to_str().unwrap(), "~q & ("]).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("Invalid filter expression: '~q & ('"), "{text}");
        assert!(text.ends_with("\n~q & (\n      ^"), "{text}");
        assert_eq!(fs::read(&out).unwrap(), b"old");
    }

    #[test]
    fn another_file_can_take_the_place_of_the_usual_ones() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine");
        fs::write(&file, "listen_port: 5").unwrap();
        fs::write(dir.path().join("config.yaml"), "listen_port: nonsense").unwrap();
        let options = start_in(dir.path(), &["--conf", file.to_str().unwrap()]).unwrap();
        assert_eq!(options.get(&opts::LISTEN_PORT), Some(5));
        let error = start_in(dir.path(), &["--conf", "/no/such"]).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /no/such: No such file"), "{error}");
    }

    #[test]
    fn old_tls_versions_become_bounds() {
        let options = start(&["--ssl-version-client", "TLSv1_2"], "", "").unwrap();
        assert_eq!(options.get(&opts::TLS_VERSION_CLIENT_MIN), "TLS1_2");
        assert_eq!(options.get(&opts::TLS_VERSION_CLIENT_MAX), "TLS1_2");
        let error = start(&["--ssl-version-server", "SSLv2"], "", "").unwrap_err().to_string();
        assert!(error.contains("ssl_version_server"), "{error}");
    }

    #[test]
    fn features_to_come_are_refused_when_asked_for_by_option() {
        for (words, yaml) in [
            (&["--set", "udp_hosts=x"][..], ""),
            (&[], "udp_hosts: [x]"),
            (&["--set", "anticache=true"], ""),
            (&["--set", "setheaders=/a/b"], ""),
        ] {
            let refused = start(words, yaml, "").map(|_| ());
            // What an old name became has no origin on the command line, as a name of today has none.
            let error = refused.unwrap_err().to_string();
            assert!(error.ends_with(": not supported yet by mitm-rs 0.1"), "{words:?}: {error}");
        }
        // A file that mitmproxy reads as well may name them; a warning is logged.
        start(&["--set", "no_such_thing=1"], "anticache: true\nweb_port: 1\nnope: 2", "").unwrap();
    }

    #[test]
    fn every_flag_has_its_option() {
        let master = master();
        for flag in flags::of(Tool::Mitmdump) {
            let (name, value) = match (flag.does, flag.takes) {
                (Does::Switch(name, value), _) => (name, value.into()),
                (Does::Set(name), Takes::Number(_) | Takes::Port(_)) => (name, 1.into()),
                (Does::Set(name), Takes::Many(_)) => (name, OptionValue::Strs(Vec::new())),
                (Does::Set(name), _) => (name, "x".into()),
                _ => continue,
            };
            let decl = master.options().decl(name).unwrap_or_else(|| panic!("{name}"));
            decl.decl().check(&value).unwrap();
        }
        for name in not_yet::TO_COME {
            assert!(!master.options().contains(name), "{name} has come");
        }
    }
}
