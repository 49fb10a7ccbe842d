//! Flags whose effect shows only in a run.

use std::{
    fs::{self, File},
    net::TcpStream,
};

use mitm_testkit::{Nginx, external};
use nix::sys::signal::Signal;

use crate::support::{Home, Running, fetch, lines_with, run, status, text, wait_for};

/// Records a page that is there, one that is not, and a form.
fn record(home: &Home, nginx: &Nginx, words: &[&str]) {
    let proxy = home.start(words);
    fetch(home, &proxy, &[&nginx.http_url("/")]);
    status(home, &proxy, &[&nginx.http_url("/status/404")]);
    status(home, &proxy, &["-d", "name=value", &nginx.http_url("/")]);
    proxy.finish();
}

fn start() -> Option<(Home, Nginx)> {
    external("curl")?;
    Some((Home::new(), Nginx::start()?))
}

/// The number of flows of a file.
fn count(home: &Home, file: &str) -> usize {
    let ended = home.run(&["-nr", file]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    lines_with(&ended.stdout, "<< ")
}

#[test]
fn flows_are_read_from_standard_input() {
    let Some((home, nginx)) = start() else { return };
    record(&home, &nginx, &["-w", "flows"]);
    let mut command = home.mitmdump(&["-n", "-r", "-", "~c 404"]);
    let ended = run(command.stdin(File::open(home.path("flows")).unwrap()));
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{}", ended.stdout);
    assert_eq!(lines_with(&ended.stdout, "GET "), 1, "{}", ended.stdout);
    assert_eq!(lines_with(&ended.stdout, "<< 404 Not Found"), 1, "{}", ended.stdout);
}

#[test]
fn files_are_appended_to_or_begun_anew() {
    let Some((home, nginx)) = start() else { return };
    for (words, flows) in [
        (&["-w", "flows"][..], 3),
        (&["-a", "flows"], 6),
        (&["-w", "+flows"], 9),
        (&["-w", "flows"], 3),
        (&["-a", "flows", "~m post"], 4),
        (&["-w", "+new/directory/flows"], 3),
    ] {
        record(&home, &nginx, words);
        let file = if words[1].contains("new") { "new/directory/flows" } else { "flows" };
        assert_eq!(count(&home, file), flows, "{words:?}");
    }
}

#[test]
fn names_of_files_can_have_the_date() {
    let Some((home, nginx)) = start() else { return };
    record(&home, &nginx, &["-w", "flows-%Y-%m-%d.%H%%"]);
    let names = fs::read_dir(home.path("")).unwrap();
    let names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("flows-"))
        .collect();
    // two of them when an hour has just begun
    assert!((1..=2).contains(&names.len()), "{names:?}");
    for name in &names {
        let shape: String =
            name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "flows-0000-00-00.00%");
        assert!(name.starts_with("flows-20"), "{name}");
    }
    assert_eq!(names.iter().map(|name| count(&home, name)).sum::<usize>(), 3);
}

#[test]
fn filter_words_choose_what_is_printed_and_saved() {
    let Some((home, nginx)) = start() else { return };
    for (filter, flows) in
        [(&["~m post"][..], 1), (&["~m", "get", "&", "!~c", "404"], 1), (&["~bq name=value"], 1)]
    {
        let proxy = home.start(&[&["-w", "chosen"], filter].concat());
        fetch(&home, &proxy, &[&nginx.http_url("/")]);
        status(&home, &proxy, &[&nginx.http_url("/status/404")]);
        status(&home, &proxy, &["-d", "name=value", &nginx.http_url("/")]);
        let output = proxy.finish();
        assert_eq!(lines_with(&output, "<< "), flows, "{filter:?}: {output}");
        assert_eq!(count(&home, "chosen"), flows, "{filter:?}");
    }
}

#[test]
fn quiet_prints_nothing() {
    let Some((home, nginx)) = start() else { return };
    record(&home, &nginx, &["-w", "flows"]);
    let ended = home.run(&["-q", "-nr", "flows", "-w", "copy"]);
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), "", ""));
    assert_eq!(fs::read(home.path("copy")).unwrap(), fs::read(home.path("flows")).unwrap());

    // of a proxy that says nothing the port must be known
    let port = mitm_testkit::net::free_port();
    let words = ["-q", "-w", "quiet", "--listen-host", "127.0.0.1", "-p", &port.to_string()];
    let running = Running::spawn(&mut home.mitmdump(&words));
    let mut client = home.command(external("curl").unwrap());
    client.args(["-sS", "--max-time", "50", "--noproxy", ""]);
    client.args(["--retry", "100", "--retry-connrefused", "--retry-delay", "1", "-x"]);
    client.args([&format!("http://127.0.0.1:{port}"), &nginx.http_url("/")]);
    let fetched = run(&mut client);
    assert_eq!(fetched.code, Some(0), "{fetched:?} {running:?}");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.pid()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    let ended = running.end(crate::support::PATIENCE);
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (Some(0), "", ""));
    assert_eq!(count(&home, "quiet"), 1);
}

#[test]
fn detail_is_given_by_letters_or_by_level() {
    let Some((home, nginx)) = start() else { return };
    record(&home, &nginx, &["-w", "flows"]);
    let print = |words: &[&str]| {
        let ended = home.run(&[words, &["-nr", "flows", "~m post"]].concat());
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""), "{words:?} {}", ended.stdout);
        ended.stdout
    };
    for (level, letters) in [("1", "-d"), ("2", "-dd"), ("3", "-ddd"), ("4", "-dddd")] {
        let output = print(&["--flow-detail", level]);
        assert_eq!(print(&[letters]).contains("Content-Length"), level > "1", "{level}: {output}");
        assert_eq!(output.contains("User-Agent: curl"), level > "1", "{level}: {output}");
        assert_eq!(output.contains("name"), level > "2", "{level}: {output}");
    }
    assert_eq!(lines_with(&print(&["--flow-detail", "0"]), "POST"), 0);
}

#[test]
fn versions_are_printed() {
    let home = Home::new();
    let ended = home.run(&["--version"]);
    assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    assert!(ended.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", ended.stdout);
    assert!(fs::read_dir(home.path("")).unwrap().next().is_none(), "nothing is written for it");
}

/// The numbers after `names` in the last line that tells what the program holds.
fn held(log: &str, names: &[&str]) -> Option<Vec<u64>> {
    let line = log.lines().rfind(|line| line.contains("Status: "))?;
    let number = |name: &&str| {
        let (_, rest) = line.split_once(&format!("{name} "))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    names.iter().map(number).collect()
}

#[test]
fn a_signal_logs_what_the_program_holds() {
    let home = Home::new();
    let proxy = home.start(&[]);
    let mut lines = 0;
    // A client is counted a moment after its connection is made.
    let mut wait_for_clients = |clients: u64| {
        wait_for("the clients are counted", || {
            proxy.signal(Signal::SIGUSR1);
            lines += 1;
            wait_for("a line", || (lines_with(&proxy.log(), "Status: ") >= lines).then_some(()));
            held(&proxy.log(), &["client connections", "tasks", "open descriptors"])
                .filter(|numbers| numbers.first() == Some(&clients))
        })
    };
    let before = wait_for_clients(0);
    let client = TcpStream::connect(proxy.address).unwrap();
    let during = wait_for_clients(1);
    assert!(during[1] > before[1] && during[2] > before[2], "{before:?} {during:?}");
    drop(client);
    wait_for_clients(0);
    let memory = held(&proxy.log(), &["resident memory", "spilled bodies"]).unwrap();
    assert!(memory[0] > 1 << 20 && memory[1] == 0, "{memory:?}");
    proxy.finish();
}

/// A file that is read while the proxy listens; what is recorded follows it.
#[test]
fn a_file_is_read_before_serving_goes_on() {
    let Some((home, nginx)) = start() else { return };
    record(&home, &nginx, &["-w", "flows"]);
    let proxy = home.start(&["-r", "flows", "-w", "all", "--keepserving"]);
    wait_for("the file is read", || (lines_with(&proxy.log(), "<< ") == 3).then_some(()));
    fetch(&home, &proxy, &[&nginx.http_url("/large")]);
    let output = proxy.finish();
    assert_eq!(lines_with(&output, "<< "), 4, "{output}");
    assert_eq!(count(&home, "all"), 4);
    let ended = home.run(&["-nr", text(&home.path("all")).as_str(), "~u large"]);
    assert_eq!(lines_with(&ended.stdout, "<< 200 OK 1"), 1, "{}", ended.stdout);
}
