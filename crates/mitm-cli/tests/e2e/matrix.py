"""Both ends of what curl does not speak: WebSocket, and a line protocol whose server speaks first, in TLS or without.

usage: matrix.py serve HOST CERTIFICATE
       matrix.py talk WAY TRUSTED [HOST:PORT URL]...

A server says its ports for ws, wss and lines in TLS; the schemes of those are `lines` and `lines+tls`. A client connects to HOST:PORT for each URL: there is a `http` proxy or
a `socks5` one, or whatever else `direct`ly leads to the server of the URL. Ends with status 0 if all was as it should be.
"""

import asyncio
import socket
import ssl
import sys
import urllib.parse

from websockets.asyncio import server
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

GREETING = b"220 ready\r\n"


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def lines(reader, writer):
    writer.write(GREETING)
    line = await reader.readline()
    writer.write(b"250 " + line)
    await writer.drain()
    writer.close()


async def serve(host, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    servers = [
        await server.serve(echo, host, 0),
        await server.serve(echo, host, 0, ssl=context),
        await asyncio.start_server(lines, host, 0, ssl=context),
    ]
    print(*(each.sockets[0].getsockname()[1] for each in servers), flush=True)
    await asyncio.Future()


def read(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        assert part, f"the connection ended after {data!r}"
        data += part
    return data


def tunnel(way, place, host, port):
    address, _, number = place.rpartition(":")
    stream = socket.create_connection((address, int(number)), timeout=50)
    if way == "http":
        stream.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += read(stream, 1)
        assert head.split()[1] == b"200", head
    elif way == "socks5":
        stream.sendall(b"\5\1\0")
        assert read(stream, 2) == b"\5\0"
        name = host.encode()
        stream.sendall(b"\5\1\0\3" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
        reply = read(stream, 10)
        assert reply[:4] == b"\5\0\0\1", reply
    return stream


def talk_lines(stream, said):
    with stream:
        assert read(stream, len(GREETING)) == GREETING
        stream.sendall(said.encode() + b"\r\n")
        expected = b"250 " + said.encode() + b"\r\n"
        assert read(stream, len(expected)) == expected
        assert stream.recv(1) == b""


async def talk_websocket(stream, context, url):
    stream.setblocking(False)
    async with connect(url, sock=stream, ssl=context, proxy=None) as connection:
        for message in [f"hello from {url}", b"\0\xff" * 70_000]:
            await connection.send(message)
            assert await connection.recv() == message
        await (await connection.ping(b"there?"))
        await connection.close(4001, "done")
    assert (connection.close_code, connection.close_reason) == (4001, "done")


def talk(way, trusted, *rest):
    context = ssl.create_default_context(cafile=trusted)
    for place, url in zip(rest[::2], rest[1::2]):
        parts = urllib.parse.urlsplit(url)
        stream = tunnel(way, place, parts.hostname, parts.port)
        if parts.scheme == "lines+tls":
            stream = context.wrap_socket(stream, server_hostname=parts.hostname)
        if parts.scheme.startswith("lines"):
            talk_lines(stream, parts.path)
        else:
            trust = context if parts.scheme == "wss" else None
            asyncio.run(asyncio.wait_for(talk_websocket(stream, trust, url), 50))


if sys.argv[1] == "serve":
    asyncio.run(serve(*sys.argv[2:]))
else:
    talk(*sys.argv[2:])
