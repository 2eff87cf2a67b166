"""The verdict on a host follows from its facts alone."""

from dataclasses import replace

import pytest

from mailkeep.host.preflight_facts import Disk, HostFacts, Listener, Login, OutboundPeer, parse_facts
from mailkeep.host.preflight_rules import Verdict, closed_port_warning, judge_host, sudo_problem
from mailkeep.inventory.passwords import hash_password
from mailkeep.settings.models import Settings
from mailkeep_server.common.password_digest import digest_hash

DECLARED = {
    "host": {"name": "mail.example.org", "addresses": ["192.0.2.1"]},
    "domains": ["example.org"],
    "admin": {"addresses": ["ann@example.org"]},
    "accounts": [{"address": "ann@example.org", "password": hash_password("correct horse battery staple")}],
}
FRESH = HostFacts(
    system="Debian GNU/Linux 13 (trixie)",
    is_supported=True,
    hostname="mail.example.org",
    memory=960,
    disks=(Disk("/", 4000, 300_000),),
    listeners=(Listener("tcp", "*", 22, ("sshd",)),),
)
BUILT = replace(FRESH, passed_before=True, is_built=True)
ROOT = Login(0, "root", port=22)


def make_settings(**sections: object) -> Settings:
    return Settings.model_validate(DECLARED | sections)


def with_listener(port: int, *programs: str, address: str = "*", protocol: str = "tcp") -> dict[str, object]:
    return {"listeners": (Listener(protocol, address, port, programs),)}


def test_a_fresh_debian_13_passes() -> None:
    assert judge_host(make_settings(), ROOT, FRESH) == Verdict()


def test_a_server_that_was_built_passes_again() -> None:
    daemons = [
        (25, "master"),
        (465, "master"),
        (587, "master"),
        (143, "dovecot"),
        (993, "dovecot"),
        (4190, "dovecot"),
        (53, "unbound"),
    ]
    listeners = tuple(Listener("tcp", "127.0.0.1", port, (program,)) for port, program in daemons)
    assert judge_host(make_settings(), ROOT, replace(BUILT, listeners=listeners)) == Verdict()


def test_the_old_machine_of_a_move_does_not_become_a_second_server_by_mistake() -> None:
    left = parse_facts(["has left"], 0, 0)
    assert left.has_left
    moved_back = make_settings(host={**DECLARED["host"], "forwarded_from": ["192.0.2.7"]})  # type: ignore[dict-item]
    assert "handed its mail over" in judge_host(make_settings(), ROOT, replace(BUILT, has_left=True)).problems[0]
    assert judge_host(moved_back, ROOT, replace(BUILT, has_left=True)) == Verdict()


def test_another_web_server_is_not_taken_for_ours() -> None:
    serving = make_settings(tls={"mode": "files", "certificate": "chain.pem"}, web={"autoconfig": True})
    on_443, on_80 = (replace(BUILT, **with_listener(port, "nginx")) for port in (443, 80))
    assert "Port 443 is taken by nginx" in judge_host(serving, ROOT, on_443).problems[0]
    assert "a deploy would stop it" in judge_host(serving, ROOT, on_80).problems[0]
    assert judge_host(serving, ROOT, replace(on_443, has_our_web=True)) == Verdict()
    assert judge_host(make_settings(), ROOT, on_443) == judge_host(make_settings(), ROOT, on_80) == Verdict()


def test_the_providers_resolver_needs_a_resolv_conf_that_does_not_name_ours() -> None:
    with_ours, without_ours = replace(BUILT, has_our_resolver=True), BUILT
    assert "nameserver" in judge_host(make_settings(resolver="system"), ROOT, with_ours).problems[0]
    assert judge_host(make_settings(resolver="system"), ROOT, without_ours) == Verdict()
    assert judge_host(make_settings(), ROOT, with_ours) == Verdict()


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        ({"system": "Debian GNU/Linux 12 (bookworm)", "is_supported": False}, "GNU/Linux 12 (bookworm)", "Debian 13"),
        ({"has_systemd": False}, "systemd is not running", "boots with systemd"),
        ({"can_overlay": False}, "cannot mount an overlay", "virtual machine"),
        ({"memory": 480}, "480 MiB of memory", "1 GB"),
        ({"disks": (Disk("/", 9000, 90_000), Disk("/var", 900, 90_000))}, "900 MiB are free on /var", "2048"),
        ({"disks": (Disk("/", 9000, 900),)}, "900 inodes are free on /", "20000"),
        ({"clock_offset": 312.4}, "312 s ahead", "timedatectl set-ntp true"),
        ({"clock_offset": -61.0}, "61 s behind", "timedatectl set-ntp true"),
        ({"hostname": "vps123"}, "'vps123'", "hostnamectl set-hostname mail.example.org"),
        ({"other_mtas": ("exim4-daemon-light",)}, "exim4-daemon-light", "apt-get purge exim4-daemon-light"),
        ({"foreign_files": ("/etc/postfix/main.cf",)}, "/etc/postfix/main.cf", "--adopt"),
        (with_listener(25, "exim4"), "Port 25 is taken by exim4 (tcp *:25)", "Stop and disable"),
        (with_listener(993, "docker-proxy", address="[::]"), "docker-proxy (tcp [::]:993)", "Stop and disable"),
        (with_listener(143), "a program (tcp *:143)", "Stop and disable"),
        (with_listener(53, "dnsmasq", address="127.0.0.1", protocol="udp"), "dnsmasq", "resolver: system"),
        ({"has_key": False}, "root has no SSH key", "ssh-copy-id"),
    ],
)
def test_a_host_is_refused_with_the_problem_and_the_remedy(
    change: dict[str, object], problem: str, remedy: str
) -> None:
    (text,) = judge_host(make_settings(), ROOT, replace(FRESH, **change)).problems
    assert problem in text
    assert remedy in text


@pytest.mark.parametrize(
    "change",
    [
        {"clock_offset": 59.0},
        {"disks": (Disk("/", 9000, None),)},
        {"hostname": "other.example.org"},
        {"memory": None, "disks": ()},
        with_listener(8080, "nginx"),
        with_listener(53, "systemd-resolve", address="127.0.0.53%lo", protocol="udp"),
        with_listener(53, "aardvark-dns", address="10.88.0.1", protocol="udp"),
        with_listener(25, "something", protocol="udp"),
    ],
)
def test_a_harmless_difference_passes(change: dict[str, object]) -> None:
    assert judge_host(make_settings(), ROOT, replace(FRESH, **change)).problems == ()


@pytest.mark.parametrize(
    ("listener", "text"),
    [
        (Listener("tcp", "*", 80, ("nginx",)), "nginx (tcp *:80). The reason: the firewall lets in SSH"),
        (Listener("tcp", "[::]", 8080, ("java",)), "java (tcp [::]:8080)"),
        (
            Listener("tcp", "*", 995, ("dovecot",)),
            "dovecot (tcp *:995). The reason: Mailkeep's Dovecot serves IMAP and ManageSieve only",
        ),
        (
            Listener("udp", "*", 51820, ()),
            "the kernel, such as WireGuard (udp *:51820). The reason: the firewall lets in no UDP",
        ),
    ],
)
def test_a_program_that_will_be_cut_off_is_named_before_the_first_deploy(listener: Listener, text: str) -> None:
    verdict = judge_host(make_settings(), ROOT, replace(FRESH, listeners=(listener,)))
    assert verdict.problems == ()
    (warning,) = verdict.warnings
    assert warning.startswith("After the deploy, nobody reaches from outside: ")
    assert text in warning
    built = replace(FRESH, listeners=(listener,), is_built=True)
    assert judge_host(make_settings(), ROOT, built).warnings == (), "it has been cut off long ago"


def test_a_port_that_docker_forwards_stays_open_and_that_is_said() -> None:
    listeners = (Listener("tcp", "0.0.0.0", 8080, ("docker-proxy",)), Listener("tcp", "*", 80, ("nginx",)))  # noqa: S104
    forwarded, cut_off = judge_host(make_settings(), ROOT, replace(FRESH, listeners=listeners)).warnings
    assert forwarded.startswith("After the deploy, strangers still reach: docker-proxy (tcp 0.0.0.0:8080). ")
    assert "docker-proxy" not in cut_off


@pytest.mark.parametrize(
    "listener",
    [
        Listener("tcp", "127.0.0.1", 3306, ("mariadbd",)),
        Listener("tcp", "[::1]", 631, ("cupsd",)),
        Listener("udp", "127.0.0.53%lo", 53, ("systemd-resolve",)),
        Listener("udp", "*", 68, ("dhcpcd",)),
        Listener("udp", "*", 5355, ("systemd-resolve",)),
        Listener("tcp", "[::]", 5355, ("systemd-resolve",)),
        Listener("udp", "192.0.2.1%eth0", 68, ("systemd-network",)),
        Listener("tcp", "*", 8443, ("java",)),
        Listener("tcp", "*", 25, ("master",)),
    ],
)
def test_a_program_that_is_opened_or_not_reached_anyway_is_not_named(listener: Listener) -> None:
    settings = make_settings(firewall={"open": [8443]})
    assert judge_host(settings, ROOT, replace(FRESH, listeners=(listener,))).warnings == ()


def test_a_time_server_that_apt_removes_is_named() -> None:
    facts = parse_facts(["timekeeper chrony", "mta exim4-daemon-light"], 0, 1)
    assert (facts.other_timekeepers, facts.other_mtas) == (("chrony",), ("exim4-daemon-light",))
    [warning] = judge_host(make_settings(), ROOT, replace(FRESH, other_timekeepers=("chrony",))).warnings
    assert "APT removes chrony" in warning


def test_a_resolver_that_the_deploy_stops_is_named_where_it_stays() -> None:
    listener = Listener("udp", "*", 5355, ("systemd-resolve",))
    [warning] = judge_host(make_settings(resolver="system"), ROOT, replace(FRESH, listeners=(listener,))).warnings
    assert "systemd-resolve (udp *:5355)" in warning


def test_a_declared_address_of_ipv6_needs_a_kernel_with_ipv6() -> None:
    without = replace(FRESH, has_ipv6=False)
    both = make_settings(host={"name": "mail.example.org", "addresses": ["192.0.2.1", "2001:db8::1"]})
    [problem] = judge_host(both, ROOT, without).problems
    assert "no IPv6, but mail.yml declares 2001:db8::1" in problem
    assert judge_host(both, ROOT, FRESH) == judge_host(make_settings(), ROOT, without) == Verdict()


def test_a_password_that_was_replaced_on_the_server_does_not_come_back() -> None:
    settings = make_settings()
    digest = digest_hash(settings.accounts[0].password)
    facts = parse_facts([f"replaced {digest} 2026-11-29T01:00:00Z ann@example.org", "os debian 13"], 0, 0)
    assert facts.replaced_passwords == (f"{digest} 2026-11-29T01:00:00Z ann@example.org",)
    built = replace(BUILT, replaced_passwords=facts.replaced_passwords)
    (problem,) = judge_host(settings, ROOT, built).problems
    assert "ann@example.org got a new password on this server by `mailkeepctl passwd`, at 2026-11-29T01:00" in problem
    assert "`mailkeep account passwd NAME ann@example.org --from-host`" in problem
    bert = {"address": "bert@example.org", "password": hash_password("battery staple correct horse")}
    both = make_settings(accounts=[settings.accounts[0].model_dump(), bert])
    others = replace(BUILT, replaced_passwords=(f"{digest} 2026-11-29T01:00:00Z bert@example.org",))
    assert judge_host(both, ROOT, others) == Verdict(), "another account had the same hash"
    fresh = {"address": "ann@example.org", "password": hash_password("correct horse battery staple")}
    assert judge_host(make_settings(accounts=[fresh]), ROOT, built) == Verdict()


def test_a_password_that_was_replaced_does_not_come_back_after_a_rename() -> None:
    settings = make_settings()
    digest = digest_hash(settings.accounts[0].password)
    built = replace(BUILT, replaced_passwords=(f"{digest} 2026-11-29T01:00:00Z anna@example.org",))
    (problem,) = judge_host(settings, ROOT, built).problems
    assert "ann@example.org has the password that anna@example.org had until `mailkeepctl passwd`" in problem
    assert "`mailkeep account passwd NAME ann@example.org` to set a new one" in problem


def test_all_problems_are_in_one_message() -> None:
    bad = replace(
        FRESH,
        is_supported=False,
        hostname="vps123",
        clock_offset=600.0,
        foreign_files=("/etc/postfix/main.cf",),
        has_key=False,
    )
    verdict = judge_host(make_settings(ssh={"port": 2222}), ROOT, bad)
    assert len(verdict.problems) == 6
    message = verdict.refusal("vps")
    assert message.startswith("vps: ")
    assert all(f"- {problem}" in message for problem in verdict.problems)


def test_adopting_allows_another_mail_server_and_nothing_else() -> None:
    exim = replace(
        FRESH,
        other_mtas=("exim4-daemon-light",),
        foreign_files=("/etc/postfix/main.cf",),
        listeners=(Listener("tcp", "127.0.0.1", 25, ("exim4",)), Listener("tcp", "*", 993, ("stunnel4",))),
    )
    (problem,) = judge_host(make_settings(), ROOT, exim, adopt=True).problems
    assert "stunnel4" in problem


def test_the_configuration_that_an_interrupted_first_run_left_is_not_foreign() -> None:
    interrupted = replace(FRESH, passed_before=True, foreign_files=("/etc/postfix/main.cf",))
    assert judge_host(make_settings(), ROOT, interrupted) == Verdict()


def test_a_nearly_full_disk_does_not_keep_a_deploy_from_repairing_a_server() -> None:
    verdict = judge_host(make_settings(), ROOT, replace(BUILT, disks=(Disk("/", 300, 900),), memory=480))
    assert verdict == Verdict()


def test_a_disk_without_room_for_a_rerun_is_refused() -> None:
    (problem,) = judge_host(make_settings(), ROOT, replace(BUILT, disks=(Disk("/", 100, 90_000),))).problems
    assert "100 MiB are free on /" in problem


def test_a_login_on_another_port_than_the_firewall_opens_is_refused() -> None:
    (problem,) = judge_host(make_settings(), Login(0, "root", port=2222), FRESH).problems
    assert "2222" in problem
    assert "ssh.port: 22." in problem
    fresh = replace(FRESH, listeners=(Listener("tcp", "*", 2222, ("sshd",)),))
    assert judge_host(make_settings(ssh={"port": 2222}), Login(0, "root", port=2222), fresh) == Verdict()


@pytest.mark.parametrize("client", ["198.51.100.7", "2001:db8:5::7"])
def test_a_login_from_a_network_that_the_firewall_blocks_is_refused(client: str) -> None:
    blocking = make_settings(firewall={"block": ["198.51.100.0/24", "2001:db8:5::/48"]})
    (problem,) = judge_host(blocking, replace(ROOT, client=client), FRESH).problems
    assert client in problem
    assert "firewall.block" in problem
    assert judge_host(blocking, replace(ROOT, client="203.0.113.7"), FRESH) == Verdict()


def test_where_passwords_are_allowed_only_root_needs_a_key() -> None:
    keyless = replace(FRESH, has_key=False)
    with_passwords = make_settings(ssh={"passwords": True})
    assert judge_host(with_passwords, Login(1000, "ann", port=22), keyless) == Verdict()
    assert judge_host(with_passwords, ROOT, keyless).problems != ()
    (problem,) = judge_host(make_settings(), Login(1000, "ann", port=22), keyless).problems
    assert "ann has no SSH key" in problem
    assert "ssh.passwords: true" in problem


def test_another_resolver_is_allowed_where_mailkeep_brings_none() -> None:
    dnsmasq = replace(FRESH, **with_listener(53, "dnsmasq", address="127.0.0.1"))
    assert judge_host(make_settings(resolver="system"), ROOT, dnsmasq) == Verdict()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"hostname": "other.example.org"}, "hostnamectl set-hostname mail.example.org"),
        ({"listeners": None}, "iproute2"),
        ({"foreign_files": ("/etc/dovecot/dovecot.conf",)}, "/etc/dovecot/dovecot.conf will be replaced"),
    ],
)
def test_a_possible_surprise_is_a_warning(change: dict[str, object], text: str) -> None:
    verdict = judge_host(make_settings(), ROOT, replace(FRESH, **change))
    assert verdict.problems == ()
    (warning,) = verdict.warnings
    assert text in warning


def test_a_system_that_answers_nothing_is_refused_without_a_traceback() -> None:
    silent = parse_facts([], 0.0, 0.0)
    assert not silent.is_supported
    assert judge_host(make_settings(), ROOT, silent).problems != ()


def test_without_a_terminal_a_sudo_that_wants_a_password_is_refused() -> None:
    ann = Login(1000, "ann", "sudo: a password is required", 22)
    problem = sudo_problem(ann, can_ask=False)
    assert problem is not None
    assert "sudo: a password is required" in problem[0]
    assert "ann ALL=(ALL) NOPASSWD: ALL" in problem[1]
    assert sudo_problem(ann, can_ask=True) is None


def test_a_host_without_sudo_is_refused_even_at_a_terminal() -> None:
    problem = sudo_problem(Login(1000, "ann", "sh: 1: sudo: not found"), can_ask=True)
    assert problem is not None
    assert "sudo: not found" in problem[0]
    assert "Log in as root" in problem[1]


def test_root_needs_no_sudo() -> None:
    assert sudo_problem(ROOT, can_ask=False) is None


def test_a_closed_port_25_names_the_relay_setting() -> None:
    warning = closed_port_warning(OutboundPeer("mx.example.net", "192.0.2.9", 25, is_relay=False))
    assert "port 25" in warning
    assert "mx.example.net" in warning
    assert "relay:" in warning


def test_a_silent_relay_host_is_named_with_its_port() -> None:
    warning = closed_port_warning(OutboundPeer("smtp.example.net", "smtp.example.net", 465, is_relay=True))
    assert "smtp.example.net does not answer" in warning
    assert "port 465" in warning
    assert "`relay` in mail.yml" in warning
