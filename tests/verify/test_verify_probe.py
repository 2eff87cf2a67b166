"""The probe's own small protocols, against libraries that know them in full."""

import ast
import ipaddress
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.rrset
import pytest

from mailkeep.verify import probe
from mailkeep.verify.probe import bans, config, dns_client, linux_account, watch
from mailkeep_server.watch import jail_proof

FILES = sorted(Path(probe.__file__).parent.glob("*.py"))
LONG = "v=DKIM1; k=rsa; p=" + "A" * 400


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dns.message.Message]]:
    """A DNS server on loopback, for one question; it says what it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[dns.message.Message] = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            query = dns.message.from_wire(stream.read(*struct.unpack("!H", stream.read(2))))
            asked.append(query)
            reply = dns.message.make_response(query)
            reply.flags |= dns.flags.AD | dns.flags.RA
            name = query.question[0].name
            reply.answer = [
                dns.rrset.from_text(name, 60, "IN", "CNAME", "key.example.net."),
                dns.rrset.from_text("key.example.net.", 60, "IN", "TXT", f'"{LONG[:255]}" "{LONG[255:]}"'),
            ]
            wire = reply.to_wire()
            connection.sendall(struct.pack("!H", len(wire)) + wire)

    def connect(_: object, timeout: float) -> socket.socket:
        made = socket.socket()
        made.settimeout(timeout)
        made.connect(listener.getsockname())
        return made

    thread = threading.Thread(target=answer)
    thread.start()
    monkeypatch.setattr(dns_client.socket, "create_connection", connect)  # port 53 is not ours to listen on
    yield asked
    thread.join()
    listener.close()


def test_a_long_record_behind_an_alias_is_read_whole(server: list[dns.message.Message]) -> None:
    answer = dns_client.ask("127.0.0.1", "s1._domainkey.example.org", "TXT")

    assert [dns_client.text(data) for data in answer.data] == [LONG]
    assert (answer.code, answer.authentic) == (0, True)
    [query] = server
    assert query.question[0].to_text() == "s1._domainkey.example.org. IN TXT"
    assert query.flags & dns.flags.AD


def test_canaries_are_nobodys_and_not_of_the_servers_own_network() -> None:
    made = bans.canaries(["203.0.113.7", "2001:db8::7"], set(), 400)
    assert len({address for pair in made for address in pair}) == 800
    for pair in made:
        v4, v6 = map(ipaddress.ip_address, pair)
        assert any(v4 in ipaddress.ip_network(network) for network in bans.NETWORKS)
        assert v4 not in ipaddress.ip_network("203.0.113.0/24")
        assert v6 in ipaddress.ip_network("2001:db8::/32")


def test_no_canary_of_the_last_day_comes_again_while_there_are_others() -> None:
    lately = {v4 for v4, _ in bans.canaries(["203.0.113.7"], set(), 500)}
    assert {v4 for v4, _ in bans.canaries(["203.0.113.7"], lately, 8)}.isdisjoint(lately)
    assert len(bans.canaries(["203.0.113.7"], lately, 9)) == 9


def test_a_watch_that_has_not_looked_at_all_sees_nothing_and_is_not_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watch, "LOOKED", tmp_path / "looked.json")
    monkeypatch.setattr(watch, "PROOF", tmp_path / "jails.json")
    monkeypatch.setattr(watch, "LOOKING", 0.0)
    (tmp_path / "jails.json").write_text('{"faults": {}}')
    with pytest.raises(FileNotFoundError):
        watch.watched()


def test_what_was_amiss_is_told_only_if_it_still_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked, asked = tmp_path / "looked.json", []

    def look(_seconds: float) -> None:
        asked.append(1)
        troubles = ["dovecot.service is down"] if len(asked) < 3 else []
        looked.write_text(json.dumps({"unit": {"at": time.time() - 9, "error": "", "troubles": troubles}}))

    monkeypatch.setattr(watch, "LOOKED", looked)
    monkeypatch.setattr(watch, "PROOF", tmp_path / "jails.json")
    (tmp_path / "jails.json").write_text('{"faults": {}}')
    look(0)
    monkeypatch.setattr(time, "sleep", look)
    assert watch.watched()["looked"]["unit"]["troubles"] == []


def test_verify_and_the_servers_own_proof_of_the_jails_take_turns() -> None:
    assert bans.LOCK == jail_proof.LOCK


def test_an_address_is_here_only_when_it_can_be_bound() -> None:
    assert config.is_local_address("127.0.0.1")
    assert not config.is_local_address("192.0.2.1")


def test_newcomers_come_from_loopback_and_differ() -> None:
    addresses = {config.unused_client_address() for _ in range(20)}
    assert len(addresses) > 15
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_probe_needs_nothing_but_the_standard_library(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert {module.partition(".")[0] for module in modules} <= sys.stdlib_module_names, f"{file}: {modules}"


@pytest.mark.parametrize("there", [True, False])
def test_nobody_else_can_open_a_lock_and_so_hold_it(tmp_path: Path, there: bool) -> None:
    lock = tmp_path / "lock"
    if there:
        lock.touch(0o644)
    with linux_account.lock_file(lock):
        assert lock.stat().st_mode & 0o777 == 0o600
