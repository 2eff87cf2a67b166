"""A TCP proxy on loopback that holds every byte back, as a long way would."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def proxy(port: int, round_trip: float) -> Iterator[int]:
    """The port of a proxy to 127.0.0.1:`port`; an answer takes `round_trip` seconds longer than without it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_serve(port, round_trip / 2), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _serve(port: int, delay: float) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # `_stop` ends what is still open
            await asyncio.gather(_carry(reader, there_writer, delay), _carry(there_reader, writer, delay))

    return await asyncio.start_server(connected, "127.0.0.1", 0)


async def _stop(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    """Everything arrives `delay` seconds late, and what was sent together arrives together."""
    loop = asyncio.get_running_loop()
    last = loop.time()
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            last = loop.time() + delay
            loop.call_at(last, target.write, data)
    loop.call_at(last + delay, target.close)
