#!/usr/bin/env python3
"""Runs the Autobahn WebSocket test suite against an echo server, directly and through the proxy, and compares.

    fuzzing client ──────────────────────────────► echo server (python `websockets`)
    fuzzing client ──► mitmdump, reverse mode ───► echo server

Each case must behave through the proxy as it does without: the same verdict for what was received, and the same for how
the connection was closed, or a better one. The exit status is 1 if one does not.

Needs `wstest` (PyPI `autobahntestsuite`, which needs Python 2.7) and, for the Python that runs this, `websockets`:

    python2.7 -m virtualenv v27 && v27/bin/pip install autobahntestsuite
    python3 tools/autobahn/compare.py --wstest v27/bin/wstest --mitmdump target/release/mitmdump

All cases take about an hour, nearly all of it in the suite itself; `--cases '1.*' '5.*'` runs some. Not part of CI for its time and for Python 2.7.
"""

import argparse
import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
# From best to worst, as the suite names them.
VERDICTS = ["OK", "INFORMATIONAL", "UNIMPLEMENTED", "NON-STRICT", "FAILED CLEAN", "WRONG CODE", "UNCLEAN", "FAILED"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wstest", required=True)
    parser.add_argument("--mitmdump", required=True)
    parser.add_argument("--cases", nargs="*", default=["*"])
    parser.add_argument("--exclude", nargs="*", default=[])
    parser.add_argument("--without-deflate", action="store_true", help="the server offers no compression")
    parser.add_argument("--out", default=None, help="keep the suite's reports in this directory")
    parser.add_argument("--option", action="append", default=[], help="passed to mitmdump as --set")
    args = parser.parse_args()

    with contextlib.ExitStack() as stack:
        out = pathlib.Path(args.out or stack.enter_context(tempfile.TemporaryDirectory()))
        server = echo_server(stack, not args.without_deflate)
        proxy = reverse_proxy(stack, args, server, out)
        results = {
            "direct": run(args, server, "direct", out),
            "proxy": run(args, proxy, "proxy", out),
        }
    sys.exit(report(results))


def echo_server(stack, deflate):
    command = [sys.executable, HERE / "echo_server.py"] + (["deflate"] if deflate else [])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(stop, process)
    return int(process.stdout.readline())


def reverse_proxy(stack, args, server, out):
    port = free_port()
    out.mkdir(parents=True, exist_ok=True)
    log = stack.enter_context(open(out / "mitmdump.log", "w"))
    command = [args.mitmdump, "--mode", f"reverse:http://127.0.0.1:{server}@127.0.0.1:{port}"]
    for option in ["flow_detail=0", "termlog_verbosity=warn", *args.option]:
        command += ["--set", option]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    stack.callback(stop, process)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return port
        time.sleep(0.05)
    sys.exit("mitmdump does not listen")


def stop(process):
    process.terminate()
    process.wait(timeout=30)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(args, port, agent, out):
    """Returns the verdicts by case: (what was received, how the connection was closed)."""
    reports = (out / agent).absolute()
    spec = {
        "outdir": str(reports),
        "servers": [{"agent": agent, "url": f"ws://127.0.0.1:{port}"}],
        "cases": args.cases,
        "exclude-cases": args.exclude,
        "exclude-agent-cases": {},
    }
    path = out / f"{agent}.json"
    path.write_text(json.dumps(spec))
    began = time.monotonic()
    command = [args.wstest, "-m", "fuzzingclient", "-s", str(path)]
    with open(out / f"{agent}.log", "w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)
    index = json.loads((reports / "index.json").read_text())[agent]
    print(f"{agent}: {len(index)} cases in {time.monotonic() - began:.0f} s", flush=True)
    return {case: (found["behavior"], found["behaviorClose"]) for case, found in index.items()}


def report(results):
    """Prints the differences and the sums; returns 1 if the proxy made a case worse."""
    direct, proxy = results["direct"], results["proxy"]
    worse = 0
    for case in sorted(direct, key=lambda case: [int(part) for part in case.split(".")]):
        before, after = direct[case], proxy.get(case, ("missing", "missing"))
        if before == after:
            continue
        is_worse = any(rank(b) < rank(a) for b, a in zip(before, after))
        worse += is_worse
        print(f"{case}: {' / '.join(before)} becomes {' / '.join(after)}{' (worse)' if is_worse else ''}")
    for agent, cases in results.items():
        sums = {}
        for verdict, _ in cases.values():
            sums[verdict] = sums.get(verdict, 0) + 1
        print(f"{agent}: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(sums.items())))
    print(f"{worse} cases are worse through the proxy")
    return 1 if worse else 0


def rank(verdict):
    return VERDICTS.index(verdict) if verdict in VERDICTS else len(VERDICTS)


if __name__ == "__main__":
    main()
