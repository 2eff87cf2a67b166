"""Name servers on the loopback interface, each with one zone, and a resolver that knows all of them."""

import contextlib
import socketserver
import threading
from collections.abc import Iterator, Mapping

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.zone
import pytest

from mailkeep.dns import client

HEAD = "@ 60 SOA ns hostmaster 1 3600 600 86400 60\n@ 60 NS ns\nns 60 A {address}\n"
MAX_ALIASES = 9  # to follow


@contextlib.contextmanager
def serve_zones(zones: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dns.resolver.Resolver]:
    """A resolver for these zones. Each zone's text has its records without SOA and NS.

    Every zone has a server at its own address (127.0.0.2 and up), which refuses names of other zones.
    """
    with contextlib.ExitStack() as stack:
        known_zones = []
        resolver = _NameServer("127.0.0.1", 0, known_zones)
        port = resolver.server_address[1]
        stack.enter_context(_run_server(resolver))
        for number, (origin, text) in enumerate(zones.items(), start=2):
            head = HEAD.format(address=f"127.0.0.{number}")
            zone = dns.zone.from_text(f"$TTL 60\n{head}{text}", origin=f"{origin}.", relativize=False)
            known_zones.append(zone)
            stack.enter_context(_run_server(_NameServer(f"127.0.0.{number}", port, [zone])))
        monkeypatch.setattr(client, "PORT", port)
        yield client.make_resolver(f"127.0.0.1@{port}")


class _NameServer(socketserver.ThreadingUDPServer):
    def __init__(self, address: str, port: int, zones: list[dns.zone.Zone]) -> None:
        self.zones = zones
        super().__init__((address, port), _RequestHandler)


class _RequestHandler(socketserver.DatagramRequestHandler):
    server: _NameServer

    def handle(self) -> None:
        reply = dns.message.make_response(dns.message.from_wire(self.rfile.read()))
        _fill_reply(reply, self.server.zones)
        self.wfile.write(reply.to_wire())


def _fill_reply(reply: dns.message.Message, zones: list[dns.zone.Zone]) -> None:
    """As in RFC 1034 §4.3.2: follow aliases as far as the zones go."""
    name, record_type = reply.question[0].name, reply.question[0].rdtype
    for _ in range(MAX_ALIASES):
        fitting = [zone for zone in zones if zone.origin and name.is_subdomain(zone.origin)]
        if not fitting:
            reply.set_rcode(dns.rcode.NOERROR if reply.answer else dns.rcode.REFUSED)
            return
        zone = max(fitting, key=lambda candidate: len(candidate.origin or ()))
        if rrset := zone.get_rrset(name, record_type):
            reply.answer.append(rrset)
            return
        alias = zone.get_rrset(name, dns.rdatatype.CNAME)
        if not alias:
            reply.authority.append(zone.find_rrset(zone.origin or "", dns.rdatatype.SOA))
            reply.set_rcode(dns.rcode.NOERROR if zone.get_node(name) else dns.rcode.NXDOMAIN)
            return
        reply.answer.append(alias)
        name = alias[0].target


@contextlib.contextmanager
def _run_server(server: _NameServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.005,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
