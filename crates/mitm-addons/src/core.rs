//! [`Core`]: the commands that belong to no other feature: options, and changes of flows.

mod flows;

use std::path::Path;

use mitm_addon::{Addon, HookResult, Loader};
use mitm_options::{ArgType, CommandDecl, CommandError};
use tracing::warn;

/// Owns the commands.
#[derive(Default)]
pub struct Core;

impl Addon for Core {
    fn name(&self) -> &'static str {
        "core"
    }

    fn load(&self, loader: &Loader<'_>) -> HookResult {
        options(loader);
        proxy(loader);
        flows::register(loader);
        Ok(())
    }
}

fn options(loader: &Loader<'_>) {
    let commands = loader.master.commands();
    let registry = loader.master.options().clone();

    let decl = CommandDecl::new(
        "set",
        "Set an option. Of several values a list is made. Without a value, booleans become true, optional \
         values none, and lists empty.",
    )
    .arg("option", ArgType::Str)
    .rest("value", ArgType::Str);
    let options = registry.clone();
    commands.add(decl, move |mut args| {
        let (name, values) = (args.str()?, args.rest()?);
        let specs = if values.is_empty() {
            vec![name]
        } else {
            values.iter().map(|value| format!("{name}={value}")).collect()
        };
        for warning in options.set_specs(&specs, false)? {
            warn!("{warning}");
        }
        Ok(())
    });

    let decl = CommandDecl::new("options.load", "Load options from a YAML file.")
        .arg("path", ArgType::Path);
    let options = registry.clone();
    commands.add(decl, move |mut args| {
        let path = args.str()?;
        let warnings = options
            .load_config(Path::new(&path))
            .map_err(|error| CommandError::new(format!("Could not load options - {error}")))?;
        for warning in warnings {
            warn!("{warning}");
        }
        Ok(())
    });

    let decl =
        CommandDecl::new("options.save", "Save the options that differ from their defaults.")
            .arg("path", ArgType::Path);
    let options = registry.clone();
    commands.add(decl, move |mut args| {
        let path = args.str()?;
        options
            .save(Path::new(&path), false)
            .map_err(|error| CommandError::new(format!("Could not save options - {error}")))
    });

    let decl = CommandDecl::new("options.reset", "Set all options to their defaults.");
    let options = registry.clone();
    commands.add(decl, move |_| Ok(options.reset()?));

    let decl = CommandDecl::new("options.reset.one", "Set one option to its default.")
        .arg("name", ArgType::Str);
    commands.add(decl, move |mut args| Ok(registry.reset_one(&args.str()?)?));
}

fn proxy(loader: &Loader<'_>) {
    let decl = CommandDecl::new(
        "proxyserver.active_connections",
        "Return the number of clients that are connected.",
    )
    .returns(ArgType::Int);
    let master = loader.master.downgrade();
    loader.master.commands().add(decl, move |_| {
        let count = master.upgrade().map_or(0, |master| master.proxy().connections());
        Ok(i64::try_from(count).unwrap_or(i64::MAX))
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mitm_addon::{Master, testing};
    use mitm_options::{RetValue, core::LISTEN_HOST, core::LISTEN_PORT};

    use super::*;

    fn master() -> Master {
        testing::master_with(Arc::new(Core)).unwrap()
    }

    #[test]
    fn options_are_set() {
        let master = master();
        let execute = |line: &str| master.commands().execute(line);
        execute("set listen_host 127.0.0.1").unwrap();
        execute("set mode regular regular@8081").unwrap();
        assert_eq!(master.options().get(&LISTEN_HOST), "127.0.0.1");
        assert_eq!(master.options().get(&mitm_options::core::MODE).len(), 2);
        let error = execute("set listen_port a").unwrap_err().to_string();
        assert!(error.contains("listen_port"), "{error}");
        assert!(execute("set nope 1").unwrap_err().to_string().contains("nope"));
        execute("options.reset.one listen_host").unwrap();
        assert_eq!(master.options().get(&LISTEN_HOST), "");
        let error = execute("options.reset.one nope").unwrap_err().to_string();
        assert_eq!(error, "No such option: nope");
        execute("options.reset").unwrap();
        assert_eq!(master.options().get(&mitm_options::core::MODE), ["regular"]);
    }

    #[test]
    fn options_are_saved_and_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let path = path.to_str().unwrap();
        let master = master();
        let execute = |line: &str| master.commands().execute(line);
        execute("set listen_port 81").unwrap();
        execute(&format!("options.save {path}")).unwrap();
        execute("options.reset").unwrap();
        assert_eq!(master.options().get(&LISTEN_PORT), None);
        execute(&format!("options.load {path}")).unwrap();
        assert_eq!(master.options().get(&LISTEN_PORT), Some(81));
        let error = execute("options.save /dev/null/x").unwrap_err().to_string();
        assert!(error.starts_with("Could not save options - "), "{error}");
        std::fs::write(path, "- not a mapping").unwrap();
        let error = execute(&format!("options.load {path}")).unwrap_err().to_string();
        assert!(error.starts_with("Could not load options - "), "{error}");
    }

    #[test]
    fn connections_are_counted() {
        let count = master().commands().execute("proxyserver.active_connections");
        assert!(matches!(count, Ok(RetValue::Int(0))));
    }
}
