"""The clients of the soak. Each scenario is one connection to the proxy, planned by a random generator of its own.

A scenario ends well if everything behaved and all answers were complete and right; it may end in any way once somebody
misbehaved, but it must end: the proxy may keep nobody waiting. `Wrong` is what only the proxy can have done.
"""

import asyncio
import base64
import collections
import random
import ssl

import h2.errors

import wire
from origin import HTTP1_MISBEHAVIOUR, HTTP2_MISBEHAVIOUR
from wire import Wrong

PATIENCE = 60
HTTP1_CLIENT = (
    "rst-head rst-body rst-reading half-close slow never-read big-head many-headers garbage slowloris bad-request "
    "bad-chunk smuggle tls-garbage tls-half no-tls silence"
).split()
HTTP2_CLIENT = (
    "rst-stream rst-body never-read goaway reset-connection garbage bad-frame rapid-reset ping-flood settings-flood "
    "window-zero continuation big-head data-on-closed half-body"
).split()
WEBSOCKET_CLIENT = (
    "rst fin bad-opcode unmasked big-control bad-utf8 half-frame never-read bad-rsv bad-close bad-handshake no-close"
).split()


class Refused(Exception):
    """The proxy did not open a tunnel."""


def client_tls(alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


class Load:
    def __init__(self, seed, origin, ports):
        self.seed, self.origin, self.ports = seed, origin, ports
        self.contexts = {alpn: client_tls(alpn.split()) for alpn in ("", "http/1.1", "h2", "h2 http/1.1")}
        self.outcomes = collections.Counter()
        self.wrong = []
        self.exchanges = 0
        self.bytes = 0
        self.started = 0
        self.running = {}

    def start(self, well=False):
        self.started += 1
        name = f"{self.seed}/{self.started}"
        task = asyncio.ensure_future(self.scenario(name, random.Random(name), well))
        self.running[task] = name
        task.add_done_callback(self.running.pop)

    async def scenario(self, name, rng, well):
        kinds = [self.http1, self.http2, self.websocket, self.tcp]
        kind = rng.choices(kinds, [40, 38, 17, 5])[0]
        mis_client = not well and rng.random() < 0.35
        mis_server = not well and rng.random() < 0.3
        connection = Connection(self, rng)
        what = f"{kind.__name__} {mis_client=} {mis_server=}"
        try:
            await asyncio.wait_for(kind(connection, rng, mis_client, mis_server), PATIENCE)
            outcome = "ended"
        except asyncio.TimeoutError:
            outcome = "hung"
        except Wrong as error:
            outcome, what = "wrong", f"{what}: {error}"
        except (Refused, *wire.BROKEN) as error:
            outcome, what = "broken", f"{what}: {error!r}"
        except asyncio.CancelledError:
            outcome = "cancelled"
        finally:
            await connection.close()
        behaved = "misbehaved" if mis_client or mis_server else "behaved"
        self.outcomes[f"{kind.__name__} {behaved} {outcome}"] += 1
        if outcome in ("hung", "wrong") or outcome == "broken" and behaved == "behaved":
            self.wrong.append(f"{name} {outcome}: {what} ({connection.route})")

    # HTTP/1

    async def http1(self, connection, rng, mis_client, mis_server):
        mis = rng.choice(HTTP1_CLIENT) if mis_client else None
        if mis in ("tls-garbage", "tls-half", "no-tls", "silence"):
            return await self.no_handshake(connection, rng, mis)
        routes = ["regular", "tunnel", "tunnel-tls", "tunnel-tls2", "reverse", "reverse-tls", "reverse-plain"]
        reader, writer, target = await connection.open(rng.choice(routes), rng.choice(["", "http/1.1"]))
        count = rng.choice([1, 1, 2, 4, 8])
        for turn in range(count):
            plan = Plan(rng, rng.choice(HTTP1_MISBEHAVIOUR) if mis_server and turn == count - 1 else None)
            head = f"{plan.method} {target}{plan.path()} HTTP/1.1\r\nHost: {connection.host}\r\nUser-Agent: soak\r\n"
            if plan.method == "POST":
                chunked = "Transfer-Encoding: chunked\r\n"
                head += chunked if plan.chunked_request else f"Content-Length: {plan.request_size}\r\n"
            if plan.expect:
                head += "Expect: 100-continue\r\n"
            head = head.encode() + b"\r\n"
            if mis and turn == count - 1:
                return await self.spoil(connection, rng, mis, head, plan)
            await wire.send(writer, head)
            sending = None
            if plan.method == "POST":
                body = wire.send_body(writer, plan.request_size, plan.chunked_request, plan.chunked_request)
                sending = asyncio.ensure_future(body)
            try:
                status, headers = await read_final_head(reader)
                self.exchanges += 1
                if plan.mis:
                    await wire.read_body(reader, headers, until_close=True)
                    return None
                tally = wire.Tally()
                if plan.method != "HEAD":
                    tally = await wire.read_body(reader, headers, until_close=True)
                if sending:
                    await sending
                self.bytes += plan.request_size + tally.size
                plan.check(status, headers.get("x-got"), tally, has_length="content-length" in headers)
            finally:
                if sending:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
            if headers.get("connection", "").lower() == "close":
                return None
        return None

    async def spoil(self, connection, rng, mis, head, plan):
        reader, writer = connection.reader, connection.writer
        size = 3 << 20
        post = f"POST {head.split(b' ')[1].decode()} HTTP/1.1\r\nHost: {connection.host}\r\n".encode()
        if mis == "rst-head":
            await wire.send(writer, head[: rng.randrange(1, len(head))])
            await asyncio.sleep(rng.random())
            wire.reset(writer)
        elif mis == "rst-body":
            await wire.send(writer, post + b"Content-Length: %d\r\n\r\n" % size)
            await wire.send_body(writer, rng.randrange(size))
            wire.reset(writer)
        elif mis == "half-close":
            await wire.send(writer, post + b"Content-Length: 0\r\n\r\n")
            if writer.can_write_eof():
                writer.write_eof()
            _, headers = await read_final_head(reader)
            await wire.read_body(reader, headers, until_close=True)
        elif mis in ("slow", "never-read", "rst-reading"):
            path = f"?size={size}&how={rng.choice(['cl', 'chunked'])}".encode()
            words = head.split(b" ")
            target = words[1].split(b"?")[0] + path
            await wire.send(writer, b"GET " + target + b" HTTP/1.1\r\nHost: " + connection.host.encode() + b"\r\n\r\n")
            if mis == "never-read":
                await asyncio.sleep(rng.uniform(1, 8))
                return wire.reset(writer)
            if mis == "rst-reading":
                await reader.readexactly(rng.randrange(1, 100_000))
                return wire.reset(writer)
            end = asyncio.get_running_loop().time() + 8
            while asyncio.get_running_loop().time() < end and await reader.read(8192):
                await asyncio.sleep(0.05)
        elif mis == "big-head":
            await wire.send(writer, head[:-2] + b"X-Big: " + b"b" * rng.choice([70_000, 300_000]) + b"\r\n\r\n")
            await reader.read()
        elif mis == "many-headers":
            await wire.send(writer, head[:-2] + b"X-Many: 1\r\n" * 4000 + b"\r\n")
            await reader.read()
        elif mis == "garbage":
            await wire.send(writer, rng.randbytes(rng.choice([10, 1000, 70_000])))
            if writer.can_write_eof():
                writer.write_eof()
            await reader.read()
        elif mis == "slowloris":
            for byte in head[: rng.randrange(10, 40)]:
                await wire.send(writer, bytes([byte]))
                await asyncio.sleep(0.2)
            wire.reset(writer)
        elif mis == "bad-request":
            lines = [b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G\x01T / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n a\r\n\r\n"]
            await wire.send(writer, rng.choice(lines))
            await reader.read()
        elif mis == "bad-chunk":
            await wire.send(writer, post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
            await reader.read()
        elif mis == "smuggle":
            await wire.send(writer, post + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            await reader.read(100)
        return None

    async def no_handshake(self, connection, rng, mis):
        """Where the proxy expects TLS, or anything at all."""
        route = rng.choice(["tunnel-tls2", "reverse-tls", "reverse"])
        if mis == "no-tls":
            # It is the server that speaks no TLS.
            await connection.open("tunnel-no-tls", "")
            return None
        reader, writer, _ = await connection.open(route, None)
        if mis == "tls-garbage":
            await wire.send(writer, b"\x16\x03\x01" + rng.randbytes(rng.choice([3, 300, 20_000])))
        elif mis == "tls-half":
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = self.contexts["h2"].wrap_bio(incoming, outgoing, server_hostname="half.soak.test")
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            hello = outgoing.read()
            await wire.send(writer, hello[: rng.choice([1, 5, len(hello) // 2, len(hello)])])
        await asyncio.sleep(rng.uniform(0, 4))
        if rng.random() < 0.5:
            wire.reset(writer)
        elif rng.random() < 0.5 and writer.can_write_eof():
            writer.write_eof()
            await reader.read()
        return None

    # HTTP/2

    async def http2(self, connection, rng, mis_client, mis_server):
        route = rng.choice(["tunnel-tls2", "tunnel-tls2", "tunnel-tls", "reverse-tls"])
        reader, writer, _ = await connection.open(route, rng.choice(["h2", "h2 http/1.1"]))
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            if route == "tunnel-tls":
                # The proxy offers what the server does.
                return None
            raise Wrong("no HTTP/2")
        peer = connection.peer = wire.Peer(reader, writer, client=True)
        mis = rng.choice(HTTP2_CLIENT) if mis_client else None
        count = rng.choice([1, 3, 10, 20])
        jobs = []
        for turn in range(count):
            server_mis = rng.choice(HTTP2_MISBEHAVIOUR) if mis_server and rng.random() < 0.4 else None
            plan = Plan(rng, server_mis)
            job = self.websocket2(connection, peer, rng) if rng.random() < 0.05 else self.stream(connection, peer, plan)
            jobs.append(asyncio.ensure_future(job))
            if rng.random() < 0.3:
                await asyncio.gather(*jobs, return_exceptions=True)
            elif len(jobs) >= 6:
                await asyncio.wait(jobs[-6:], return_when=asyncio.FIRST_COMPLETED)
        spoiling = asyncio.ensure_future(self.spoil2(connection, rng, mis)) if mis else None
        results = await asyncio.gather(*jobs, return_exceptions=True)
        if spoiling:
            await spoiling
        for result in results:
            if isinstance(result, Exception) and not (mis_client or mis_server):
                raise result
        for result in results:
            if isinstance(result, Wrong):
                raise result
        if not mis and rng.random() < 0.5:
            peer.goaway()
        return None

    async def stream(self, connection, peer, plan):
        headers = [(":method", plan.method), (":scheme", "https"), (":authority", connection.host), (":path", plan.path())]
        headers.append(("cookie", "a=1"))
        post = plan.method == "POST"
        if post and not plan.chunked_request:
            headers.append(("content-length", str(plan.request_size)))
        number, stream = peer.request(headers, end=not post)
        try:
            if post:
                try:
                    await peer.send_body(number, stream, plan.request_size, trailers=plan.chunked_request)
                except wire.BROKEN:
                    if not plan.mis:
                        raise
            await stream.ended.wait()
            self.exchanges += 1
            if plan.mis:
                return
            if stream.failed:
                raise EOFError(stream.failed)
            self.bytes += plan.request_size + stream.tally.size
            plan.check(stream.headers[":status"], stream.headers.get("x-got"), stream.tally)
        finally:
            if plan.mis:
                peer.rst(number)
            peer.streams.pop(number, None)

    async def websocket2(self, connection, peer, rng):
        """A WebSocket in a stream, which ends with a close, with RST_STREAM, or with the connection."""
        for _ in range(100):
            if peer.gone or peer.h2.remote_settings.enable_connect_protocol:
                break
            await asyncio.sleep(0.05)
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", connection.host)]
        number, stream = peer.request(head + [(":path", "/ws"), ("sec-websocket-version", "13")], end=False)
        try:
            await stream.started.wait()
            if stream.failed or stream.headers[":status"] != "200":
                raise ValueError(f"a WebSocket in HTTP/2: {stream.failed or stream.headers}")
            tunnel = wire.Tunnel(peer, number, stream)
            for _ in range(rng.choice([1, 5, 20])):
                size = rng.choice([0, 20, 1000, 40_000])
                await self.echo(tunnel, rng, size, packed=False)
                self.exchanges += 1
                self.bytes += 2 * size
            if rng.random() < 0.7:
                await wire.send(tunnel, wire.frame(wire.CLOSE, b"\x03\xe8done"))
                opcode = wire.PONG
                while opcode == wire.PONG:
                    opcode, *_ = await wire.read_frame(tunnel.reader)
            elif rng.random() < 0.5:
                peer.rst(number)
        finally:
            peer.streams.pop(number, None)

    async def spoil2(self, connection, rng, mis):
        peer = connection.peer

        def get(size=0, **more):
            query = "&".join(f"{name}={value}" for name, value in {"size": size, **more}.items())
            head = [(":method", "GET"), (":scheme", "https"), (":authority", connection.host), (":path", f"/?{query}")]
            return peer.request(head, end=True)

        def post():
            head = [(":method", "POST"), (":scheme", "https"), (":authority", connection.host), (":path", "/?size=5")]
            return peer.request(head, end=False)

        raw = peer.writer.write
        if mis == "rst-stream":
            for _ in range(5):
                number, stream = get(1 << 20)
                await asyncio.sleep(rng.uniform(0, 0.1))
                peer.rst(number)
        elif mis == "rst-body":
            number, stream = post()
            await peer.send_body(number, stream, 50_000)
            number, stream = post()
            peer.h2.send_data(number, b"x" * 1000)
            peer.rst(number)
        elif mis == "never-read":
            for _ in range(3):
                number, stream = get(2 << 20)
                stream.unread = True
            await asyncio.sleep(rng.uniform(1, 8))
        elif mis == "goaway":
            get(200_000)
            peer.goaway(rng.choice([0, 1, 11]))
            await asyncio.sleep(rng.random())
        elif mis == "reset-connection":
            get(1 << 20)
            post()
            await asyncio.sleep(rng.uniform(0, 0.1))
            wire.reset(peer.writer)
        elif mis == "garbage":
            raw(rng.randbytes(500))
            await asyncio.sleep(1)
        elif mis == "bad-frame":
            number, _ = get()
            bad = [
                b"\0\0\x05\0\0\0\0\0\0hello",  # DATA on stream 0
                b"\0\0\x03\x04\0\0\0\0\0abc",  # SETTINGS of a wrong length
                b"\xff\xff\xff\0\0\0\0\0\x01",  # larger than allowed
                b"\0\0\x05\x09\x04\0\0\0\x01hello",  # CONTINUATION of nothing
                b"\0\0\x04\x01\x05" + (number + 2).to_bytes(4, "big") + b"\xff\xff\xff\xff",  # no HPACK
                b"\0\0\x05\x02\0" + number.to_bytes(4, "big") + number.to_bytes(4, "big") + b"\0",  # depends on itself
            ]
            raw(rng.choice(bad))
            await asyncio.sleep(1)
        elif mis == "rapid-reset":
            for _ in range(150):
                number, stream = get(10)
                peer.rst(number)
                peer.streams.pop(number, None)
                if peer.gone:
                    break
            await asyncio.sleep(0.5)
        elif mis == "ping-flood":
            raw((b"\0\0\x08\x06\0\0\0\0\0" + b"p" * 8) * 2000)
            await asyncio.sleep(0.5)
        elif mis == "settings-flood":
            raw(b"\0\0\0\x04\0\0\0\0\0" * 2000)
            await asyncio.sleep(0.5)
        elif mis == "window-zero":
            number, _ = get(200_000)
            raw(b"\0\0\x04\x08\0" + number.to_bytes(4, "big") + b"\0\0\0\0")
            await asyncio.sleep(0.5)
        elif mis == "continuation":
            number = peer.h2.get_next_available_stream_id()
            raw(b"\0\0\x01\x01\x01" + number.to_bytes(4, "big") + b"\x82")
            for _ in range(200):
                raw(b"\0\x04\0\x09\0" + number.to_bytes(4, "big") + b"\x82" * 1024)
            await asyncio.sleep(1)
        elif mis == "big-head":
            head = [(":method", "GET"), (":scheme", "https"), (":authority", connection.host), (":path", "/")]
            peer.request(head + [(f"x-{n}", "b" * 4000) for n in range(40)], end=True)
            await asyncio.sleep(1)
        elif mis == "data-on-closed":
            number, stream = get()
            await stream.ended.wait()
            raw(b"\0\0\x05\0\0" + number.to_bytes(4, "big") + b"hello")
            await asyncio.sleep(0.5)
        elif mis == "half-body":
            number, stream = post()
            peer.h2.send_data(number, b"x" * 10_000)
            peer.flush()
            await asyncio.sleep(rng.uniform(0, 5))

    # WebSocket

    async def websocket(self, connection, rng, mis_client, mis_server):
        routes = ["regular", "tunnel", "tunnel-tls", "tunnel-tls2", "reverse", "reverse-tls"]
        reader, writer, target = await connection.open(rng.choice(routes), "http/1.1")
        mis = rng.choice(WEBSOCKET_CLIENT) if mis_client else None
        query = "?mis=" + rng.choice("rst-body short garbage half-close stall rst-before".split()) if mis_server else ""
        packed = rng.random() < 0.5
        key = base64.b64encode(rng.randbytes(16)).decode()
        head = f"GET {target}/ws{query} HTTP/1.1\r\nHost: {connection.host}\r\nUpgrade: websocket\r\n"
        head += f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        if packed:
            head += "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"
        if mis == "bad-handshake":
            head = head.replace("13", "7")
        await wire.send(writer, head.encode() + b"\r\n")
        words, headers = await wire.read_head(reader)
        if words[1] != "101":
            if mis_server or mis:
                return None
            raise Wrong(f"the answer to a handshake is {words}")
        packed = packed and "permessage-deflate" in headers.get("sec-websocket-extensions", "")
        for _ in range(rng.choice([1, 5, 20, 60])):
            size = rng.choices([0, 20, 1000, 40_000, 200_000, 1_500_000], [1, 5, 5, 2, 1, 0.2])[0]
            await self.echo(connection, rng, size, packed)
            self.exchanges += 1
            self.bytes += 2 * size
            if rng.random() < 0.1:
                await asyncio.sleep(rng.uniform(0, 1))
        text, binary = wire.TEXT, wire.BINARY
        if mis == "rst":
            await wire.send(writer, wire.frame(binary, wire.BLOCK))
            return wire.reset(writer)
        if mis == "fin":
            return None
        if mis == "half-frame":
            return await wire.send(writer, wire.frame(binary, wire.BLOCK)[: rng.randrange(1, 60_000)])
        if mis == "never-read":
            for _ in range(20):
                writer.write(wire.frame(binary, wire.BLOCK))
            await asyncio.sleep(rng.uniform(1, 6))
            return wire.reset(writer)
        if mis == "no-close":
            return await asyncio.sleep(rng.uniform(0, 6))
        bad = {
            "bad-opcode": wire.frame(5, b"x"),
            "unmasked": wire.frame(text, b"x", mask=False),
            "big-control": wire.frame(wire.PING, b"x" * 200),
            "bad-utf8": wire.frame(text, b"\xff\xfe\xfd"),
            "bad-rsv": b"\xf1\x80abcd",
            "bad-close": wire.frame(wire.CLOSE, b"\x03"),
        }.get(mis)
        if bad:
            await wire.send(writer, bad)
            await reader.read(1 << 16)
            return None
        await wire.send(writer, wire.frame(wire.CLOSE, b"\x03\xe8done"))
        opcode = wire.PONG
        while opcode == wire.PONG:
            opcode, *_ = await wire.read_frame(reader)
        if opcode != wire.CLOSE and not mis_server and not mis:
            raise Wrong(f"opcode {opcode} in place of a close")
        return None

    async def echo(self, connection, rng, size, packed):
        """Sends one message in one or more frames, with a ping now and then, and compares what comes back."""
        reader, writer = connection.reader, connection.writer
        payload = b"".join(wire.body(size))
        sent = wire.deflate(payload) if packed else payload
        pieces = rng.choice([1, 1, 1, 2, 5])
        step = len(sent) // pieces + 1
        parts = [sent[start : start + step] for start in range(0, len(sent), step)] or [b""]

        async def write():
            for index, part in enumerate(parts):
                opcode = wire.BINARY if index == 0 else 0
                await wire.send(writer, wire.frame(opcode, part, index == len(parts) - 1, True, packed and index == 0))
                if rng.random() < 0.1:
                    await wire.send(writer, wire.frame(wire.PING, b"ping"))

        writing = asyncio.ensure_future(write())
        try:
            received, compressed = [], False
            while True:
                opcode, fin, rsv1, part = await wire.read_frame(reader)
                if opcode == wire.PONG:
                    continue
                if opcode == wire.CLOSE:
                    raise EOFError("a close")
                compressed = compressed or rsv1
                received.append(part)
                if fin:
                    break
            await writing
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        got = b"".join(received)
        if (wire.inflate(got) if compressed else got) != payload:
            raise EOFError("another message")

    # TCP

    async def tcp(self, connection, rng, mis_client, mis_server):
        reader, writer, _ = await connection.open("tunnel-tcp", None)
        for _ in range(rng.choice([1, 5, 20])):
            data = b"\0tcp" + wire.BLOCK[: rng.choice([1, 500, 60_000])]
            await wire.send(writer, data)
            if await reader.readexactly(len(data)) != data:
                raise Wrong("other bytes")
            self.exchanges += 1
            self.bytes += 2 * len(data)
        if mis_server:
            await wire.send(writer, b"\xffrst")
            await reader.read()
        elif mis_client:
            wire.reset(writer)
        else:
            writer.write_eof()
            if await reader.read() != b"bye":
                raise Wrong("no half-close")


async def read_final_head(reader):
    while True:
        words, headers = await wire.read_head(reader)
        if not words[1].startswith("1"):
            return words[1], headers


class Plan:
    """One exchange."""

    def __init__(self, rng, mis):
        def size():
            if rng.random() < 0.6:
                return rng.choice([0, 1, 100, 3000, 16_384, 20_000])
            if rng.random() < 0.85:
                return int(2 ** rng.uniform(14, 19))
            return int(2 ** rng.uniform(19, 22.3))

        self.mis = mis
        self.method = rng.choice(["GET", "GET", "GET", "POST", "POST", "HEAD"])
        self.size = size()
        self.request_size = size() if self.method == "POST" else 0
        self.how = rng.choice(["cl", "cl", "chunked", "trailers", "close"])
        self.chunked_request = rng.random() < 0.4
        self.expect = self.method == "POST" and rng.random() < 0.05
        self.wait = rng.uniform(0, 6)

    def path(self):
        mis = f"&mis={self.mis}&wait={self.wait:.2f}" if self.mis else ""
        return f"/?size={self.size}&how={self.how}{mis}"

    def check(self, status, got, tally, has_length=True):
        if status != "200":
            raise ValueError(f"status {status} for {self.path()}")
        size = 0 if self.method == "HEAD" else self.size
        if tally.text() != wire.fingerprint(size):
            raise Wrong(f"body {tally.text()}, {wire.fingerprint(size)} expected, for {self.path()}")
        if got != wire.fingerprint(self.request_size):
            raise Wrong(f"the server got {got}, not {wire.fingerprint(self.request_size)}")


class Connection:
    """A client's connection, and the way it takes."""

    def __init__(self, load, rng):
        self.load, self.rng = load, rng
        self.writer = self.reader = self.peer = None
        self.route = "not connected"
        self.host = ""

    async def open(self, route, alpn):
        """Returns reader, writer and what stands before the path in a request. Without ALPN there is no TLS."""
        self.route = f"{route} {alpn}"
        origin, ports = self.load.origin, self.load.ports
        port = {"reverse": "reverse", "reverse-plain": "reverse_tls", "reverse-tls": "reverse_tls"}.get(route, "regular")
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", ports[port], limit=wire.HEAD_LIMIT)
        target = {
            "tunnel": origin.http,
            "tunnel-tls": origin.https1,
            "tunnel-tls2": origin.https2,
            "tunnel-tcp": origin.tcp,
            "tunnel-no-tls": origin.no_tls,
        }.get(route, origin.http)
        self.host = f"127.0.0.1:{target}"
        if route.startswith("tunnel"):
            await wire.send(self.writer, f"CONNECT {self.host} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
            words, headers = await wire.read_head(self.reader)
            if words[1] != "200":
                raise Refused(" ".join(words))
        if alpn is not None and route in ("tunnel-tls", "tunnel-tls2", "reverse-tls", "tunnel-no-tls"):
            name = f"h{self.rng.randrange(50)}.soak.test"
            tls = self.load.contexts[alpn]
            await self.writer.start_tls(tls, server_hostname=name, ssl_handshake_timeout=40)
        return self.reader, self.writer, f"http://{self.host}" if route == "regular" else ""

    async def close(self):
        if self.peer:
            await self.peer.stop()
        if self.writer:
            # Some say goodbye, some do not.
            if self.rng.random() < 0.5:
                wire.close(self.writer)
            else:
                self.writer.transport.abort()
