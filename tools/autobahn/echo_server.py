"""A WebSocket echo server over the `websockets` package. Prints its port, and runs until its input ends.

usage: echo_server.py [deflate]
"""

import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    try:
        async for message in connection:
            await connection.send(message)
    except ConnectionClosed:
        pass


async def main():
    compression = "deflate" if "deflate" in sys.argv[1:] else None
    server = await serve(
        echo, "127.0.0.1", 0, compression=compression, max_size=None, ping_interval=None
    )
    async with server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
