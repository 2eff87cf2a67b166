"""A resolver whose answers come late, as over a long distance."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import dns.asyncquery
import dns.message


@contextlib.contextmanager
def slow_resolver(resolver: str, seconds: float) -> Iterator[tuple[str, list[bytes]]]:
    """Yields a resolver (ADDRESS@PORT) that answers as `resolver` does, but later, and the list of its questions."""
    relay = _Relay(resolver, seconds)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    opened = asyncio.run_coroutine_threadsafe(
        loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0)), loop
    )
    transport, _ = opened.result()
    try:
        yield f"127.0.0.1@{transport.get_extra_info('sockname')[1]}", relay.asked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class _Relay(asyncio.DatagramProtocol):
    def __init__(self, resolver: str, seconds: float) -> None:
        self.address, _, self.port = resolver.partition("@")
        self.seconds = seconds
        self.asked: list[bytes] = []
        self.answering: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: object) -> None:
        self.asked.append(data)
        self.answering.add(asyncio.get_running_loop().create_task(self._send_answer(data, address)))

    async def _send_answer(self, question: bytes, client: object) -> None:
        await asyncio.sleep(self.seconds)
        reply = await dns.asyncquery.udp(dns.message.from_wire(question), self.address, port=int(self.port), timeout=9)
        self.transport.sendto(reply.to_wire(), client)
