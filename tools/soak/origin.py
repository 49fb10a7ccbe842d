"""The server of the soak: HTTP/1 with keep-alive, HTTP/2, WebSocket echo and TCP echo.

The query of a request says how it is answered, so a server knows nothing of seeds:

    size=N        the size of the response body
    how=cl|chunked|trailers|close   how its end is marked in HTTP/1 (HTTP/2: only `trailers` matters)
    mis=NAME      what goes wrong, see `Origin.http1` and `Origin.http2`
    wait=SECONDS  how long a stall lasts

Every answer to a request with a body has its fingerprint in `x-got`.
"""

import asyncio
import base64
import hashlib
import random
import urllib.parse

import h2.errors

import wire

HTTP1_MISBEHAVIOUR = (
    "rst-before rst-head rst-body short garbage big-head many-headers slow stall half-close extra early bad-length "
    "bad-chunk no-answer status-1xx"
).split()
HTTP2_MISBEHAVIOUR = (
    "rst-before rst-head rst-body refused goaway goaway-body reset-connection garbage slow stall early big-head "
    "flood bad-length status-1xx no-answer"
).split()


class Origin:
    """Everything listens on 127.0.0.1 on ports that the system chose."""

    def __init__(self, identity):
        self.identity = identity
        self.servers = []
        self.open = set()
        self.tasks = set()

    async def start(self):
        async def listen(serve, tls=None):
            async def handle(reader, writer):
                self.open.add(writer)
                self.tasks.add(asyncio.current_task())
                try:
                    await serve(reader, writer)
                except (asyncio.CancelledError, *wire.BROKEN):
                    # What ends with the load is no failure; and asyncio would report it.
                    pass
                finally:
                    self.open.discard(writer)
                    self.tasks.discard(asyncio.current_task())
                    wire.close(writer)

            options = {"ssl": tls, "ssl_handshake_timeout": 10, "ssl_shutdown_timeout": 1} if tls else {}
            server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=wire.HEAD_LIMIT, **options)
            self.servers.append(server)
            return server.sockets[0].getsockname()[1]

        self.http = await listen(self.http1)
        self.https1 = await listen(self.http1, self.identity(["http/1.1"]))
        self.https2 = await listen(self.tls, self.identity(["h2", "http/1.1"]))
        self.tcp = await listen(self.echo)
        self.no_tls = await listen(self.garbage)

    def abort(self):
        """Ends all connections."""
        for writer in list(self.open):
            writer.transport.abort()
        for task in list(self.tasks):
            task.cancel()

    async def tls(self, reader, writer):
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            peer = wire.Peer(reader, writer, client=False, serve=self.http2)
            try:
                await peer.reading
            finally:
                await peer.stop()
        else:
            await self.http1(reader, writer)

    async def echo(self, reader, writer):
        while data := await reader.read(1 << 16):
            if data.startswith(b"\xffrst"):
                return wire.reset(writer)
            await wire.send(writer, data)
        # After the other half was closed.
        await wire.send(writer, b"bye")

    async def garbage(self, reader, writer):
        """In place of a TLS server: noise, silence, an end in mid-record, or a reset."""
        await reader.read(1)
        choice = random.randrange(4)
        if choice == 0:
            await wire.send(writer, random.randbytes(200))
        elif choice == 1:
            await asyncio.sleep(3)
        elif choice == 2:
            await wire.send(writer, b"\x16\x03\x03\x40\x00" + random.randbytes(100))
        else:
            wire.reset(writer)

    async def http1(self, reader, writer):
        while True:
            (method, target, _), headers = await wire.read_head(reader)
            plan = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(target).query))
            mis, wait = plan.get("mis"), float(plan.get("wait", 0))
            if mis == "rst-before":
                return wire.reset(writer)
            if headers.get("upgrade") == "websocket":
                return await self.websocket(reader, writer, headers, mis)
            if "100-continue" in headers.get("expect", ""):
                await wire.send(writer, b"HTTP/1.1 100 Continue\r\n\r\n")
            got = None
            if mis != "early":
                got = (await wire.read_body(reader, headers)).text()
            size, how = int(plan.get("size", 0)), plan.get("how", "cl")
            head = "HTTP/1.1 200 OK\r\nServer: soak\r\n"
            if got:
                head += f"X-Got: {got}\r\n"
            head += {
                "cl": f"Content-Length: {size}\r\n",
                "chunked": "Transfer-Encoding: chunked\r\n",
                "trailers": "Transfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n",
                "close": "Connection: close\r\n",
            }[how]
            head = head.encode() + b"\r\n"
            if mis == "rst-head":
                await wire.send(writer, head[:30])
                return wire.reset(writer)
            if mis == "garbage":
                return await wire.send(writer, random.randbytes(300) + b"\r\n\r\n")
            if mis == "big-head":
                return await wire.send(writer, head[:-2] + b"X-Big: " + b"b" * 300_000 + b"\r\n\r\n")
            if mis == "many-headers":
                return await wire.send(writer, head[:-2] + b"X-Many: 1\r\n" * 5000 + b"\r\n")
            if mis == "bad-length":
                return await wire.send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")
            if mis == "bad-chunk":
                return await wire.send(
                    writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
                )
            if mis == "no-answer":
                await asyncio.sleep(wait)
                return None
            if mis == "status-1xx":
                await wire.send(writer, b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3)
            await wire.send(writer, head)
            if method == "HEAD":
                continue
            if mis in ("rst-body", "short", "stall", "slow", "half-close"):
                piece = next(wire.body(max(size // 2, 1)))
                if how in ("chunked", "trailers"):
                    piece = b"%x\r\n" % len(piece) + piece + b"\r\n"
                if mis == "slow":
                    for start in range(0, min(len(piece), 400), 20):
                        await wire.send(writer, piece[start : start + 20])
                        await asyncio.sleep(0.1)
                    return None
                await wire.send(writer, piece)
                if mis == "rst-body":
                    return wire.reset(writer)
                if mis == "half-close" and writer.can_write_eof():
                    writer.write_eof()
                await asyncio.sleep(wait if mis != "short" else 0)
                return None
            await wire.send_body(writer, size, chunked=how in ("chunked", "trailers"), trailers=how == "trailers")
            if mis == "extra":
                await wire.send(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore")
            if how == "close" or mis:
                return None

    async def http2(self, peer, number, stream):
        try:
            await self.answer(peer, number, stream)
        except wire.BROKEN:
            pass
        finally:
            # There may be thousands on a connection.
            peer.streams.pop(number, None)

    async def answer(self, peer, number, stream):
        plan = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(stream.headers.get(":path", "")).query))
        mis, wait = plan.get("mis"), float(plan.get("wait", 0))
        size, how = int(plan.get("size", 0)), plan.get("how", "cl")
        if mis == "rst-before":
            return peer.rst(number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        if mis == "refused":
            return peer.rst(number, h2.errors.ErrorCodes.REFUSED_STREAM)
        if mis == "reset-connection":
            return wire.reset(peer.writer)
        if mis == "garbage":
            peer.writer.write(random.randbytes(200))
            return None
        if mis == "goaway":
            peer.goaway(2)
            await asyncio.sleep(wait)
            return peer.writer.transport.abort()
        if mis == "no-answer":
            await asyncio.sleep(wait)
            return peer.rst(number)
        if mis == "flood":
            # PINGs that have to be answered, and frames of a type that nobody knows.
            peer.writer.write((b"\0\0\x08\x06\0\0\0\0\0" + b"p" * 8) * 200 + b"\0\0\x04\xf0\0\0\0\0\0junk" * 200)
        if mis == "status-1xx":
            for _ in range(3):
                peer.h2.send_headers(number, [(":status", "103"), ("link", "</x>")])
            peer.flush()
        if mis != "early":
            await stream.ended.wait()
            if stream.failed:
                return None
        head = [(":status", "200"), ("server", "soak")]
        if mis != "early":
            head.append(("x-got", stream.tally.text()))
        if how == "cl":
            head.append(("content-length", str(size + (mis == "bad-length"))))
        if mis == "big-head":
            head += [(f"x-big-{n}", "b" * 4000) for n in range(40)]
        if stream.headers.get(":method") == "HEAD":
            peer.h2.send_headers(number, head, end_stream=True)
            return peer.flush()
        peer.h2.send_headers(number, head)
        peer.flush()
        if mis == "rst-head":
            return peer.rst(number)
        if mis in ("rst-body", "goaway-body", "stall", "slow"):
            piece = next(wire.body(max(size // 2, 1)))[:10_000]
            for start in range(0, len(piece), 1000):
                peer.h2.send_data(number, piece[start : start + 1000])
                peer.flush()
                if mis == "slow":
                    await asyncio.sleep(0.2)
            if mis == "goaway-body":
                return peer.goaway(0)
            await asyncio.sleep(wait if mis == "stall" else 0)
            return peer.rst(number)
        await peer.send_body(number, stream, size, trailers=how == "trailers")
        if mis == "early":
            peer.rst(number, h2.errors.ErrorCodes.NO_ERROR)
        return None

    async def websocket(self, reader, writer, headers, mis):
        key = headers.get("sec-websocket-key", "").encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += f"Sec-WebSocket-Accept: {accept}\r\n"
        if "permessage-deflate" in headers.get("sec-websocket-extensions", ""):
            head += "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover\r\n"
        await wire.send(writer, (head + "\r\n").encode())
        count = 0
        while True:
            opcode, fin, rsv1, payload = await wire.read_frame(reader)
            count += 1
            if opcode == wire.CLOSE:
                return await wire.send(writer, wire.frame(wire.CLOSE, payload, mask=False))
            if opcode == wire.PING:
                await wire.send(writer, wire.frame(wire.PONG, payload, mask=False))
                continue
            if opcode == wire.PONG:
                continue
            if count > 2 and mis in ("rst-body", "rst-head"):
                return wire.reset(writer)
            if count > 2 and mis == "short":
                return await wire.send(writer, wire.frame(opcode, payload + b"more", fin, False, rsv1)[:-2])
            if count > 2 and mis == "garbage":
                await wire.send(writer, b"\xff\xff" + random.randbytes(50))
                continue
            if count > 2 and mis == "half-close" and writer.can_write_eof():
                writer.write_eof()
                continue
            if count > 2 and mis == "stall":
                await asyncio.sleep(3)
                return None
            await wire.send(writer, wire.frame(opcode, payload, fin, False, rsv1))
