//! Runs a script of `peer/` with the Python that has mitmproxy, and hands out random numbers.

use std::{
    env,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde_json::Value as Json;

/// Runs `script` with `job` as its input. `None`, with a line that says so, if there is no such Python.
pub(crate) fn run(script: &str, job: &Json) -> Option<Json> {
    let Some(python) = env::var_os("MITM_PEER_PYTHON") else {
        assert!(
            env::var_os("MITM_REQUIRE_EXTERNAL").is_none_or(|value| value != "1"),
            "MITM_PEER_PYTHON must name a Python that has mitmproxy 11.0.2"
        );
        eprintln!("skipped: MITM_PEER_PYTHON does not name a Python that has mitmproxy 11.0.2");
        return None;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer").join(script);
    let mut child = Command::new(python)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let job = job.to_string();
    // Closing it is the end of the input.
    let writer = thread::spawn(move || stdin.write_all(job.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// A small generator of repeatable random numbers (splitmix64).
pub(crate) struct Random(pub u64);

impl Random {
    /// Starts from `seed`, or from `MITM_TEST_SEED` to look further.
    pub(crate) fn from_env(seed: u64) -> Self {
        Self(env::var("MITM_TEST_SEED").map_or(seed, |seed| seed.parse().unwrap()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
