#!/usr/bin/env python3
"""A soak of mitmdump: mixed traffic with clients and servers that misbehave at random, and what the process holds.

    load ──► mitmdump: regular (plain, CONNECT, CONNECT and TLS), reverse to http, reverse to https ──► origin

HTTP/1, HTTP/2, WebSocket and raw TCP; who does what on which connection follows from the seed, which is printed. All of it
is in one process at a bounded rate: `--cpu` is the share of a core for this and the proxy together.

Every ten seconds SIGUSR1 asks the proxy for its status line; that and /proc go to a CSV. At the end the load stops, and
when all connections are gone (for at most 30 seconds) it is compared with the start:

- the slope of resident memory after `--settle` minutes is below 1 MB per hour. Bodies on their way make the memory under
  load go up and down by several MB, so every two minutes the load pauses until its connections have ended, and the line is
  that through those samples (least squares, with its standard error; the line under load is given beside it),
- tasks, descriptors, bytes of spilled bodies and blocks of the spill file are back where they were after a warm-up of
  well-behaved traffic,
- nothing hangs, and well-behaved clients of well-behaved servers got complete and right answers,
- the proxy has not panicked and ends at SIGINT.

The exit status is 1 if one of these fails. Needs Linux, `openssl`, and Python 3.11 with `h2` (and `matplotlib` for a PNG):

    python3.11 -m venv v && v/bin/pip install h2 matplotlib
    v/bin/python tools/soak/soak.py --mitmdump target/release/mitmdump --minutes 120 --out soak

Not part of CI for its time.
"""

import argparse
import asyncio
import contextlib
import csv
import logging
import os
import pathlib
import random
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time

import plot
from load import Load
from origin import Origin

STATUS = re.compile(
    r"Status: client connections (\d+), tasks (\d+), open descriptors (\d+), resident memory (\d+) bytes, "
    r"spilled bodies (\d+) bytes"
)
NAMES = ["connections", "tasks", "descriptors", "resident", "spilled"]
MB = 1e6
EVERY = 10
PAUSE_EVERY = 120
LOG_LIMIT = 50_000_000
TICKS = os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mitmdump", required=True)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--settle", type=float, default=10, help="minutes before memory is looked at")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=float, default=6, help="connections per second, at first")
    parser.add_argument("--cpu", type=float, default=0.4, help="share of a core")
    parser.add_argument("--out", default="soak", help="directory for the CSV, the log and the plot")
    args = parser.parse_args()
    if args.seed is None:
        args.seed = random.SystemRandom().randrange(1 << 32)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    print(f"seed {args.seed}", flush=True)
    random.seed(args.seed)
    # It warns of each write to a connection that is gone.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    sys.exit(asyncio.run(Soak(args, out).run()))


class Proxy:
    """mitmdump, its log, and what the system knows of it."""

    def __init__(self, args, out, origin):
        self.ports = {name: free_port() for name in ("regular", "reverse", "reverse_tls")}
        home = out / "home"
        home.mkdir(exist_ok=True)
        words = [args.mitmdump, "--listen-host", "127.0.0.1", "--ssl-insecure", "--flow-detail", "0", "-w", "/dev/null"]
        words += ["--mode", f"regular@{self.ports['regular']}"]
        words += ["--mode", f"reverse:http://127.0.0.1:{origin.http}@{self.ports['reverse']}"]
        words += ["--mode", f"reverse:https://127.0.0.1:{origin.https2}@{self.ports['reverse_tls']}"]
        for name, value in {
            # Small, so that many bodies are spilled, and some are streamed.
            "body_memory_limit": "64k",
            "stream_large_bodies": "3m",
            "tcp_timeout": 20,
            "handshake_timeout": 5,
            "connect_timeout": 5,
        }.items():
            words += ["--set", f"{name}={value}"]
        environment = {"HOME": str(home.resolve()), "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.pid = self.process.pid
        self.log = open(out / "mitmdump.log", "wb")
        self.written = 0
        self.lines = 0
        self.alarms = []
        self.status = asyncio.Queue()

    async def follow(self):
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self.process.stdout)
        while line := await reader.readline():
            self.lines += 1
            if self.written < LOG_LIMIT:
                self.log.write(line)
                self.written += len(line)
            text = line.decode(errors="replace")
            if match := STATUS.search(text):
                self.status.put_nowait(dict(zip(NAMES, map(int, match.groups()))))
            elif "panicked" in text or "RUST_BACKTRACE" in text:
                self.alarms.append(text.strip())
        self.log.flush()

    async def wait_until_it_listens(self):
        for port in self.ports.values():
            for _ in range(300):
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.1)

    async def ask(self):
        while not self.status.empty():
            self.status.get_nowait()
        self.process.send_signal(signal.SIGUSR1)
        sample = await asyncio.wait_for(self.status.get(), 30)
        sample["blocks"] = self.blocks()
        return sample

    def blocks(self):
        """Bytes that files without a name take on the disk: the spill file."""
        total = 0
        for entry in os.scandir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(OSError):
                if "(deleted)" in os.readlink(entry.path):
                    total += os.stat(entry.path).st_blocks * 512
        return total

    def cpu(self):
        words = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / TICKS

    def peak(self):
        return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{self.pid}/status").read_text())[1]) * 1024


class Soak:
    def __init__(self, args, out):
        self.args, self.out = args, out
        self.rate = args.rate
        self.samples = []
        self.pauses = []
        self.start = None
        self.failures = []

    async def run(self):
        self.origin = Origin(identity(self.out))
        await self.origin.start()
        self.proxy = Proxy(self.args, self.out, self.origin)
        following = asyncio.ensure_future(self.proxy.follow())
        try:
            await self.proxy.wait_until_it_listens()
            self.load = Load(self.args.seed, self.origin, self.proxy.ports)
            await self.warm_up()
            # A signal ends the load, not the report.
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await self.soak(stop)
            await self.quiet()
            self.judge()
        finally:
            self.proxy.process.send_signal(signal.SIGINT)
            try:
                self.check("mitmdump ends at SIGINT", self.proxy.process.wait(30) in (0, 1), self.proxy.process.returncode)
            except subprocess.TimeoutExpired:
                self.check("mitmdump ends at SIGINT", False, "it does not")
                self.proxy.process.kill()
        await asyncio.wait([following], timeout=5)
        return 1 if self.failures else 0

    async def warm_up(self):
        """What is there once: files, threads, the tasks of listeners."""
        first = await self.proxy.ask()
        for _ in range(40):
            self.load.start(well=True)
            await asyncio.sleep(0.1)
        self.start = await self.drain()
        print(f"started  {first}\nwarm     {self.start}", flush=True)

    async def drain(self):
        """Waits until what runs has ended and no connection is left."""
        if self.load.running:
            await asyncio.wait(list(self.load.running), timeout=30)
        for task in list(self.load.running):
            task.cancel()
        self.origin.abort()
        for _ in range(30):
            sample = await self.proxy.ask()
            # An idle connection to a server may be kept for `tcp_timeout`.
            if all(sample[name] <= (self.start or sample)[name] for name in NAMES if name != "resident"):
                if sample["connections"] == 0 and sample["spilled"] == 0:
                    break
            await asyncio.sleep(1)
        # The ends of tasks and descriptors follow those of connections.
        for _ in range(5):
            await asyncio.sleep(1)
            sample = await self.proxy.ask()
        return sample

    async def soak(self, stop):
        loop = asyncio.get_running_loop()
        began = loop.time()
        end = began + self.args.minutes * 60
        next_start = next_sample = began
        next_pause = began + PAUSE_EVERY
        used, at = self.cpu(), began
        with open(self.out / "soak.csv", "w", newline="") as file:
            names = ["seconds", *NAMES, "blocks", "cpu", "rate", "started", "exchanges", "megabytes", "running"]
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            while (now := loop.time()) < end and not stop.is_set():
                if now >= next_sample:
                    sample = await self.proxy.ask()
                    total, moment = self.cpu(), loop.time()
                    share = (total - used) / max(moment - at, 1e-9)
                    used, at = total, moment
                    sample |= {"seconds": round(now - began, 1), "cpu": round(share, 3), "rate": round(self.rate, 2)}
                    sample |= {"started": self.load.started, "exchanges": self.load.exchanges}
                    sample |= {"megabytes": round(self.load.bytes / MB), "running": len(self.load.running)}
                    if len(self.samples) > 0:
                        self.rate = min(max(self.rate * min(max(self.args.cpu / share, 0.8), 1.15), 0.5), 15)
                    self.samples.append(sample)
                    writer.writerow(sample)
                    file.flush()
                    if len(self.samples) % 6 == 1:
                        print(f"{time.strftime('%H:%M:%S')} {sample}", flush=True)
                    next_sample = max(next_sample + EVERY, loop.time())
                if now >= next_pause:
                    await self.pause(now - began)
                    next_start, next_pause = loop.time(), now + PAUSE_EVERY
                if now >= next_start and len(self.load.running) < 200:
                    self.load.start()
                    next_start = max(next_start + 1 / self.rate, now - 1)
                pause = max(min(next_start, next_sample, next_pause, end) - loop.time(), 0.005)
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)

    async def pause(self, seconds):
        """Lets what runs end, and looks at what is left: without bodies on the way the numbers say more."""
        if self.load.running:
            await asyncio.wait(list(self.load.running), timeout=30)
        for task in list(self.load.running):
            task.cancel()
        samples = []
        for _ in range(4):
            await asyncio.sleep(1)
            samples.append(await self.proxy.ask())
        sample = min(samples, key=lambda sample: sample["resident"]) | {"seconds": round(seconds, 1)}
        self.pauses.append(sample)
        print(f"{time.strftime('%H:%M:%S')} pause {sample}", flush=True)

    async def quiet(self):
        self.peak = self.proxy.peak()
        self.end = await self.drain()
        print(f"ended    {self.end}", flush=True)

    def cpu(self):
        return self.proxy.cpu() + time.process_time()

    def check(self, what, good, found):
        print(f"{'ok  ' if good else 'FAIL'} {what}: {found}", flush=True)
        if not good:
            self.failures.append(what)

    def judge(self):
        load = self.load
        print(f"\nseed {self.args.seed}, {self.samples[-1]['seconds'] / 60:.1f} minutes")
        print(f"{load.started} connections, {load.exchanges} exchanges and messages, {load.bytes / MB:.0f} MB")
        print(f"mean CPU share {statistics.mean(s['cpu'] for s in self.samples):.2f}, peak {self.peak / MB:.1f} MB resident")
        for outcome, count in sorted(load.outcomes.items()):
            print(f"  {count:7} {outcome}")
        for line in load.wrong[:40]:
            print(f"  {line}")
        settled = [s for s in self.samples if s["seconds"] >= self.args.settle * 60]
        points = [(s["seconds"] / 3600, s["resident"] / MB) for s in self.pauses]
        if len(points) > 1:
            print("\n" + plot.ascii_plot(points, "resident memory in pauses, MB", "hours"))
        points = [(s["seconds"] / 3600, s["resident"] / MB) for s in self.samples]
        print("\n" + plot.ascii_plot(points, "resident memory, MB", "hours") + "\n")
        plot.png(self.out / "soak.png", self.samples)
        if len(settled) >= 12 and len(self.pauses) >= 6:
            points = [(s["seconds"] / 3600, s["resident"] / MB) for s in settled]
            under_load = plot.describe(points)
            quiet = [(s["seconds"] / 3600, s["resident"] / MB) for s in self.pauses if s["seconds"] >= self.args.settle * 60]
            print(f"under load: {under_load}")
            slope, _, _ = plot.fit(quiet)
            self.check("slope of resident memory in pauses < 1 MB/h", slope < 1, plot.describe(quiet))
        else:
            print("too short for the slope of memory")
        for name in ("connections", "tasks", "descriptors", "spilled", "blocks"):
            # A file system may keep a few blocks for what it knows of the holes of a file.
            more = (1 << 20) if name == "blocks" else 0
            start, end = self.start[name], self.end[name]
            self.check(f"{name} back to the start", end <= start + more, f"{start} -> {end}")
        self.check("nothing hangs, well-behaved traffic is right", not load.wrong, f"{len(load.wrong)} scenarios")
        self.check("no panic", not self.proxy.alarms, self.proxy.alarms[:3])


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def identity(out):
    """Returns what makes TLS configurations of a server with a certificate of its own."""
    key, certificate = out / "key.pem", out / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=soak.test -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)

    def context(alpn):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        tls.set_alpn_protocols(alpn)
        return tls

    return context


if __name__ == "__main__":
    main()
