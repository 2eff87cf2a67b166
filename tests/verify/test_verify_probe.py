"""The probe's own protocol clients against complete libraries, and what it may need on a server."""

import ast
import hashlib
import io
import ipaddress
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import dns.flags
import dns.message
import dns.rrset
import pytest

from mailkeep.host.remote import SudoSshBackend, UnreachableError
from mailkeep.host.ssh_connection import SshConnection
from mailkeep.parts import mail_server
from mailkeep.verify import probe, target
from mailkeep.verify.probe import bans, config, hardening, machine, running, watch
from mailkeep_server.common import dns_query, jail_canaries, milter_server, own_addresses
from mailkeep_server.lines.milter import LineSession
from mailkeep_server.watch import jail_proof

FILES = sorted(Path(probe.__file__).parent.glob("*.py"))
LONG = "v=DKIM1; k=rsa; p=" + "A" * 400


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dns.message.Message]]:
    """A DNS server on loopback that answers a single question. Yields its queries."""
    listener = socket.create_server(("127.0.0.1", 0))
    queries: list[dns.message.Message] = []

    def answer_query() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            query = dns.message.from_wire(stream.read(*struct.unpack("!H", stream.read(2))))
            queries.append(query)
            reply = dns.message.make_response(query)
            reply.flags |= dns.flags.AD | dns.flags.RA
            name = query.question[0].name
            reply.answer = [
                dns.rrset.from_text(name, 60, "IN", "CNAME", "key.example.net."),
                dns.rrset.from_text("key.example.net.", 60, "IN", "TXT", f'"{LONG[:255]}" "{LONG[255:]}"'),
            ]
            wire = reply.to_wire()
            connection.sendall(struct.pack("!H", len(wire)) + wire)

    def connect_to_listener(_: object, timeout: float) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(timeout)
        connection.connect(listener.getsockname())
        return connection

    thread = threading.Thread(target=answer_query)
    thread.start()
    monkeypatch.setattr(dns_query.socket, "create_connection", connect_to_listener)  # only root may listen on port 53
    yield queries
    thread.join()
    listener.close()


def test_a_long_record_behind_an_alias_is_read_completely(server: list[dns.message.Message]) -> None:
    answer = dns_query.query_server("127.0.0.1", "s1._domainkey.example.org", "TXT", 10)

    assert [dns_query.join_strings(data) for data in answer.data] == [LONG]
    assert (answer.code, answer.authentic) == (0, True)
    [query] = server
    assert query.question[0].to_text() == "s1._domainkey.example.org. IN TXT"
    assert query.flags & dns.flags.AD


def test_a_watch_without_any_report_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watch, "SENSOR_REPORTS", tmp_path / "looked.json")
    monkeypatch.setattr(watch, "JAIL_PROOF", tmp_path / "jails.json")
    monkeypatch.setattr(watch, "SENSOR_TIMEOUT", 0.0)
    (tmp_path / "jails.json").write_text('{"faults": {}}')
    with pytest.raises(FileNotFoundError):
        watch.examine_watch()


def test_a_trouble_is_reported_only_if_the_watch_still_sees_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reports, looks = tmp_path / "looked.json", []

    def write_report(_seconds: float) -> None:
        looks.append(1)
        troubles = ["dovecot.service is down"] if len(looks) < 3 else []
        reports.write_text(json.dumps({"unit": {"at": time.time() - 9, "error": "", "troubles": troubles}}))

    monkeypatch.setattr(watch, "SENSOR_REPORTS", reports)
    monkeypatch.setattr(watch, "JAIL_PROOF", tmp_path / "jails.json")
    (tmp_path / "jails.json").write_text('{"faults": {}}')
    write_report(0)
    monkeypatch.setattr(time, "sleep", write_report)
    assert watch.examine_watch()["sensors"]["unit"]["troubles"] == []


@pytest.mark.parametrize(("state", "faults"), [("activating", {}), ("inactive", {"sshd": ["no rule"]})])
def test_a_proof_of_the_jails_that_was_running_is_not_the_last_word(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, faults: dict[str, list[str]]
) -> None:
    """It may have begun before the repair: a rebuild starts Postfix only when the mail is back."""
    proofs = iter([{"sshd": ["no rule"]}, {}])

    def run(_program: str, verb: str, *_: str) -> str:
        if verb == "start":
            (tmp_path / "jails.json").write_text(json.dumps({"faults": next(proofs)}))
            os.utime(tmp_path / "jails.json", (time.time() + 1,) * 2)
        return f"{state}\n"

    monkeypatch.setattr(watch, "JAIL_PROOF", tmp_path / "jails.json")
    monkeypatch.setattr(watch, "run_command", run)
    (tmp_path / "jails.json").write_text('{"faults": {"postfix": ["Connection refused"]}}')
    assert watch._read_proof()["faults"] == faults


@pytest.mark.slow
def test_verify_and_the_servers_own_proof_of_the_jails_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven = threading.Event()

    def prove(*_: object, **__: object) -> dict[str, list[str]]:
        proven.set()
        return {}

    monkeypatch.setattr(jail_canaries, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(bans, "find_recent_canaries", set)
    monkeypatch.setattr(bans, "prove_jails", prove)
    server = SimpleNamespace(jails={}, address="192.0.2.1", never_ban=[])
    with jail_proof.lock_canaries():
        thread = threading.Thread(target=bans.find_jail_faults, args=(server,))
        thread.start()
        assert not proven.wait(0.2)
    thread.join()
    assert proven.is_set()


def test_an_address_is_local_only_if_it_can_be_bound() -> None:
    assert own_addresses.is_local_address("127.0.0.1")
    assert not own_addresses.is_local_address("192.0.2.1")


def test_packets_to_an_address_behind_nat_arrive_at_another_of_the_same_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a cloud's machine: IPv4 behind NAT, IPv6 of its own."""
    monkeypatch.setattr(own_addresses, "is_local_address", lambda address: ":" in address)
    monkeypatch.setattr(own_addresses, "find_source_address", lambda version: {4: "10.0.0.7"}.get(version))
    declared = ["198.51.100.1", "198.51.100.2", "2001:db8::1"]
    assert own_addresses.find_packet_destinations(declared) == ["10.0.0.7", "2001:db8::1"]
    monkeypatch.setattr(own_addresses, "find_source_address", lambda _: None)
    assert own_addresses.find_packet_destinations(declared) == declared


def test_a_file_put_back_after_the_start_is_touched_and_one_written_since_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_back, written = tmp_path / "put_back", tmp_path / "written"
    for file in (put_back, written):
        file.write_text("")
    start = time.time() - 60
    os.utime(put_back, (start - 3600, start - 3600))  # as cp -p, or a chmod after the start
    shown = f"Id=dovecot.service\nActiveState=active\nActiveEnterTimestamp=@{start:.0f}\n"
    monkeypatch.setattr(running, "run_command", lambda *command: shown if command[0] == "systemctl" else "")
    server = SimpleNamespace(files=[str(put_back), str(written)], reads={"dovecot.service": [[str(tmp_path)], []]})
    assert running.find_stale_services(server) == [  # type: ignore[arg-type]
        {"unit": "dovecot.service", "files": [str(written)], "touched": [str(put_back)]}
    ]


@pytest.mark.slow
def test_a_milter_on_demand_is_asked_and_runs_until_the_probe_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "START_TIMEOUT", 0.5)
    monkeypatch.setattr(milter_server, "MAX_IDLE", 0.2)
    paths = {name: str(tmp_path / name) for name in ("good", "mute", "missing")}
    with socket.socket(socket.AF_UNIX) as good, socket.socket(socket.AF_UNIX) as mute:
        for listener, name in ((good, "good"), (mute, "mute")):
            listener.bind(paths[name])
            listener.listen()
        server = milter_server.MilterServer(lambda: LineSession().answer_packet, "lines", 9)
        thread = threading.Thread(target=server.serve, args=(good,), daemon=True)
        thread.start()
        with running.keep_milters_running(cast(config.ProbeConfig, SimpleNamespace(on_demand=paths))) as faults:
            assert faults == {
                "good": "",
                "mute": f"does not answer at {paths['mute']}: timed out",
                "missing": f"does not answer at {paths['missing']}: No such file or directory",
            }
            thread.join(5 * milter_server.MAX_IDLE)
            assert thread.is_alive()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(("seconds", "unseen"), [(60.0, 0), (-1.0, 2)])
def test_mailboxes_for_which_the_time_does_not_suffice_are_counted(
    monkeypatch: pytest.MonkeyPatch, seconds: float, unseen: int
) -> None:
    monkeypatch.setattr(machine.pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=5000))
    monkeypatch.setattr(machine, "MAILBOX_SECONDS", seconds)
    monkeypatch.setattr(machine.mailboxes, "find_fault", lambda path, _: f"{path} is another's" * path.endswith("ben"))
    server = SimpleNamespace(mailboxes=["anna@example.org", "ben@example.org"])
    faults = [] if unseen else ["/var/vmail/example.org/ben is another's"]
    assert machine.find_unwritable_mailboxes(server) == {"faults": faults, "unseen": unseen}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "members", "primary", "is_loose"),
    [
        (0o2775, [], [], False),
        (0o2775, ["root"], ["root"], False),
        (0o2775, ["anna"], [], True),
        (0o2775, [], ["anna"], True),
        (0o2777, [], [], True),
    ],
)
def test_a_group_without_members_writes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, members: list[str], primary: list[str], is_loose: bool
) -> None:
    """An older Debian gave /usr/local to root:staff with mode 2775."""
    tmp_path.chmod(mode)
    gid = tmp_path.stat().st_gid
    monkeypatch.setattr(hardening.grp, "getgrgid", lambda _: SimpleNamespace(gr_mem=members))
    users = [SimpleNamespace(pw_name=name, pw_gid=gid) for name in primary]
    monkeypatch.setattr(hardening.pwd, "getpwall", lambda: users)
    owner = hardening._user_name(tmp_path.stat().st_uid)
    assert bool(hardening._describe_if_loose(str(tmp_path), (owner, "staff", 0o755))) == is_loose


def test_unused_client_addresses_are_on_loopback_and_differ() -> None:
    addresses = {config.unused_client_address() for _ in range(20)}
    assert len(addresses) > 15
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_probe_needs_nothing_but_the_standard_library_and_the_common_modules(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
        for module in modules:
            is_standard = module.partition(".")[0] in sys.stdlib_module_names
            assert is_standard or f"{module}.".startswith("mailkeep_server.common."), f"{file}: {module}"


@pytest.mark.slow
def test_the_probe_is_complete_and_short_enough_for_one_argument_of_ssh(tmp_path: Path) -> None:
    application = tmp_path / "probe.zip"
    application.write_bytes(target._build_zip_application())
    program = f"import sys; sys.path[:0] = [{str(application)!r}]; import probe.main, mailkeep_server.common as common"
    command = [sys.executable, "-I", "-c", f"{program}; print(common.__file__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.startswith(str(application)), done.stderr
    assert len(target.encode_probe()) < 96 * 1024, "and the configuration must fit too"


@pytest.mark.slow
def test_the_configuration_of_many_domains_fits_into_one_argument_of_ssh(
    inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And arrives whole."""
    few = target.Target.load("mail", {"mailkeep": str(inventory / "mail.yml")})
    domains = tuple(f"{hashlib.sha256(str(number).encode()).hexdigest()[:20]}.example" for number in range(500))
    settings = few.settings.model_copy(update={"domains": domains})
    keys = replace(few.secrets, dkim=tuple(replace(few.secrets.dkim[0], domain=domain) for domain in domains))
    many = replace(few, settings=settings, secrets=keys, parts=mail_server.build_parts(settings, keys))

    script = many.build_script()

    assert len(shlex.quote(shlex.quote(script))) < 120 * 1024

    echo = io.BytesIO()
    with zipfile.ZipFile(echo, "w") as archive:
        archive.writestr("__main__.py", "import sys; print(sys.stdin.read())")
    monkeypatch.setattr(target, "encode_probe", lambda: target._pack(echo.getvalue()))
    done = subprocess.run(["sh", "-c", many.build_script()], capture_output=True, check=True)
    assert json.loads(done.stdout)["domains"] == [*domains]


class LocalConnection(SshConnection):
    """Without a login, as if it were open."""

    def open(self) -> None:
        pass


def test_a_command_that_is_too_long_for_ssh_is_told_and_no_traceback() -> None:
    with pytest.raises(UnreachableError, match="KiB is too long"):
        SudoSshBackend("192.0.2.1", {}, LocalConnection("192.0.2.1", {})).run("true %s", "x" * 200_000)
