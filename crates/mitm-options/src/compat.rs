//! Names that options had in earlier versions of mitmproxy, and what they became.
//!
//! Configuration files since 2.0 are read; `--set` is younger, so only names that lived to see it
//! are understood there. An old name that a script or addon declares as an option of its own is
//! that option. Each old name gives one warning that says the new one.

use mitm_flow::Value;

use crate::{OptionType, OptionsError, spec};

/// One entry of a configuration file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) line: u64,
}

/// What an old spec means today.
pub(crate) struct Upgraded {
    pub(crate) warning: String,
    pub(crate) entries: NewValues,
}

struct Row {
    old: &'static str,
    /// The type it had.
    ty: OptionType,
    /// Gone before `--set` came.
    files_only: bool,
    to: To,
}

/// Names of today with their values.
type NewValues = Vec<(&'static str, Value)>;

enum To {
    /// The same value under these names; an option only some tools have may be missing.
    Names(&'static [&'static str]),
    Inverted(&'static str),
    /// Nothing takes its place.
    Nothing,
    /// A text under this name; nothing if the function gives none.
    Text(&'static str, fn(&Value) -> Option<String>),
    /// Other values: what the message says, and the function, which gives `None` for bad values.
    Value(&'static str, fn(&Value) -> Option<NewValues>),
}

use OptionType::{Bool, Int, OptionalStr, Sequence, Str};
use To::{Inverted, Names, Nothing};

const fn file(old: &'static str, ty: OptionType, to: To) -> Row {
    Row { old, ty, files_only: true, to }
}

const fn both(old: &'static str, ty: OptionType, to: To) -> Row {
    Row { old, ty, files_only: false, to }
}

static ROWS: &[Row] = &[
    both("allow_remote", Bool, Inverted("block_global")),
    file("auth_htpasswd", OptionalStr, To::Text("proxyauth", htpasswd)),
    file("auth_nonanonymous", Bool, To::Text("proxyauth", nonanonymous)),
    file("auth_singleuser", OptionalStr, To::Value("proxyauth", single_user)),
    both("cadir", Str, Names(&["confdir"])),
    file("clientcerts", OptionalStr, Names(&["client_certs"])),
    file("console_eventlog", Bool, Nothing),
    file("console_no_mouse", Bool, Inverted("console_mouse")),
    file("console_order", OptionalStr, To::Text("view_order", given)),
    file("console_order_reversed", Bool, Names(&["view_order_reversed"])),
    file(
        "default_contentview",
        Str,
        Names(&["console_default_contentview", "dumper_default_contentview"]),
    ),
    file("filter", OptionalStr, Names(&["view_filter"])),
    file(
        "filtstr",
        OptionalStr,
        Names(&["dumper_filter", "save_stream_filter", "readfile_filter"]),
    ),
    both("http2_priority", Bool, Nothing),
    file("no_server", Bool, Inverted("server")),
    file("no_upstream_cert", Bool, Inverted("upstream_cert")),
    both("onboarding_port", Int, Nothing),
    file("refresh_server_playback", Bool, Names(&["server_replay_refresh"])),
    both("replacement_files", Sequence, To::Value("modify_body", replacement_files)),
    both("replacements", Sequence, Names(&["modify_body"])),
    file("replay_kill_extra", Bool, To::Text("server_replay_extra", kill_extra)),
    both("server_replay_nopop", Bool, Names(&["server_replay_reuse"])),
    both("setheaders", Sequence, Names(&["modify_headers"])),
    both(
        "ssl_version_client",
        Str,
        To::Value("tls_version_client_min and tls_version_client_max", client_versions),
    ),
    both(
        "ssl_version_server",
        Str,
        To::Value("tls_version_server_min and tls_version_server_max", server_versions),
    ),
    both(
        "ssl_verify_upstream_trusted_cadir",
        OptionalStr,
        Names(&["ssl_verify_upstream_trusted_confdir"]),
    ),
    both("stream_websockets", Bool, Nothing),
    file("streamfile", OptionalStr, Names(&["save_stream_file"])),
    file("streamfile_append", Bool, Nothing),
    both("upstream_bind_address", Str, To::Text("connect_addr", given)),
    file("upstream_server", OptionalStr, Nothing),
    file(
        "verbosity",
        Int,
        To::Value("termlog_verbosity and console_eventlog_verbosity", verbosity),
    ),
    both("web_iface", Str, Names(&["web_host"])),
];

/// Options of one tool that may stand in the file which all of them read.
static OF_ONE_TOOL: &[&str] = &[
    "console_default_contentview",
    "console_eventlog_verbosity",
    "console_flowlist_layout",
    "console_focus_follow",
    "console_layout",
    "console_layout_headers",
    "console_mouse",
    "console_palette",
    "console_palette_transparent",
    "console_quickhelp_visible",
    "console_strip_trailing_newlines",
    "dumper_default_contentview",
    "dumper_filter",
    "flow_detail",
    "intercept",
    "intercept_active",
    "keepserving",
    "termlog_verbosity",
    "view_filter",
    "view_order",
    "view_order_reversed",
    "web_columns",
    "web_debug",
    "web_host",
    "web_open_browser",
    "web_password",
    "web_port",
    "web_static_viewer",
    "web_theme",
];

/// Returns whether one of the tools has an option of this name, and not all of them.
pub(crate) fn is_of_another_tool(name: &str) -> bool {
    OF_ONE_TOOL.binary_search(&name).is_ok()
}

/// Reads the values given to an old name by `--set`; `None` if it is no old name.
pub(crate) fn upgrade_spec(
    name: &str,
    values: &[String],
) -> Result<Option<Upgraded>, OptionsError> {
    let Some(row) = row(name).filter(|row| !row.files_only) else { return Ok(None) };
    let default = match row.ty {
        Bool => false.into(),
        Int => 0.into(),
        Str => "".into(),
        Sequence => crate::OptionValue::Strs(Vec::new()),
        OptionalStr | OptionType::OptionalInt => crate::OptionValue::None,
    };
    let decl = crate::OptionDecl::new(name, row.ty, default, "", Vec::new())?;
    let value = spec::parse(&decl, values, decl.default())?.to_value();
    upgrade(row, &value).map(Some)
}

/// Replaces what earlier versions wrote differently; `declared` tells which names are options. Returns
/// the entries and the warnings.
pub(crate) fn upgrade_file(
    mut entries: Vec<FileEntry>,
    declared: &dyn Fn(&str) -> bool,
) -> Result<(Vec<FileEntry>, Vec<String>), OptionsError> {
    let mut warnings = Vec::new();
    for entry in &mut entries {
        entry.value = flatten(&entry.name, std::mem::take(&mut entry.value));
    }
    join_pairs(&mut entries, declared, &mut warnings);
    let mut upgraded = Vec::with_capacity(entries.len());
    for entry in &entries {
        let Some(row) = row(&entry.name).filter(|row| !declared(row.old)) else {
            upgraded.push(entry.clone());
            continue;
        };
        let at_line = |error| OptionsError::Line { line: entry.line, error: Box::new(error) };
        let new = upgrade(row, &entry.value).map_err(at_line)?;
        warnings.push(format!("line {}: {}", entry.line, new.warning));
        for (name, value) in new.entries {
            // The new name wins, whatever the order.
            if !entries.iter().any(|entry| entry.name == name) {
                let name = name.to_owned();
                upgraded.push(FileEntry { name, value, line: entry.line });
            }
        }
    }
    Ok((upgraded, warnings))
}

fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.old == name)
}

fn upgrade(row: &Row, value: &Value) -> Result<Upgraded, OptionsError> {
    let fits = matches!(
        (row.ty, value),
        (Bool, Value::Bool(_))
            | (Int, Value::Int(_))
            | (Str | OptionalStr, Value::Str(_))
            | (OptionalStr, Value::Null)
            | (Sequence, Value::List(_))
    );
    let bad = || OptionsError::Type {
        name: row.old.to_owned(),
        expected: row.ty,
        got: match crate::OptionValue::try_from(value.clone()) {
            Ok(value) => value.kind().to_owned(),
            Err(kind) => kind.to_owned(),
        },
    };
    if !fits {
        return Err(bad());
    }
    let renamed = |new: &str| format!("option {} is now called {new}", row.old);
    let (warning, entries) = match &row.to {
        Names(names) => {
            let entries = names.iter().map(|&name| (name, value.clone())).collect();
            (renamed(&names.join(", ")), entries)
        }
        Inverted(name) => {
            let entries = vec![(*name, Value::Bool(!value.is_truthy()))];
            (format!("option {} is now the opposite of {name}", row.old), entries)
        }
        Nothing => (format!("option {} has no effect any more", row.old), Vec::new()),
        To::Text(name, convert) => {
            let entries = convert(value).map(|value| (*name, text(value))).into_iter().collect();
            (renamed(name), entries)
        }
        To::Value(names, convert) => {
            let entries = convert(value).ok_or_else(|| OptionsError::Parse {
                name: row.old.to_owned(),
                reason: format!("this value has no meaning any more, see {names}"),
            })?;
            (renamed(names), entries)
        }
    };
    Ok(Upgraded { warning, entries })
}

/// Turns the shapes that values of today's options had in 2.0 into today's: numbers of bytes into
/// sizes, tuples into specs.
fn flatten(name: &str, value: Value) -> Value {
    match (name, value) {
        ("body_size_limit" | "stream_large_bodies", Value::Int(bytes)) => {
            Value::Str(bytes.to_string())
        }
        ("certs", Value::List(items)) => Value::List(
            items
                .into_iter()
                .map(|item| match strings(&item).as_deref() {
                    Some([domain, path]) => Value::Str(format!("{domain}={path}")),
                    _ => item,
                })
                .collect(),
        ),
        ("replacements" | "replacement_files" | "setheaders", Value::List(items)) => Value::List(
            items
                .into_iter()
                .map(|item| strings(&item).and_then(|parts| join_parts(&parts)).unwrap_or(item))
                .collect(),
        ),
        (_, value) => value,
    }
}

/// Returns the items of a list of strings.
fn strings<'a>(value: &'a Value) -> Option<Vec<&'a str>> {
    let Value::List(items) = value else { return None };
    let text = |item: &'a Value| match item {
        Value::Str(text) => Some(text.as_str()),
        _ => None,
    };
    items.iter().map(text).collect()
}

/// Joins the parts of a pattern by a separator that none of them contains.
fn join_parts(parts: &[&str]) -> Option<Value> {
    let candidates = "/|:,;#%!^&*~".chars().chain('\u{e000}'..'\u{f8ff}');
    let free = |sep: &char| !parts.iter().any(|part| part.contains(*sep));
    let sep = candidates.into_iter().find(free)?;
    let spec = parts.iter().flat_map(|&part| [sep.to_string(), part.to_owned()]).collect();
    Some(Value::Str(spec))
}

/// Merges options that were two and are one: a mode and its server, a file and how to open it, the
/// DNS mode of 8.1 and its port.
fn join_pairs(
    entries: &mut Vec<FileEntry>,
    declared: &dyn Fn(&str) -> bool,
    warnings: &mut Vec<String>,
) {
    let mut take = |name: &str| {
        let at = entries.iter().position(|entry| entry.name == name && !declared(name))?;
        Some(entries.remove(at))
    };
    let server = take("upstream_server");
    let append = take("streamfile_append");
    let dns = take("dns_server");
    let dns_mode = take("dns_mode");
    let dns_port = take("dns_listen_port");

    if let Some(append) = append {
        let file = entries.iter_mut().find(|entry| entry.name == "streamfile");
        if let (Value::Bool(true), Some(FileEntry { value: Value::Str(path), .. })) =
            (&append.value, file)
        {
            path.insert(0, '+');
        }
        warnings.push(format!(
            "line {}: option streamfile_append is now a + in front of the path in save_stream_file",
            append.line
        ));
    }

    if let Some(mode) = entries.iter_mut().find(|entry| entry.name == "mode")
        && let Value::Str(name) = &mode.value
    {
        let spec = match server.as_ref().map(|server| &server.value) {
            Some(Value::Str(server)) if matches!(&**name, "reverse" | "upstream") => {
                format!("{name}:{server}")
            }
            _ => name.clone(),
        };
        warnings.push(format!("line {}: option mode is now a list: [\"{spec}\"]", mode.line));
        mode.value = Value::List(vec![Value::Str(spec)]);
    }
    if let Some(server) = server {
        warnings.push(format!(
            "line {}: option upstream_server is now part of mode, as in reverse:SERVER",
            server.line
        ));
    }

    if let Some(dns) = dns.or_else(|| dns_mode.clone()).or_else(|| dns_port.clone()) {
        warnings.push(format!(
            "line {}: options dns_server, dns_mode and dns_listen_port are now part of mode, as in \
             dns@53",
            dns.line
        ));
        if matches!(dns.value, Value::Bool(true)) && dns.name == "dns_server" {
            let mut spec = match dns_mode.map(|mode| mode.value) {
                Some(Value::Str(mode)) => match mode.strip_prefix("reverse:") {
                    Some(server) => format!("reverse:dns://{server}"),
                    None => "dns".to_owned(),
                },
                _ => "dns".to_owned(),
            };
            if let Some(Value::Int(port)) = dns_port.map(|port| port.value) {
                spec = format!("{spec}@{port}");
            }
            let spec = Value::Str(spec);
            match entries.iter_mut().find(|entry| entry.name == "mode") {
                Some(FileEntry { value: Value::List(modes), .. }) => modes.push(spec),
                Some(_) => {}
                None => entries.push(FileEntry {
                    name: "mode".to_owned(),
                    value: Value::List(vec![Value::Str("regular".to_owned()), spec]),
                    line: dns.line,
                }),
            }
        }
    }
}

fn text(value: impl Into<String>) -> Value {
    Value::Str(value.into())
}

fn htpasswd(value: &Value) -> Option<String> {
    given(value).map(|path| format!("@{path}"))
}

/// Returns whether `proxyauth` takes this for a single user, and nothing else.
pub fn is_single_user(spec: &str) -> bool {
    let is_another = ["@", "ldap:", "ldaps:"].iter().any(|prefix| spec.starts_with(prefix));
    spec.contains(':') && !is_another
}

/// A value that is no user must not become another kind of authentication, or none.
fn single_user(value: &Value) -> Option<NewValues> {
    match value {
        Value::Str(spec) if is_single_user(spec) => Some(vec![("proxyauth", text(spec.clone()))]),
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

fn nonanonymous(value: &Value) -> Option<String> {
    value.is_truthy().then(|| "any".to_owned())
}

fn kill_extra(value: &Value) -> Option<String> {
    value.is_truthy().then(|| "kill".to_owned())
}

/// Returns a text that is not empty.
fn given(value: &Value) -> Option<String> {
    match value {
        Value::Str(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

fn replacement_files(value: &Value) -> Option<NewValues> {
    let specs = strings(value)?.into_iter().map(|spec| {
        let sep = spec.chars().next()?;
        let mut parts: Vec<_> = spec.strip_prefix(sep)?.splitn(3, sep).collect();
        let path = format!("@{}", parts.pop()?);
        parts.push(&path);
        Some(text(
            parts.iter().flat_map(|part| [sep.to_string(), (*part).to_owned()]).collect::<String>(),
        ))
    });
    Some(vec![("modify_body", Value::List(specs.collect::<Option<_>>()?))])
}

fn verbosity(value: &Value) -> Option<NewValues> {
    let level = match value {
        Value::Int(0) => "error",
        Value::Int(1) => "warn",
        Value::Int(2) => "info",
        Value::Int(3) => "debug",
        _ => return None,
    };
    Some(vec![("termlog_verbosity", text(level)), ("console_eventlog_verbosity", text(level))])
}

fn client_versions(value: &Value) -> Option<NewValues> {
    versions(value, "tls_version_client_min", "tls_version_client_max")
}

fn server_versions(value: &Value) -> Option<NewValues> {
    versions(value, "tls_version_server_min", "tls_version_server_max")
}

fn versions(value: &Value, min: &'static str, max: &'static str) -> Option<NewValues> {
    let Value::Str(value) = value else { return None };
    let only = match value.as_str() {
        // Today's defaults are what is secure today.
        "secure" => return Some(Vec::new()),
        "all" => return Some(vec![(min, text("UNBOUNDED")), (max, text("UNBOUNDED"))]),
        "SSLv3" => "SSL3",
        "TLSv1" => "TLS1",
        "TLSv1_1" => "TLS1_1",
        "TLSv1_2" => "TLS1_2",
        _ => return None,
    };
    Some(vec![(min, text(only)), (max, text(only))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgraded(entries: &[(&str, Value)]) -> Vec<(String, Value)> {
        let entries = entries.iter().zip(1..).map(|((name, value), line)| FileEntry {
            name: (*name).to_owned(),
            value: value.clone(),
            line,
        });
        let (entries, _) = upgrade_file(entries.collect(), &|_| false).unwrap();
        entries.into_iter().map(|entry| (entry.name, entry.value)).collect()
    }

    fn check(old: &[(&str, Value)], new: &[(&str, Value)]) {
        let new: Vec<_> = new.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        assert_eq!(upgraded(old), new);
    }

    fn list(items: &[&str]) -> Value {
        Value::List(items.iter().map(|&item| text(item)).collect())
    }

    #[test]
    fn the_tables_are_sorted_where_they_must_be() {
        assert!(OF_ONE_TOOL.is_sorted());
        assert!(
            ROWS.iter()
                .enumerate()
                .all(|(i, row)| { ROWS.iter().skip(i + 1).all(|other| other.old != row.old) })
        );
    }

    #[test]
    fn negated_options_are_turned_round() {
        check(&[("no_server", true.into())], &[("server", false.into())]);
        check(&[("no_upstream_cert", false.into())], &[("upstream_cert", true.into())]);
    }

    #[test]
    fn the_new_name_beats_the_old_one() {
        check(&[("no_server", true.into()), ("server", true.into())], &[("server", true.into())]);
    }

    #[test]
    fn levels_have_names_now() {
        check(
            &[("verbosity", Value::Int(3))],
            &[("termlog_verbosity", text("debug")), ("console_eventlog_verbosity", text("debug"))],
        );
        assert!(upgrade(row("verbosity").unwrap(), &Value::Int(9)).is_err());
        assert!(upgrade(row("verbosity").unwrap(), &text("debug")).is_err());
    }

    #[test]
    fn pairs_are_joined() {
        check(
            &[("upstream_server", text("http://h:1")), ("mode", text("reverse"))],
            &[("mode", list(&["reverse:http://h:1"]))],
        );
        check(
            &[("streamfile", text("x")), ("streamfile_append", true.into())],
            &[("save_stream_file", text("+x"))],
        );
        check(
            &[
                ("dns_server", true.into()),
                ("dns_mode", text("reverse:8.8.8.8")),
                ("dns_listen_port", Value::Int(5353)),
            ],
            &[("mode", list(&["regular", "reverse:dns://8.8.8.8@5353"]))],
        );
    }

    #[test]
    fn tuples_become_specs() {
        let tuple = |parts: &[&str]| Value::List(vec![list(parts)]);
        check(&[("certs", tuple(&["*", "/x.pem"]))], &[("certs", list(&["*=/x.pem"]))]);
        check(
            &[("replacements", tuple(&["~q", "a/b", "c|d"]))],
            &[("modify_body", list(&[":~q:a/b:c|d"]))],
        );
        check(
            &[("replacement_files", list(&[":~q:foo:~/x"]))],
            &[("modify_body", list(&[":~q:foo:@~/x"]))],
        );
    }

    #[test]
    fn sizes_were_numbers() {
        check(&[("body_size_limit", Value::Int(10))], &[("body_size_limit", text("10"))]);
    }

    #[test]
    fn declared_options_are_left_alone() {
        let entry = FileEntry { name: "filter".into(), value: text("x"), line: 1 };
        let (entries, warnings) = upgrade_file(vec![entry.clone()], &|_| true).unwrap();
        assert_eq!((entries, warnings), (vec![entry], vec![]));
    }

    #[test]
    fn specs_know_the_names_that_lived_to_see_them() {
        let web = upgrade_spec("web_iface", &["::1".to_owned()]).unwrap().unwrap();
        assert_eq!(web.entries, [("web_host", text("::1"))]);
        assert_eq!(web.warning, "option web_iface is now called web_host");
        assert!(upgrade_spec("filter", &[]).unwrap().is_none());
        assert!(upgrade_spec("allow_remote", &["x".to_owned()]).is_err());
    }
}
