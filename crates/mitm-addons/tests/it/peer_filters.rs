//! Filters against mitmproxy 11.0.2 on what every release recorded: each cell of expressions by flows.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use mitm_filter::{Case, parse_with};
use mitm_flow::{Facts, FlowRef};
use mitm_flowfile::{FlowReader, FlowWriter, RawRecord};
use serde_json::{Value as Json, json};

use crate::expressions::{self, Random};

/// Random expressions; others are added to them.
const EXPRESSIONS: usize = 2_000;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mitm-flowfile/tests/fixtures");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "mitm"))
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Vec<RawRecord> {
    FlowReader::open(path).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What mitmproxy makes of the expressions on the flows of the file.
fn evaluate(python: &Path, path: &Path, expressions: &[String]) -> Json {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../mitm-filter/tests/peer/evaluate.py");
    let mut child = Command::new(python)
        .args([&script, path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let job = json!({ "expressions": expressions }).to_string();
    // Closing it is the end of the input.
    let writer = thread::spawn(move || stdin.write_all(job.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn filters_select_from_files_of_every_version_what_mitmproxy_selects() {
    let Some(python) = mitm_testkit::peer_python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.mitm");
    let old: Vec<RawRecord> = fixtures().iter().flat_map(|path| read(path)).collect();
    // The flows are decoded and written anew, in today's format.
    let flows: Vec<FlowRef> =
        old.iter().map(|record| FlowRef::from_snapshot(record.snapshot().unwrap())).collect();
    let mut writer = FlowWriter::new(File::create(&path).unwrap());
    for flow in &flows {
        writer.write(flow).unwrap();
    }
    writer.flush().unwrap();
    let records = read(&path);
    assert!(records.len() == flows.len() && flows.len() > 300);

    let expressions = expressions::corpus(&mut Random::from_env(11), EXPRESSIONS);
    let answer = evaluate(&python, &path, &expressions);
    assert_eq!(answer["version"], "11.0.2");
    // It reads all of them: there is none that it cannot hold.
    let ids: Vec<&str> = records.iter().map(RawRecord::id).collect();
    assert_eq!(answer["flows"], json!(ids));

    let mut differences = Vec::new();
    let (mut accepted, mut refused, mut extensions, mut hits) = (0, 0, 0, 0);
    for (text, theirs) in expressions.iter().zip(answer["results"].as_array().unwrap()) {
        let filter = parse_with(text, Case::Insensitive);
        let (filter, theirs) = match (&filter, theirs.as_array()) {
            (Ok(filter), Some(theirs)) => (filter, theirs),
            (Err(_), None) => {
                refused += 1;
                continue;
            }
            (Ok(_), None) if expressions::has_extension(text) => {
                extensions += 1;
                continue;
            }
            (Ok(_), None) => {
                differences.push(format!("{text:?}: refused by mitmproxy only"));
                continue;
            }
            (Err(error), Some(_)) => {
                differences.push(format!("{text:?}: refused here only, {error}"));
                continue;
            }
        };
        accepted += 1;
        for (i, theirs) in theirs.iter().enumerate() {
            let theirs = theirs.as_bool().unwrap();
            hits += usize::from(theirs);
            let sources: [(&str, &dyn Facts); 3] =
                [("record", &records[i]), ("flow", &flows[i]), ("old record", &old[i])];
            for (name, facts) in sources {
                let ours = filter.try_matches(facts);
                if ours.as_ref().ok() != Some(&theirs) {
                    differences.push(format!("{text:?} on {name} {i}: {ours:?}, not {theirs}"));
                }
            }
        }
    }
    println!(
        "{} expressions: {accepted} compared on {} flows of three kinds ({hits} hits of {} cells), \
         {refused} refused on both sides, {extensions} extensions not compared",
        expressions.len(),
        flows.len(),
        accepted * flows.len(),
    );
    let shown = &differences[..differences.len().min(50)];
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), shown.join("\n"));
    assert!(accepted > 2_000 && hits > 50_000);
}
