//! Options as text: saved to a configuration file, and annotated as `--options` prints them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use mitm_flow::Value;
use serde::ser::{Serialize, SerializeSeq as _, Serializer};

use crate::{OptionDecl, Options, OptionsError, compat, config, text};

impl Options {
    /// Returns all options as annotated YAML: sorted, each after its help and what it may be, with
    /// its default. The text is a valid configuration file.
    pub fn annotated(&self) -> String {
        let mut out = String::new();
        for (decl, _) in self.all() {
            out.push('\n');
            text::push_comment(&mut out, &help_line(&decl));
            push_entry(&mut out, decl.name(), &decl.default().to_value());
        }
        out
    }

    /// Writes the options that differ from their default into a file (with `defaults`, all of them).
    ///
    /// What an existing file says about options that have their default now stays, at its place;
    /// names that are no options and comments do not. The file is replaced in one step.
    ///
    /// # Errors
    ///
    /// [`OptionsError::Read`] if the existing file is no configuration file (it is left alone),
    /// [`OptionsError::Write`] if the file could not be written.
    pub fn save(&self, path: &Path, defaults: bool) -> Result<(), OptionsError> {
        let shown = path.display().to_string();
        let unreadable = |reason: String| OptionsError::Read { path: shown.clone(), reason };
        let old = config::read_file(path).map_err(unreadable)?.unwrap_or_default();
        let text = self.to_yaml(&old, defaults).map_err(|error| unreadable(error.to_string()))?;
        replace_file(path, &text)
            .map_err(|error| OptionsError::Write { path: shown.clone(), reason: error.to_string() })
    }

    /// Returns what [`save`](Self::save) writes, given what the file held.
    pub fn to_yaml(&self, old: &str, defaults: bool) -> Result<String, OptionsError> {
        let (old, _) = compat::upgrade_file(config::parse(old)?, &|name| self.contains(name))?;
        let mut entries: IndexMap<String, Value> = IndexMap::new();
        for entry in old {
            if self.contains(&entry.name) {
                entries.insert(entry.name, entry.value);
            }
        }
        for (decl, value) in self.all() {
            if defaults || value != *decl.default() {
                entries.insert(decl.name().to_string(), value.to_value());
            }
        }
        let mut out = String::new();
        for (name, value) in &entries {
            push_entry(&mut out, name, value);
        }
        Ok(out)
    }
}

/// Returns the help of an option with its type or its valid values.
pub fn help_line(decl: &OptionDecl) -> String {
    let help = decl.help();
    if decl.choices().is_empty() {
        format!("{help} Type {}.", decl.ty())
    } else {
        format!("{help} Valid values are {}.", text::quoted_list(decl.choices()))
    }
}

/// Appends `name: value`.
fn push_entry(out: &mut String, name: &str, value: &Value) {
    let before = out.len();
    if *value == Value::Null {
        // As YAML is mostly written; the serializer would spell it out.
        let entry = serde_saphyr::to_string(&name).unwrap_or_default();
        out.push_str(entry.trim_end());
        out.push_str(":\n");
        return;
    }
    let options =
        serde_saphyr::ser_options! { compact_list_indent: true, prefer_block_scalars: false };
    let entry = BTreeMap::from([(name, Node(value))]);
    if serde_saphyr::to_fmt_writer_with_options(out, &entry, options).is_err() {
        // Only a value that serde cannot name fails, and options hold none.
        out.truncate(before);
    }
}

/// Replaces a file by way of a temporary one beside it, so that a full disk leaves the old one.
fn replace_file(path: &Path, text: &str) -> std::io::Result<()> {
    // A link stays a link: the file it leads to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Some(name) = target.file_name() else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a file name"));
    };
    if target.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let temporary = Temporary(target.with_file_name(hidden));
    fs::write(&temporary.0, text)?;
    if let Ok(metadata) = fs::metadata(&target) {
        fs::set_permissions(&temporary.0, metadata.permissions())?;
    }
    fs::rename(&temporary.0, &target)
}

/// A file that is removed again, unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing is there after the rename.
        drop(fs::remove_file(&self.0));
    }
}

struct Node<'a>(&'a Value);

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Int(i) => serializer.serialize_i64(*i),
            Value::Float(f) => serializer.serialize_f64(*f),
            Value::Str(s) => serializer.serialize_str(s),
            Value::Bytes(bytes) => serializer.serialize_str(&String::from_utf8_lossy(bytes)),
            Value::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(&Node(item))?;
                }
                seq.end()
            }
            Value::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (Node(key), Node(value))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Opt, OptionValue};

    static FLAG: Opt<bool> = Opt::new("flag", false, "Whether the flag is up.");
    static NAME: Opt<String> = Opt::<String>::new("name", "~/.x", "The name.");
    static ORDER: Opt<String> =
        Opt::<String>::new("order", "time", "The order.").choices(&["time", "url"]);
    static PORT: Opt<Option<i64>> = Opt::new("port", None, "The port.");
    static LIST: Opt<Vec<String>> = Opt::<Vec<String>>::new("list", &[], "The list.");
    static MODE: Opt<Vec<String>> = Opt::<Vec<String>>::new("mode", &["regular", "a: b"], "");

    fn options() -> Options {
        let options = Options::new();
        options.register_all(&[&FLAG, &NAME, &ORDER, &PORT, &LIST, &MODE]);
        options
    }

    #[test]
    fn annotated_text_is_a_configuration_file() {
        let text = options().annotated();
        let expected = "
# Whether the flag is up. Type bool.
flag: false

# The list. Type sequence of str.
list: []

# Type sequence of str.
mode:
- regular
- \"a: b\"

# The name. Type str.
name: ~/.x

# The order. Valid values are 'time', 'url'.
order: time

# The port. Type optional int.
port:
";
        assert_eq!(text, expected);
        let options = options();
        options.load_config_text(&text, Path::new("")).unwrap();
        assert!(options.names().iter().all(|name| options.has_changed(name) == Some(false)));
    }

    #[test]
    fn only_changes_are_saved() {
        let options = options();
        assert_eq!(options.to_yaml("", false).unwrap(), "");
        options.set_specs(&["flag", "list=a", "list="], false).unwrap();
        assert_eq!(options.to_yaml("", false).unwrap(), "flag: true\nlist:\n- a\n- \"\"\n");
    }

    #[test]
    fn what_the_file_said_stays_unless_it_is_changed_or_no_option() {
        let options = options();
        options.set(&PORT, Some(1)).unwrap();
        let old = "order: url # why\nnope: 1\nport: 2\n";
        assert_eq!(options.to_yaml(old, false).unwrap(), "order: url\nport: 1\n");
        assert!(options.to_yaml("foo", false).is_err());
    }

    #[test]
    fn files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        let options = options();
        options.set(&FLAG, true).unwrap();
        options.save(&path, false).unwrap();
        options.set(&PORT, Some(3)).unwrap();
        options.save(&path, false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "flag: true\nport: 3\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "- corrupt").unwrap();
        assert!(options.save(&path, false).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "- corrupt");
        let error = options.save(&dir.path().join("no/x"), false).unwrap_err();
        assert!(matches!(error, OptionsError::Write { .. }));
    }

    proptest! {
        #[test]
        fn saved_values_are_read_back(name in any::<String>(), list in any::<Vec<String>>(), port in any::<Option<i64>>()) {
            let saved = options();
            saved.update(vec![
                ("name".into(), name.into()), ("list".into(), list.into()), ("port".into(), port.into()),
            ]).unwrap();
            let text = saved.to_yaml("", true).unwrap();
            let loaded = options();
            loaded.load_config_text(&text, Path::new("")).unwrap();
            let values = |options: &Options| -> Vec<OptionValue> {
                options.all().into_iter().map(|(_, value)| value).collect()
            };
            prop_assert_eq!(values(&saved), values(&loaded), "{}", text);
        }
    }
}
