"""What both ends of the soak share: bodies whose bytes are known, HTTP/1 heads and bodies, an HTTP/2 peer, WebSocket frames.

Nothing here misbehaves; that is left to `origin.py` and `load.py`, which have the transports to do it with.
"""

import asyncio
import contextlib
import os
import random
import socket
import struct
import zlib

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

BLOCK = random.Random(0).randbytes(1 << 16)
HEAD_LIMIT = 1 << 20
# What the other end, or the proxy in between, may do to a connection.
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    asyncio.LimitOverrunError,
    h2.exceptions.H2Error,
    # A write after a half-close.
    RuntimeError,
)


class Wrong(Exception):
    """Something that only the proxy can have got wrong."""


def body(size):
    """The pieces of the body of this size."""
    while size > 0:
        yield BLOCK[:size]
        size -= len(BLOCK)


def fingerprint(size):
    tally = Tally()
    for piece in body(size):
        tally.add(piece)
    return tally.text()


class Tally:
    """The fingerprint of bytes that pass by."""

    def __init__(self):
        self.size = 0
        self.crc = 0

    def add(self, data):
        self.size += len(data)
        self.crc = zlib.crc32(data, self.crc)

    def text(self):
        return f"{self.size}-{self.crc:08x}"


def reset(writer):
    """Ends a connection with RST, TLS or not."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def close(writer):
    with contextlib.suppress(Exception):
        writer.close()


async def send(writer, data):
    writer.write(data)
    await writer.drain()


# HTTP/1


async def read_head(reader):
    """Returns the words of the first line, and the headers by their names in lower case."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return lines[0].split(" ", 2), headers


async def read_body(reader, headers, pause=None, until_close=False):
    """Reads to the end of a body and returns its tally. `pause` is awaited before each read."""
    tally = Tally()

    async def count(size):
        while size > 0:
            if pause:
                await pause()
            data = await reader.read(min(size, 1 << 16))
            if not data:
                raise EOFError
            tally.add(data)
            size -= len(data)

    if "chunked" in headers.get("transfer-encoding", ""):
        while True:
            size = int((await reader.readline()).split(b";")[0] or b"", 16)
            if size == 0:
                break
            await count(size)
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
    elif "content-length" in headers:
        await count(int(headers["content-length"]))
    elif until_close:
        while data := await reader.read(1 << 16):
            if pause:
                await pause()
            tally.add(data)
    return tally


async def send_body(writer, size, chunked=False, trailers=False):
    for piece in body(size):
        if chunked:
            writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        else:
            writer.write(piece)
        await writer.drain()
    if chunked:
        await send(writer, b"0\r\n" + (b"X-Trailer: t\r\n" if trailers else b"") + b"\r\n")


# HTTP/2


class Stream:
    def __init__(self):
        self.headers = None
        self.trailers = None
        self.tally = Tally()
        self.failed = None
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.unread = False
        # Where the data goes if it is another protocol's.
        self.tunnel = None


class Tunnel:
    """What looks like a reader and a writer, and is a stream of HTTP/2 (RFC 8441)."""

    def __init__(self, peer, number, stream):
        self.peer, self.number, self.stream = peer, number, stream
        self.reader = asyncio.StreamReader()
        self.writer = self
        self.waiting = b""
        stream.tunnel = self.reader

    def write(self, data):
        self.waiting += data

    async def drain(self):
        data, self.waiting = self.waiting, b""
        await self.peer.send_data(self.number, self.stream, data)


class Peer:
    """One end of an HTTP/2 connection. `serve` is called for each new stream of a server."""

    def __init__(self, reader, writer, client, serve=None):
        self.reader, self.writer, self.serve = reader, writer, serve
        # The other end is the proxy; what it lets through is to be seen here, not to be refused.
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8", validate_inbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.streams = {}
        self.moved = asyncio.Event()
        self.gone = None
        self.tasks = set()
        self.h2.initiate_connection()
        self.flush()
        self.reading = asyncio.ensure_future(self.read())

    def flush(self):
        data = self.h2.data_to_send()
        if data and not self.writer.transport.is_closing():
            self.writer.write(data)

    async def read(self):
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.h2.receive_data(data):
                    self.handle(event)
                self.flush()
                await self.writer.drain()
            self.end("closed")
        except BROKEN as error:
            self.flush()
            self.end(repr(error))

    def handle(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RequestReceived):
            stream = self.streams[event.stream_id] = Stream()
            stream.headers = dict(event.headers)
            task = asyncio.ensure_future(self.serve(self, event.stream_id, stream))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.gone = f"GOAWAY {event.error_code}"
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self.moved.set()
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            stream.headers = dict(event.headers)
            stream.started.set()
        elif isinstance(event, h2.events.DataReceived):
            if stream.tunnel:
                stream.tunnel.feed_data(event.data)
            else:
                stream.tally.add(event.data)
            if not stream.unread and event.flow_controlled_length:
                with contextlib.suppress(h2.exceptions.H2Error):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended.set()
            if stream.tunnel:
                stream.tunnel.feed_eof()
        elif isinstance(event, h2.events.StreamReset):
            self.fail(stream, f"RST_STREAM {event.error_code}")

    def fail(self, stream, why):
        stream.failed = stream.failed or why
        stream.started.set()
        stream.ended.set()
        if stream.tunnel:
            stream.tunnel.feed_eof()
        self.moved.set()

    def end(self, why):
        self.gone = self.gone or why
        for stream in self.streams.values():
            if not stream.ended.is_set():
                self.fail(stream, self.gone)
        self.moved.set()

    def request(self, headers, end):
        if self.gone:
            raise EOFError(self.gone)
        number = self.h2.get_next_available_stream_id()
        self.streams[number] = Stream()
        self.h2.send_headers(number, headers, end_stream=end)
        self.flush()
        return number, self.streams[number]

    async def send_body(self, number, stream, size, trailers=False):
        for piece in body(size):
            await self.send_data(number, stream, piece)
        if trailers:
            self.h2.send_headers(number, [("x-trailer", "t")], end_stream=True)
        else:
            self.h2.end_stream(number)
        self.flush()

    async def send_data(self, number, stream, data):
        while data:
            if stream.failed or self.writer.transport.is_closing():
                raise EOFError(stream.failed)
            room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(data))
            if room <= 0:
                self.moved.clear()
                await self.moved.wait()
                continue
            self.h2.send_data(number, data[:room])
            data = data[room:]
            self.flush()
            await self.writer.drain()

    def rst(self, number, code=h2.errors.ErrorCodes.CANCEL):
        with contextlib.suppress(h2.exceptions.H2Error):
            self.h2.reset_stream(number, code)
        self.flush()

    def goaway(self, code=0):
        with contextlib.suppress(h2.exceptions.H2Error):
            self.h2.close_connection(code)
        self.flush()

    async def stop(self):
        for task in [self.reading, *self.tasks]:
            task.cancel()
        await asyncio.gather(self.reading, *self.tasks, return_exceptions=True)


# WebSocket

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode, payload=b"", fin=True, mask=True, rsv1=False):
    first = (0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode
    bit, size = 0x80 if mask else 0, len(payload)
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not mask:
        return head + payload
    key = os.urandom(4)
    return head + key + masked(payload, key)


def masked(payload, key):
    if not payload:
        return b""
    pattern = (key * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return number.to_bytes(len(payload), "big")


async def read_frame(reader):
    """Returns opcode, FIN, RSV1 and payload."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack("!Q", await reader.readexactly(8))
    if size > 16 << 20:
        raise ValueError("a frame that nobody sent")
    key = await reader.readexactly(4) if second & 0x80 else None
    payload = await reader.readexactly(size)
    return first & 0x0F, bool(first & 0x80), bool(first & 0x40), masked(payload, key) if key else payload


def deflate(payload):
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(payload):
    return zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff")
