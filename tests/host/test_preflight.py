"""The verdict on a host, from what was seen of it."""

from dataclasses import replace

import pytest

from mailkeep.host.preflight import (
    Disk,
    Listener,
    Login,
    LoginFact,
    Seen,
    Target,
    Verdict,
    closed,
    judge,
    no_root,
    parse,
    replaced,
    way_out,
)
from mailkeep.inventory.passwords import hash_password
from mailkeep.parts.model import File, Part
from mailkeep.settings.models import Settings

DECLARED = {
    "host": {"name": "mail.example.org", "addresses": ["192.0.2.1"]},
    "domains": ["example.org"],
    "admin": {"addresses": ["ann@example.org"]},
    "accounts": [{"address": "ann@example.org", "password": hash_password("correct horse battery staple")}],
}
FRESH = Seen(
    system="Debian GNU/Linux 13 (trixie)",
    supported=True,
    name="mail.example.org",
    memory=960,
    disks=(Disk("/", 4000, 300_000),),
    listeners=(Listener("tcp", "*", 22, ("sshd",)),),
)
BUILT = replace(FRESH, begun=True, built=True)
ROOT = Login(0, "root", port=22)


def declared(**more: object) -> Settings:
    return Settings.model_validate(DECLARED | more)


def listening(port: int, *programs: str, address: str = "*", protocol: str = "tcp") -> dict[str, object]:
    return {"listeners": (Listener(protocol, address, port, programs),)}


def test_a_fresh_debian_13_will_do() -> None:
    assert judge(declared(), ROOT, FRESH) == Verdict()


def test_a_server_that_was_built_will_do_again() -> None:
    ours = [(25, "master"), (465, "master"), (587, "master"), (143, "dovecot"), (993, "dovecot"), (53, "unbound")]
    listeners = tuple(Listener("tcp", "127.0.0.1", port, (program,)) for port, program in ours)
    assert judge(declared(), ROOT, replace(BUILT, listeners=listeners)) == Verdict()


def test_a_web_server_of_somebody_elses_is_not_taken_for_ours() -> None:
    serves = declared(tls={"mode": "files", "certificate": "chain.pem"}, web={"autoconfig": True})
    on_443, on_80 = (replace(BUILT, **listening(port, "nginx")) for port in (443, 80))
    assert "Port 443 is taken by nginx" in judge(serves, ROOT, on_443).problems[0]
    assert "would be stopped" in judge(serves, ROOT, on_80).problems[0]
    assert judge(serves, ROOT, replace(on_443, web=True)) == Verdict()
    assert judge(declared(), ROOT, on_443) == judge(declared(), ROOT, on_80) == Verdict()


def test_the_providers_resolver_is_not_left_to_a_file_that_names_ours() -> None:
    ours, theirs = replace(BUILT, resolver=True), BUILT
    assert "nameserver" in judge(declared(resolver="system"), ROOT, ours).problems[0]
    assert judge(declared(resolver="system"), ROOT, theirs) == judge(declared(), ROOT, ours) == Verdict()


@pytest.mark.parametrize(
    ("is_so", "found", "would_do"),
    [
        ({"system": "Debian GNU/Linux 12 (bookworm)", "supported": False}, "GNU/Linux 12 (bookworm)", "Debian 13"),
        ({"systemd": False}, "systemd does not run", "boots with systemd"),
        ({"overlay": False}, "cannot mount an overlay", "virtual machine"),
        ({"memory": 480}, "480 MiB of memory", "1 GB"),
        ({"disks": (Disk("/", 9000, 90_000), Disk("/var", 900, 90_000))}, "900 MiB are free on /var", "2048"),
        ({"disks": (Disk("/", 9000, 900),)}, "900 inodes are free on /", "20000"),
        ({"clock": 312.4}, "312 s ahead", "timedatectl set-ntp true"),
        ({"clock": -61.0}, "61 s behind", "timedatectl set-ntp true"),
        ({"name": "vps123"}, "'vps123'", "hostnamectl set-hostname mail.example.org"),
        ({"mtas": ("exim4-daemon-light",)}, "exim4-daemon-light", "apt-get purge exim4-daemon-light"),
        ({"foreign": ("/etc/postfix/main.cf",)}, "/etc/postfix/main.cf", "--adopt"),
        (listening(25, "exim4"), "Port 25 is taken by exim4 (tcp *:25)", "Stop and disable"),
        (listening(993, "docker-proxy", address="[::]"), "docker-proxy (tcp [::]:993)", "Stop and disable"),
        (listening(143), "a program (tcp *:143)", "Stop and disable"),
        (listening(53, "dnsmasq", address="127.0.0.1", protocol="udp"), "dnsmasq", "resolver: system"),
        ({"key": False}, "root has no SSH key", "ssh-copy-id"),
    ],
)
def test_what_will_not_do_is_refused_with_what_was_found_and_what_would_do(
    is_so: dict[str, object], found: str, would_do: str
) -> None:
    (problem,) = judge(declared(), ROOT, replace(FRESH, **is_so)).problems
    assert found in problem
    assert would_do in problem


@pytest.mark.parametrize(
    "is_so",
    [
        {"clock": 59.0},
        {"disks": (Disk("/", 9000, None),)},
        {"name": "other.example.org"},
        {"memory": None, "disks": ()},
        listening(8080, "nginx"),
        listening(53, "systemd-resolve", address="127.0.0.53%lo", protocol="udp"),
        listening(53, "aardvark-dns", address="10.88.0.1", protocol="udp"),
        listening(25, "something", protocol="udp"),
    ],
)
def test_what_does_no_harm_is_let_pass(is_so: dict[str, object]) -> None:
    assert judge(declared(), ROOT, replace(FRESH, **is_so)).problems == ()


def test_all_problems_are_told_in_one_message() -> None:
    bad = replace(FRESH, supported=False, name="vps123", clock=600.0, foreign=("/etc/postfix/main.cf",), key=False)
    verdict = judge(declared(ssh={"port": 2222}), ROOT, bad)
    assert len(verdict.problems) == 6
    message = verdict.refusal("vps")
    assert message.startswith("vps: ")
    assert all(f"- {problem}" in message for problem in verdict.problems)


def test_adopting_allows_another_mail_server_and_nothing_else() -> None:
    exim = replace(
        FRESH,
        mtas=("exim4-daemon-light",),
        foreign=("/etc/postfix/main.cf",),
        listeners=(Listener("tcp", "127.0.0.1", 25, ("exim4",)), Listener("tcp", "*", 993, ("stunnel4",))),
    )
    (problem,) = judge(declared(), ROOT, exim, adopt=True).problems
    assert "stunnel4" in problem


def test_the_configuration_that_an_interrupted_first_run_left_is_not_foreign() -> None:
    assert judge(declared(), ROOT, replace(FRESH, begun=True, foreign=("/etc/postfix/main.cf",))) == Verdict()


def test_a_full_disk_keeps_nobody_from_repairing_a_server() -> None:
    verdict = judge(declared(), ROOT, replace(BUILT, disks=(Disk("/", 300, 900),), memory=480))
    assert verdict == Verdict()


def test_a_disk_without_room_for_a_rerun_is_told() -> None:
    (problem,) = judge(declared(), ROOT, replace(BUILT, disks=(Disk("/", 100, 90_000),))).problems
    assert "100 MiB are free on /" in problem


def test_who_comes_in_on_another_port_than_the_firewall_opens_would_be_locked_out() -> None:
    (problem,) = judge(declared(), Login(0, "root", port=2222), FRESH).problems
    assert "2222" in problem
    assert "ssh.port: 22:" in problem
    assert judge(declared(ssh={"port": 2222}), Login(0, "root", port=2222), FRESH) == Verdict()


@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db8:5::7"])
def test_who_comes_in_from_a_network_that_the_firewall_blocks_would_be_locked_out(client: str) -> None:
    blocking = declared(firewall={"block": ["198.51.100.0/24", "2001:db8:5::/48"]})
    (problem,) = judge(blocking, replace(ROOT, client=client), FRESH).problems
    assert client in problem
    assert "firewall.block" in problem
    assert judge(blocking, replace(ROOT, client="203.0.113.7"), FRESH) == Verdict()


def test_where_passwords_are_allowed_only_root_needs_a_key() -> None:
    keyless = replace(FRESH, key=False)
    with_passwords = declared(ssh={"passwords": True})
    assert judge(with_passwords, Login(1000, "ann", port=22), keyless) == Verdict()
    assert judge(with_passwords, ROOT, keyless).problems != ()
    (problem,) = judge(declared(), Login(1000, "ann", port=22), keyless).problems
    assert "ann has no SSH key" in problem
    assert "ssh.passwords: true" in problem


def test_a_resolver_of_its_own_is_no_trouble_where_mailkeep_brings_none() -> None:
    dnsmasq = replace(FRESH, **listening(53, "dnsmasq", address="127.0.0.1"))
    assert judge(declared(resolver="system"), ROOT, dnsmasq) == Verdict()


@pytest.mark.parametrize(
    ("is_so", "told"),
    [
        ({"name": "other.example.org"}, "hostnamectl set-hostname mail.example.org"),
        ({"listeners": None}, "iproute2"),
        ({"foreign": ("/etc/dovecot/dovecot.conf",)}, "/etc/dovecot/dovecot.conf will be replaced"),
    ],
)
def test_what_may_surprise_is_a_warning(is_so: dict[str, object], told: str) -> None:
    verdict = judge(declared(), ROOT, replace(FRESH, **is_so))
    assert verdict.problems == ()
    (warning,) = verdict.warnings
    assert told in warning


def test_only_the_time_that_the_command_did_not_take_counts_as_a_wrong_clock() -> None:
    assert parse(["time 1100"], asked=1000.0, answered=1200.0).clock == 0
    assert parse(["time 1300"], asked=1000.0, answered=1200.0).clock == 100
    assert parse(["time 900"], asked=1000.0, answered=1200.0).clock == -100


def test_a_system_that_answers_nothing_is_unsupported_and_no_traceback() -> None:
    seen = parse([], 0.0, 0.0)
    assert not seen.supported
    assert judge(declared(), ROOT, seen).problems != ()


def test_what_a_login_script_prints_does_no_harm() -> None:
    assert LoginFact().process(["Welcome!", "uid 1000", "user ann", "port 22"]) == Login(1000, "ann", "", 22)


def test_without_a_terminal_a_sudo_that_wants_a_password_is_refused() -> None:
    ann = LoginFact().process(["uid 1000", "user ann", "port 22", "sudo sudo: a password is required"])
    told = no_root(ann, can_ask=False)
    assert told is not None
    assert "sudo: a password is required" in told
    assert "ann ALL=(ALL) NOPASSWD: ALL" in told
    assert no_root(ann, can_ask=True) is None


def test_a_host_without_sudo_is_refused_even_at_a_terminal() -> None:
    told = no_root(Login(1000, "ann", "sh: 1: sudo: not found"), can_ask=True)
    assert told is not None
    assert "sudo: not found" in told
    assert "Log in as root" in told


def test_root_needs_no_sudo() -> None:
    assert no_root(ROOT, can_ask=False) is None


def test_what_a_deploy_replaces_is_saved_where_another_mail_server_was_set_up_and_only_there() -> None:
    parts = (Part("one", files=(File("/etc/one.conf", b""),)),)
    assert replaced(FRESH, parts) == []
    for other in ({"foreign": ("/etc/postfix/main.cf",)}, {"mtas": ("exim4-daemon-light",)}):
        assert {"/etc/one.conf", "/etc/postfix", "/etc/exim4"} < set(replaced(replace(FRESH, **other), parts))


def test_the_relay_host_is_the_way_out_where_there_is_one() -> None:
    relayed = declared(relay={"host": "smtp.example.net", "port": 465})
    assert way_out(relayed) == Target("smtp.example.net", "smtp.example.net", 465, relay=True)


def test_nobody_elsewhere_to_write_to_is_nobody_to_try_the_port_with() -> None:
    assert way_out(declared()) is None


def test_a_closed_port_25_names_the_relay_setting() -> None:
    told = closed(Target("mx.example.net", "192.0.2.9", 25, relay=False))
    assert "port 25" in told
    assert "mx.example.net" in told
    assert "relay:" in told
