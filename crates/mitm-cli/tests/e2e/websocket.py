"""Both ends of WebSocket connections, over the `websockets` package, with the proxy between them.

usage: websocket.py PROXY CERTIFICATE TRUSTED

Talks in the clear and over TLS, with compression and without. Ends with status 0 if every message, ping and close came
through as it was sent.
"""

import asyncio
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

LARGE = bytes(range(256)) * 8192
# (code, reason) of each connection, as the server saw it
closed = []


async def handle(connection):
    try:
        async for message in connection:
            if message == "close":
                await connection.close(4002, "as you wish")
            elif message == "fragments":
                await connection.send(["frag", "men", "ts"])
            else:
                await connection.send(message)
    except ConnectionClosed:
        pass
    closed.append((connection.close_code, connection.close_reason))


async def talk(uri, proxy, context, compression):
    options = {"proxy": proxy, "ssl": context, "compression": compression, "max_size": None}
    async with connect(uri, **options) as connection:
        offered = connection.response.headers.get("Sec-WebSocket-Extensions", "")
        assert ("permessage-deflate" in offered) == (compression is not None), offered
        for message in ["grüße", "", b"\0\xff", LARGE, "again and again " * 500]:
            for _ in range(2):
                await connection.send(message)
                assert await connection.recv() == message, "the echo differs"
        await connection.send(["in ", "three ", "parts"])
        assert await connection.recv() == "in three parts"
        await connection.send("fragments")
        parts = [part async for part in connection.recv_streaming()]
        # The library ends a message in parts with an empty one.
        assert parts == ["frag", "men", "ts", ""], parts
        await (await connection.ping(b"are you there"))
        await connection.close(4001, "done")
    assert (connection.close_code, connection.close_reason) == (4001, "done")
    async with connect(uri, **options) as connection:
        await connection.send("close")
        await connection.wait_closed()
        assert (connection.close_code, connection.close_reason) == (4002, "as you wish")


async def main(proxy, certificate, trusted):
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    client_context = ssl.create_default_context(cafile=trusted)
    for context, trust, scheme in [(None, None, "ws"), (server_context, client_context, "wss")]:
        async with serve(handle, "127.0.0.1", 0, ssl=context, max_size=None) as server:
            port = server.sockets[0].getsockname()[1]
            for compression in ["deflate", None]:
                uri = f"{scheme}://127.0.0.1:{port}/{scheme}-{compression}"
                await talk(uri, proxy, trust, compression)
    assert closed == [(4001, "done"), (4002, "as you wish")] * 4, closed


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 50))
