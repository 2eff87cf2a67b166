"""A TCP proxy on loopback that delays every byte, as a distant server's network would."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def delaying_proxy(port: int, round_trip: float) -> Iterator[int]:
    """The port of a proxy to 127.0.0.1:`port`; an answer takes `round_trip` seconds longer than without it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(_start_server(port, round_trip / 2), loop).result()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_stop_server(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _start_server(port: int, delay: float) -> asyncio.Server:
    async def handle_connection(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(asyncio.CancelledError):  # `_stop_server` cancels open connections
            await asyncio.gather(
                _copy_delayed(client_reader, server_writer, delay), _copy_delayed(server_reader, client_writer, delay)
            )

    return await asyncio.start_server(handle_connection, "127.0.0.1", 0)


async def _stop_server(server: asyncio.Server) -> None:
    server.close()
    connections = asyncio.all_tasks() - {asyncio.current_task()}
    for connection in connections:
        connection.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def _copy_delayed(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    """Every byte arrives `delay` seconds late; bytes sent together arrive together."""
    loop = asyncio.get_running_loop()
    last = loop.time()
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            last = loop.time() + delay
            loop.call_at(last, target.write, data)
    loop.call_at(last + delay, target.close)
