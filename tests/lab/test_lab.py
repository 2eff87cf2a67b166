"""The lab keeps what it promises to the tests that stand on it."""

from __future__ import annotations

import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable
from email.message import EmailMessage

import pytest

from mailkeep.lab import Attacker, Internet, Lab, LabError, Server, poll
from mailkeep.lab.internet import RELAY_PASSWORD, RELAY_USER
from mailkeep.lab.podman import LABEL, podman

Boot = Callable[..., Server]


@pytest.fixture(scope="module")
def server(lab: Lab) -> Server:
    return lab.boot_server("plain", hostname="plain.example.test")


def test_a_server_is_a_debian_13_that_has_booted_without_a_failed_unit(server: Server) -> None:
    assert server.run(". /etc/os-release; echo $ID $VERSION_ID").stdout.split() == ["debian", "13"]
    assert server.run("systemctl is-system-running").stdout.strip() == "running"
    assert server.run("hostname --fqdn").stdout.strip() == "plain.example.test"


def test_a_server_answers_ssh_on_its_own_address_and_ipv6(server: Server) -> None:
    for address in (server.ip, server.ip6):
        with socket.create_connection((str(address), 22), timeout=5) as connection:
            assert connection.recv(8).startswith(b"SSH-2.0-")


def test_a_failing_command_raises_with_what_it_said(server: Server) -> None:
    with pytest.raises(LabError, match="exit 3: out of cheese"):
        server.run("echo out of cheese >&2; exit 3")
    assert server.run("exit 3", check=False).returncode == 3


@pytest.mark.parametrize("path", ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"])
def test_network_files_can_be_replaced_by_rename(server: Server, path: str) -> None:
    server.run(f"cp -p {path} {path}.new && mv {path}.new {path}")


def test_a_server_enforces_systemd_sandboxes(server: Server) -> None:
    sandboxed = server.run("systemd-run --quiet --pipe -p ProtectSystem=strict touch /usr/x", check=False)
    assert "Read-only file system" in sandboxed.stderr


def test_a_server_installs_packages(server: Server) -> None:
    server.run("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install tree")
    assert server.run("tree --version").stdout


def test_a_reboot_keeps_the_disk_and_empties_run(base_server: Boot) -> None:
    server = base_server("rebooted")
    server.run("touch /root/kept /run/lost")
    before = server.run("cat /proc/1/stat").stdout.split()[21]
    server.restart()
    assert server.run("cat /proc/1/stat").stdout.split()[21] != before
    assert server.run("ls /root/kept; ls /run/lost", check=False).stdout.split() == ["/root/kept"]


def test_a_reset_brings_back_the_disk_as_it_was_baked(lab: Lab, base_server: Boot) -> None:
    server = base_server("baked", hostname="baked.example.test")
    server.run("echo baked > /root/state")
    image = server.bake("test")
    server.run("echo spoiled > /root/state")
    again = lab.reset_server(server, image)
    assert again.run("cat /root/state; hostname --fqdn").stdout.split() == ["baked", "baked.example.test"]
    assert again == server


def test_two_labs_share_nothing(lab: Lab, server: Server) -> None:
    other = Lab(f"{lab.prefix}-other")
    try:
        neighbour = other.boot_server("plain")
        assert neighbour.ip not in lab.network
        assert not other.network.overlaps(lab.network)
        assert [machine.name for machine in other.list_machines()] == ["plain"]
    finally:
        other.destroy()
    assert server.run("echo here").stdout == "here\n"


def test_destroy_leaves_nothing(lab: Lab) -> None:
    doomed = Lab(f"{lab.prefix}-doomed")
    try:
        doomed.boot_server("plain").bake("test")
    finally:
        doomed.destroy()
    label = f"label={LABEL}={doomed.prefix}"
    assert not podman("ps", "--all", "--quiet", "--filter", label)
    assert not podman("network", "ls", "--quiet", "--filter", label)
    assert not podman("images", "--quiet", "--filter", label)
    assert not doomed.state.exists()


def test_what_a_killed_run_left_is_found_and_used_or_removed(lab: Lab) -> None:
    prefix = f"{lab.prefix}-killed"
    boot = f"Lab({prefix!r}).boot_server('left', hostname='left.test')"
    killed = subprocess.run(
        [sys.executable, "-c", f"import os; from mailkeep.lab import Lab; {boot}; os._exit(9)"], check=False
    )
    assert killed.returncode == 9
    again = Lab(prefix)
    try:
        [left] = again.list_machines()
        left.run("touch /root/mine")
        found = again.boot_server("left", hostname="left.test", fresh=False)
        assert found == left
        assert found.run("ls /root").stdout == "mine\n"
    finally:
        again.destroy()
    assert not again.list_machines()


# --- the outside world


@pytest.fixture(scope="module")
def resolver(lab: Lab, internet: Internet) -> Server:
    """A server with Debian's unbound, which believes the lab's root and resolves through it."""
    server = lab.boot_server("resolver")
    internet.resolve_for(server)
    server.run(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive "
        "apt-get -qq install --no-install-recommends unbound dns-root-data bind9-dnsutils"
    )
    server.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions edns0\n")
    return server


def lookup(resolver: Server, *query: str) -> tuple[str, set[str], str]:
    """The status, flags and answer section's last words of a query by dig."""
    said = resolver.run(f"dig +noall +comments +answer {' '.join(query)}").stdout.splitlines()
    status = next(line for line in said if "status:" in line).split("status: ")[1].split(",")[0]
    flags = next(line for line in said if line.startswith(";; flags:")).split(";")[2].split()[1:]
    answers = [line for line in said if line and not line.startswith(";")]
    return status, set(flags), answers[0].split()[-1] if answers else ""


def test_a_validating_resolver_believes_the_names_of_the_lab(resolver: Server, internet: Internet) -> None:
    status, flags, answer = lookup(resolver, "outside.test", "MX")
    assert (status, answer) == ("NOERROR", "mx.outside.test.")
    assert "ad" in flags
    assert lookup(resolver, "-x", str(internet.ip))[2] == "mx.outside.test."


def test_a_validating_resolver_refuses_a_broken_chain(resolver: Server) -> None:
    assert lookup(resolver, "bogus.test", "A")[0] == "SERVFAIL"
    assert lookup(resolver, "+cdflag", "bogus.test", "A")[2] == "192.0.2.1"


def test_a_name_that_is_not_published_is_proven_absent(resolver: Server) -> None:
    status, flags, _ = lookup(resolver, "absent.test", "A")
    assert status == "NXDOMAIN"
    assert "ad" in flags


def test_a_published_record_is_served_signed_and_replaced(resolver: Server, internet: Internet) -> None:
    internet.publish('x._domainkey.example.test. TXT "v=DKIM1; p="\n', name="replaced")
    assert lookup(resolver, "x._domainkey.example.test", "TXT")[1] >= {"ad"}
    internet.publish("y.example.test. A 192.0.2.7\n", name="replaced")
    assert lookup(resolver, "y.example.test", "A")[2] == "192.0.2.7"
    poll(
        lambda: lookup(resolver, "x._domainkey.example.test", "TXT")[0] == "NXDOMAIN",
        timeout=15,
        failure="the record that was replaced is still served",
    )


def test_a_text_that_is_no_zone_is_refused_and_changes_nothing(resolver: Server, internet: Internet) -> None:
    with pytest.raises(LabError, match=r"line .*unsupported record type"):
        internet.publish("hello world nonsense\n", name="nonsense")
    assert lookup(resolver, "outside.test", "MX")[0] == "NOERROR"
    internet.publish("z.example.test. A 192.0.2.8\n", name="sense")
    assert lookup(resolver, "z.example.test", "A")[2] == "192.0.2.8"


def test_a_server_behind_the_labs_root_still_reaches_its_debian_mirror(resolver: Server) -> None:
    resolver.run("apt-get update --error-on=any")


def a_message(subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@outside.test", "b@outside.test", subject
    message.set_content("Hello.")
    return message


def test_mail_to_the_outside_is_stored_with_its_envelope(internet: Internet) -> None:
    reply = internet.send(
        "a@outside.test",
        ["b@outside.test", "c@outside.test"],
        internet.ip,
        a_message("stored"),
        helo="h.test",
    )
    assert (reply.stage, reply.code) == ("DATA", 250)
    stored = internet.wait_for(lambda m: m.message["Subject"] == "stored")
    assert (stored.listener, stored.sender, stored.helo) == ("mx", "a@outside.test", "h.test")
    assert stored.recipients == ("b@outside.test", "c@outside.test")
    assert stored.peer == str(internet.ip)
    assert stored.tls == "TLSv1.3"
    assert stored.message.get_content().rstrip() == "Hello."


def test_mail_in_clear_is_recorded_as_such(internet: Internet) -> None:
    internet.send("", "b@outside.test", internet.ip, a_message("in clear"), tls=False)
    stored = internet.wait_for(lambda m: m.message["Subject"] == "in clear")
    assert stored.tls is None
    assert stored.sender == ""


@pytest.mark.parametrize(("recipient", "code"), [("defer@outside.test", 451), ("refuse@outside.test", 550)])
def test_the_outside_defers_and_refuses_when_asked_to(internet: Internet, recipient: str, code: int) -> None:
    reply = internet.send("a@outside.test", recipient, internet.ip, a_message("unwanted"))
    assert (reply.stage, reply.code) == ("RCPT", code)


def test_waiting_for_mail_that_does_not_come_ends(internet: Internet) -> None:
    with pytest.raises(LabError, match="no such message outside after 1 s"):
        internet.wait_for(lambda m: m.message["Subject"] == "never sent", timeout=1)


def test_a_delivery_where_nobody_listens_is_a_reply_of_code_0(internet: Internet, server: Server) -> None:
    assert internet.send("a@outside.test", "b@plain.test", server.ip, b"\r\n").code == 0


def test_the_relay_host_takes_mail_over_tls_with_the_password_only(internet: Internet) -> None:
    with smtplib.SMTP(str(internet.ip), 587, timeout=10) as smtp:
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.mail("a@example.test")[0] == 530
        smtp.starttls()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(RELAY_USER, "wrong")
        smtp.login(RELAY_USER, RELAY_PASSWORD)
        smtp.send_message(a_message("relayed"))
    stored = internet.wait_for(lambda m: m.message["Subject"] == "relayed")
    assert (stored.listener, stored.user) == ("relay", RELAY_USER)


def test_the_outside_world_survives_a_reboot(internet: Internet) -> None:
    anchor = internet.trust_anchor
    internet.send("a@outside.test", "b@outside.test", internet.ip, a_message("before"))
    internet.restart()
    assert internet.trust_anchor == anchor
    reply = internet.send("a@outside.test", "b@outside.test", internet.ip, a_message("after"))
    assert reply.code == 250
    assert {"before", "after"} <= {m.message["Subject"] for m in internet.read_messages()}
    assert internet.run("kdig +short @127.0.0.1 outside.test MX").stdout == "10 mx.outside.test.\n"


# --- the attacker


def test_connections_of_the_attacker_arrive_from_the_address_it_chose(attacker: Attacker, internet: Internet) -> None:
    script = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], timeout=10) as smtp:
    smtp.sendmail("evil@outside.test", sys.argv[2], "Subject: from many")
"""
    chosen = [*attacker.sources[:3], attacker.sources6[0]]
    for source in chosen:
        target = internet.ip if source.version == 4 else internet.ip6
        attacker.run_python(script, str(target), f"source-{source}@outside.test".replace(":", "-"), source_ip=source)
    arrived = {m.peer for m in internet.read_messages() if m.sender == "evil@outside.test"}
    assert arrived == {str(source) for source in chosen}
    assert str(attacker.ip) not in arrived
