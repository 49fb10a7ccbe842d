//! Configuration files: one YAML mapping from option names to values.
//!
//! Values have exactly the type of their option; nothing is converted. Files of earlier versions are
//! understood (see `compat`). The input is not trusted: size and nesting are bounded, and tags
//! create nothing.

use std::{
    fmt, fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use mitm_flow::Value;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::{
    Options, OptionsError,
    compat::{self, FileEntry},
    registry::Origin,
    text,
};

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The deepest nesting that is read. Real files have two levels.
const MAX_DEPTH: usize = 16;

/// The files read from the configuration directory, in this order: the later wins.
pub const FILE_NAMES: [&str; 2] = ["config.yaml", "config.yml"];

impl Options {
    /// Reads `config.yaml` and `config.yml` of a directory; returns warnings.
    pub fn load_config_dir(&self, confdir: &Path) -> Result<Vec<String>, OptionsError> {
        let mut warnings = Vec::new();
        for name in FILE_NAMES {
            warnings.extend(self.load_config(&confdir.join(name))?);
        }
        Ok(warnings)
    }

    /// Sets what a file says, all or nothing, and returns warnings. A missing file says nothing.
    ///
    /// Names that no option has are kept until an option of that name is registered.
    ///
    /// # Errors
    ///
    /// [`OptionsError::Read`], with the path, the line and what is wrong there.
    pub fn load_config(&self, path: &Path) -> Result<Vec<String>, OptionsError> {
        let shown = path.display().to_string();
        let failed = |reason: String| OptionsError::Read { path: shown.clone(), reason };
        let Some(text) = read_file(path).map_err(failed)? else { return Ok(Vec::new()) };
        let base = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let dir = base.parent().map(PathBuf::from).unwrap_or_default();
        let warnings = self.load_text(&text, Some(&shown), &dir).map_err(|error| match error {
            read @ OptionsError::Read { .. } => read,
            other => failed(other.to_string()),
        })?;
        Ok(warnings.into_iter().map(|warning| format!("{shown}: {warning}")).collect())
    }

    /// Sets what a text says, as [`load_config`](Self::load_config) does; relative paths of scripts
    /// are taken from `dir`.
    pub fn load_config_text(&self, text: &str, dir: &Path) -> Result<Vec<String>, OptionsError> {
        self.load_text(text, None, dir)
    }

    fn load_text(
        &self,
        text: &str,
        path: Option<&str>,
        dir: &Path,
    ) -> Result<Vec<String>, OptionsError> {
        let entries = parse(text)?;
        let (entries, warnings) = compat::upgrade_file(entries, &|name| self.contains(name))?;
        let path: Option<Arc<str>> = path.map(Arc::from);
        let entries = entries.into_iter().map(|mut entry| {
            if entry.name == "scripts" {
                resolve_paths(&mut entry.value, dir);
            }
            let origin = Origin { path: path.clone(), line: entry.line };
            (entry.name, entry.value, origin)
        });
        self.set_entries(entries.collect())?;
        Ok(warnings)
    }
}

/// Reads a file that may be missing; fails with the reason.
pub(crate) fn read_file(path: &Path) -> Result<Option<String>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        format!("not UTF-8: invalid byte at offset {}", error.utf8_error().valid_up_to())
    })
}

/// Reads a configuration into its entries, in order.
pub(crate) fn parse(text: &str) -> Result<Vec<FileEntry>, OptionsError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH, max_nodes: 100_000 },
        strict_booleans: true,
        with_snippet: false,
    };
    let top: Option<Top> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| syntax_error(text, &error))?;
    match top {
        None => Ok(Vec::new()),
        Some(Top::Entries(entries)) => Ok(entries),
        Some(Top::Other) => Err(OptionsError::Config(
            " - no keys found. The file must be a mapping of options to values.".to_owned(),
        )),
    }
}

fn syntax_error(text: &str, error: &serde_saphyr::Error) -> OptionsError {
    let problem = error.to_string();
    let Some(at) = error.location().filter(|at| at.line() > 0) else {
        return OptionsError::Config(format!(": {problem}"));
    };
    let line = usize::try_from(at.line() - 1).ok().and_then(|line| text.lines().nth(line));
    let snippet = line.map(|line| line.trim_end().chars().take(200).collect::<String>());
    let snippet = snippet.filter(|snippet| !snippet.is_empty());
    let snippet = snippet.map_or(" ".to_owned(), |snippet| format!("\n    {snippet}\n"));
    OptionsError::Config(format!(" at line {}:{snippet}{problem}", at.line()))
}

/// Makes relative paths of scripts absolute.
fn resolve_paths(value: &mut Value, dir: &Path) {
    let Value::List(items) = value else { return };
    for item in items {
        if let Value::Str(path) = item {
            let absolute = dir.join(text::expand_user(path));
            *path = absolute.to_string_lossy().into_owned();
        }
    }
}

enum Top {
    Entries(Vec<FileEntry>),
    Other,
}

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopVisitor)
    }
}

struct TopVisitor;

macro_rules! other {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E>(self, _: $type) -> Result<Top, E> {
            Ok(Top::Other)
        })*
    };
}

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of options to values")
    }

    other!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Top, E> {
        Ok(Top::Entries(Vec::new()))
    }

    fn visit_none<E: de::Error>(self) -> Result<Top, E> {
        self.visit_unit()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Top, A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(Top::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let Node(value) = map.next_value()?;
            let line = key.referenced.line();
            entries.push(FileEntry { name: key.value, value, line });
        }
        Ok(Top::Entries(entries))
    }
}

/// Any YAML value. The depth is bounded by the budget of the parser.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node(Value::Int(value)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        let value = i64::try_from(value).map_err(|_| E::custom("number too large"))?;
        Ok(Node(Value::Int(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node(Value::Str(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(Node(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node(Value::List(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((Node(key), Node(value))) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(Node(Value::Map(entries)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Opt, OptionValue};

    static FLAG: Opt<bool> = Opt::new("flag", false, "A flag.");
    static NAME: Opt<String> = Opt::<String>::new("name", "x", "A name.").choices(&["x", "on"]);
    static PORT: Opt<Option<i64>> = Opt::new("port", None, "A port.");
    static SCRIPTS: Opt<Vec<String>> = Opt::<Vec<String>>::new("scripts", &[], "Scripts.");

    fn load(text: &str) -> Result<(Options, Vec<String>), String> {
        let options = Options::new();
        options.register_all(&[&FLAG, &NAME, &PORT, &SCRIPTS]);
        let warnings = options.load_config_text(text, Path::new("/conf"));
        warnings.map(|warnings| (options, warnings)).map_err(|error| error.to_string())
    }

    #[test]
    fn values_keep_their_yaml_types() {
        let (options, _) =
            load("# a comment\nflag: true\nname: on\nport: 8080\nscripts:\n- a.py\n- /b.py\n")
                .unwrap();
        assert!(options.get(&FLAG));
        assert_eq!(options.get(&NAME), "on");
        assert_eq!(options.get(&PORT), Some(8080));
        assert_eq!(options.get(&SCRIPTS), ["/conf/a.py", "/b.py"]);
        let (options, _) = load("port:\n").unwrap();
        assert_eq!(options.get(&PORT), None);
    }

    #[test]
    fn empty_files_say_nothing() {
        for text in ["", "\n\n", "# only a comment\n", "---\n", "{}"] {
            load(text).unwrap();
        }
    }

    #[test]
    fn other_documents_are_refused() {
        for text in ["foo", "- a\n- b", "[]", "3"] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with("Config error - no keys found."), "{text}: {error}");
        }
    }

    #[test]
    fn errors_say_the_line() {
        let error = load("flag: true\n\nport: 'x'\n").unwrap_err();
        assert_eq!(error, "line 3: Expected optional int for port, but got str.");
        let error = load("flag: yes\n").unwrap_err();
        assert_eq!(error, "line 1: Expected bool for flag, but got str.");
        let error = load("name: z\n").unwrap_err();
        assert_eq!(error, "line 1: invalid value 'z' for name: valid values are 'x', 'on'");
        let error = load("scripts: a.py\n").unwrap_err();
        assert_eq!(error, "line 1: Expected sequence of str for scripts, but got str.");
        let error = load("flag: true\nport: [1\nname: x\n").unwrap_err();
        assert!(error.starts_with("Config error at line "), "{error}");
        let error = load("flag: true\nflag: false\n").unwrap_err();
        assert!(error.starts_with("Config error at line 2:\n    flag: false\n"), "{error}");
    }

    #[test]
    fn an_invalid_file_changes_nothing() {
        let options = Options::new();
        options.register_all(&[&FLAG, &PORT]);
        assert!(options.load_config_text("flag: true\nport: x", Path::new("")).is_err());
        assert!(!options.get(&FLAG));
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(load(&"[".repeat(10_000)).is_err());
        assert!(load(&format!("a: {}{}", "[".repeat(40), "]".repeat(40))).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            bomb = format!("{bomb}a{i}: &a{i} [{refs}]\n");
        }
        assert!(load(&bomb).is_err());
        load("x: !!python/object/apply:os.system [true]\n").unwrap();
    }

    #[test]
    fn the_command_line_beats_the_file_also_for_late_options() {
        let options = Options::new();
        options.register_all(&[&FLAG, &NAME]);
        options
            .load_config_text("flag: true\nname: on\nport: 1\nscripts: [a]", Path::new("/c"))
            .unwrap();
        options.set_specs(&["flag=false", "port=2"], true).unwrap();
        options.register_all(&[&PORT, &SCRIPTS]);
        options.apply_deferred().unwrap();
        assert!(!options.get(&FLAG));
        assert_eq!(options.get(&NAME), "on");
        assert_eq!(options.get(&PORT), Some(2));
        assert_eq!(options.get(&SCRIPTS), ["/c/a"]);
    }

    #[test]
    fn late_values_are_refused_with_their_origin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        fs::write(&path, "\nport: x\nweb_port: 3\nnope: 1\n").unwrap();
        let options = Options::new();
        options.load_config_dir(dir.path()).unwrap();
        let unknown: Vec<_> = options.unknown_deferred().into_iter().map(|u| u.name).collect();
        assert_eq!(unknown, ["nope", "port"]);
        options.register_all(&[&PORT]);
        let error = options.apply_deferred().unwrap_err().to_string();
        let expected = "line 2: Expected optional int for port, but got str.";
        assert_eq!(error, format!("Error reading {}: {expected}", path.display()));
    }

    #[test]
    fn files_of_2_0_are_read() {
        let options = Options::new();
        crate::register_core(&options);
        let text =
            "no_server: true\nno_upstream_cert: true\ncadir: /ca\nmode: socks5\nverbosity: 3\n";
        let warnings = options.load_config_text(text, Path::new("")).unwrap();
        assert_eq!(options.get_value("server"), Some(OptionValue::Bool(false)));
        assert_eq!(options.get_value("upstream_cert"), Some(OptionValue::Bool(false)));
        assert_eq!(options.get_value("confdir"), Some("/ca".into()));
        assert_eq!(options.get_value("mode"), Some(vec!["socks5".to_owned()].into()));
        assert_eq!(warnings.len(), 5);
        assert!(warnings.contains(&"line 3: option cadir is now called confdir".to_owned()));
        assert!(options.unknown_deferred().is_empty());
    }

    #[test]
    fn what_an_old_name_became_is_not_lost_in_silence() {
        let options = Options::new();
        options.load_config_text("setheaders: [/a/b]\nfilter: ~q\n", Path::new("")).unwrap();
        options.set_specs(&["replacements=/a/b", "web_iface=::1"], true).unwrap();
        let unknown: Vec<_> = options.unknown_deferred().into_iter().map(|u| u.name).collect();
        assert_eq!(unknown, ["modify_body", "modify_headers"]);
    }

    #[test]
    fn unreadable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        assert!(Options::new().load_config(&path).unwrap().is_empty());
        fs::write(&path, b"name: \xff").unwrap();
        let error = Options::new().load_config(&path).unwrap_err().to_string();
        assert!(error.starts_with("Error reading ") && error.contains("not UTF-8"), "{error}");
        assert!(Options::new().load_config(dir.path()).is_err());
    }
}
