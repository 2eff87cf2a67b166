"""Tells Postfix whether SPF lets a client send as one of our domains: `spf-sources TERM …`, with the terms of dns.spf
that need the DNS.

spawn(8) starts it for a connection of smtpd's, which asks by the policy protocol (SMTPD_POLICY_README). Whoever answers
for a name elsewhere can add lookups, so they are bounded in number and time (RFC 7208 section 4.6.4).
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from mailkeep_server.common.dns_query import is_name, join_strings, query_server, read_nameservers
from mailkeep_server.guard.policy import DUNNO, format_answer

Client = IPv4Address | IPv6Address
Lookup = Callable[[str, str], list[bytes]]
"""By name and type, the data of its records; none where the name does not exist. Raises OSError and ValueError."""

ALLOWED = "OK"
UNKNOWN = "451 4.4.3 The SPF record of this domain could not be looked up. Try again later"
MAX_LOOKUPS = 10
MAX_ADDRESS_LOOKUPS = 10  # of the hosts of an MX
MAX_REQUEST_BYTES = 16_384
SECONDS = 10.0  # for all lookups of a request
LOOKUP_SECONDS = 3.0


class TooManyLookupsError(Exception):
    """A record that no receiver evaluates to its end."""


class Evaluation:
    """SPF for one client, as far as `dns.spf` needs it: macros, `exists` and `ptr` match nobody.

    Nor does a malformed term, of which RFC 7208 section 4.6 makes a permanent error. The other terms still match.
    """

    def __init__(self, client: Client, lookup: Lookup) -> None:
        self.client, self._lookup, self._lookups = client, lookup, 0.0

    def is_allowed(self, terms: list[str]) -> bool:
        """Whether one of the terms matches the client. Raises OSError, ValueError and TooManyLookupsError."""
        return any(self._matches(term) for term in terms)

    def _passes(self, domain: str) -> bool:
        """Whether the SPF record of the domain passes the client."""
        texts = [join_strings(data) for data in self._count_lookup(domain, "TXT")]
        records = [text.lower().split() for text in texts if text.lower().split()[:1] == ["v=spf1"]]
        if len(records) != 1:
            return False
        for term in records[0][1:]:
            mechanism = term.lstrip("+-~?")
            if "=" not in mechanism and self._matches(mechanism, domain):
                return term[0] not in "-~?"
        redirect = [term.removeprefix("redirect=") for term in records[0] if term.startswith("redirect=")]
        return bool(redirect) and self._passes(redirect[0])

    def _matches(self, mechanism: str, domain: str = "") -> bool:
        name, _, argument = mechanism.partition(":")
        kind, slash, lengths = name.partition("/")
        if kind == "all":
            return True
        if kind in ("ip4", "ip6"):
            return self._is_in(argument)
        if "%" in argument:
            return False
        if kind == "include":
            return self._passes(argument)
        if kind in ("a", "mx"):
            argument, _, more = argument.partition("/") if argument else (domain, slash, lengths)
            hosts = [argument] if kind == "a" else self._list_exchangers(argument)
            return any(self._is_in(address + self._format_length(more)) for address in self._list_addresses(hosts))
        return False

    def _is_in(self, network: str) -> bool:
        try:
            return self.client in ip_network(network, strict=False)
        except ValueError:
            return False

    def _format_length(self, lengths: str) -> str:
        """`24//64` is 24 bits of an IPv4 address and 64 of an IPv6 address (section 5.6)."""
        four, _, six = lengths.partition("//") if "//" in lengths else (lengths, "", "")
        length = four if self.client.version == 4 else six.lstrip("/")
        return f"/{length}" if length else ""

    def _list_exchangers(self, domain: str) -> list[str]:
        return [data[2:].decode("ascii", "replace") for data in self._count_lookup(domain, "MX")][:MAX_ADDRESS_LOOKUPS]

    def _list_addresses(self, hosts: list[str]) -> Iterator[str]:
        for host in hosts:
            yield from (str(ip_address(data)) for data in self._count_lookup(host, self._address_type, len(hosts)))

    @property
    def _address_type(self) -> str:
        return "A" if self.client.version == 4 else "AAAA"

    def _count_lookup(self, name: str, record_type: str, share: int = 1) -> list[bytes]:
        """The hosts of an MX count as one lookup together."""
        self._lookups += 1 / share
        if self._lookups > MAX_LOOKUPS + 0.5:
            raise TooManyLookupsError
        return self._lookup(name, record_type) if is_name(name) else []


def is_any_allowed(client: Client, terms: Iterable[str], lookup: Lookup) -> bool:
    """Whether one of the terms matches the client. Each may have MAX_LOOKUPS; one that has more matches nobody. Raises
    OSError and ValueError, and what `lookup` raises."""
    return any(_is_allowed(client, term, lookup) for term in terms)


def _is_allowed(client: Client, term: str, lookup: Lookup) -> bool:
    try:
        return Evaluation(client, lookup).is_allowed([term])
    except TooManyLookupsError:
        return False


def answer_request(request: bytes, terms: list[str], lookup: Lookup) -> str:
    """The action for Postfix."""
    attributes = dict(line.partition("=")[::2] for line in request.decode(errors="replace").splitlines())
    try:
        client = ip_address(attributes.get("client_address", ""))
        return ALLOWED if is_any_allowed(client, terms, lookup) else DUNNO
    except (OSError, ValueError) as error:
        print(f"spf-sources: {error}", file=sys.stderr)
        return UNKNOWN


def make_lookup() -> Lookup:
    """Asks the resolvers of this machine, all within SECONDS."""
    deadline = time.monotonic() + SECONDS

    def lookup(name: str, record_type: str) -> list[bytes]:
        error: Exception = TimeoutError(f"{name}: no answer within {SECONDS:.0f} seconds")
        for server in read_nameservers():
            if (left := deadline - time.monotonic()) <= 0:
                break
            try:
                reply = query_server(server, name, record_type, min(left, LOOKUP_SECONDS))
            except (OSError, ValueError) as failure:
                error = failure
                continue
            if reply.code in (0, 3):
                return reply.data
            error = OSError(f"{name}: the resolver {server} answers with code {reply.code}")
        raise error

    return lookup


def main(terms: list[str]) -> int:
    buffer = b""
    while data := os.read(sys.stdin.fileno(), 4096):
        *requests, buffer = (buffer + data).split(b"\n\n")
        for request in requests:
            sys.stdout.buffer.write(format_answer(answer_request(request, terms, make_lookup())))
            sys.stdout.buffer.flush()
        if len(buffer) > MAX_REQUEST_BYTES:
            return 1
    return 0
