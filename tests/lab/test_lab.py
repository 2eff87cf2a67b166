"""The lab keeps its promises to the tests that use it."""

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
def plain_server(lab: Lab) -> Server:
    return lab.boot_server("plain", hostname="plain.example.test")


def test_a_server_is_a_debian_13_that_has_booted_without_a_failed_unit(plain_server: Server) -> None:
    assert plain_server.run(". /etc/os-release; echo $ID $VERSION_ID").stdout.split() == ["debian", "13"]
    assert plain_server.run("systemctl is-system-running").stdout.strip() == "running"
    assert plain_server.run("hostname --fqdn").stdout.strip() == "plain.example.test"


def test_a_server_answers_ssh_on_its_own_address_and_ipv6(plain_server: Server) -> None:
    for address in (plain_server.ip, plain_server.ip6):
        with socket.create_connection((str(address), 22), timeout=5) as connection:
            assert connection.recv(8).startswith(b"SSH-2.0-")


def test_a_failing_command_raises_an_error_with_its_output(plain_server: Server) -> None:
    with pytest.raises(LabError, match="exit 3: out of cheese"):
        plain_server.run("echo out of cheese >&2; exit 3")
    assert plain_server.run("exit 3", check=False).returncode == 3


@pytest.mark.parametrize("path", ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"])
def test_network_files_can_be_replaced_by_rename(plain_server: Server, path: str) -> None:
    plain_server.run(f"cp -p {path} {path}.new && mv {path}.new {path}")


def test_a_server_enforces_systemd_sandboxes(plain_server: Server) -> None:
    sandboxed = plain_server.run("systemd-run --quiet --pipe -p ProtectSystem=strict touch /usr/x", check=False)
    assert "Read-only file system" in sandboxed.stderr


def test_a_server_installs_packages(plain_server: Server) -> None:
    plain_server.run("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install tree")
    assert plain_server.run("tree --version").stdout


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
    reset = lab.reset_server(server, image)
    assert reset.run("cat /root/state; hostname --fqdn").stdout.split() == ["baked", "baked.example.test"]
    assert reset == server


def test_a_server_that_does_not_boot_leaves_nothing_behind(lab: Lab, base_server: Boot) -> None:
    broken = base_server("broken")
    broken.write("/etc/systemd/system/failing.service", "[Service]\nType=oneshot\nExecStart=false\n")
    broken.run("systemctl add-wants multi-user.target failing.service")
    image = broken.bake("broken")

    with pytest.raises(LabError, match=r"has booted with failed units:\nfailing\.service"):
        lab.boot_server("unbooted", image=image)

    assert "unbooted" not in [machine.name for machine in lab.list_machines()]


def test_two_labs_share_nothing(lab: Lab, plain_server: Server) -> None:
    other = Lab(f"{lab.prefix}-other")
    try:
        neighbour = other.boot_server("plain")
        assert neighbour.ip not in lab.network
        assert not other.network.overlaps(lab.network)
        assert [machine.name for machine in other.list_machines()] == ["plain"]
    finally:
        other.destroy()
    assert plain_server.run("echo here").stdout == "here\n"


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


def test_the_machines_of_a_killed_run_can_be_used_again_or_removed(lab: Lab) -> None:
    prefix = f"{lab.prefix}-killed"
    boot = f"Lab({prefix!r}).boot_server('left', hostname='left.test')"
    killed = subprocess.run(
        [sys.executable, "-c", f"import os; from mailkeep.lab import Lab; {boot}; os._exit(9)"], check=False
    )
    assert killed.returncode == 9
    lab_again = Lab(prefix)
    try:
        [left] = lab_again.list_machines()
        left.run("touch /root/mine")
        reused = lab_again.boot_server("left", hostname="left.test", fresh=False)
        assert reused == left
        assert reused.run("ls /root").stdout == "mine\n"
    finally:
        lab_again.destroy()
    assert not lab_again.list_machines()


# --- the internet container


@pytest.fixture(scope="module")
def validating_resolver(lab: Lab, internet: Internet) -> Server:
    """A server with Debian's unbound, which trusts the lab's root zone and resolves through it."""
    server = lab.boot_server("resolver")
    internet.resolve_for(server)
    server.run(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive "
        "apt-get -qq install --no-install-recommends unbound dns-root-data bind9-dnsutils"
    )
    server.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions edns0\n")
    return server


def dig_record(resolver: Server, *query: str) -> tuple[str, set[str], str]:
    """Query with dig; the status, the flags, and the last word of the first answer."""
    lines = resolver.run(f"dig +noall +comments +answer {' '.join(query)}").stdout.splitlines()
    status = next(line for line in lines if "status:" in line).split("status: ")[1].split(",")[0]
    flags = next(line for line in lines if line.startswith(";; flags:")).split(";")[2].split()[1:]
    answers = [line for line in lines if line and not line.startswith(";")]
    return status, set(flags), answers[0].split()[-1] if answers else ""


def test_a_validating_resolver_trusts_the_names_of_the_lab(validating_resolver: Server, internet: Internet) -> None:
    status, flags, answer = dig_record(validating_resolver, "outside.test", "MX")
    assert (status, answer) == ("NOERROR", "mx.outside.test.")
    assert "ad" in flags
    assert dig_record(validating_resolver, "-x", str(internet.ip))[2] == "mx.outside.test."


def test_a_validating_resolver_refuses_a_broken_chain(validating_resolver: Server) -> None:
    assert dig_record(validating_resolver, "bogus.test", "A")[0] == "SERVFAIL"
    assert dig_record(validating_resolver, "+cdflag", "bogus.test", "A")[2] == "192.0.2.1"


def test_a_name_that_is_not_published_is_proven_absent(validating_resolver: Server) -> None:
    status, flags, _ = dig_record(validating_resolver, "absent.test", "A")
    assert status == "NXDOMAIN"
    assert "ad" in flags


def test_a_published_record_is_served_signed_and_replaced(validating_resolver: Server, internet: Internet) -> None:
    internet.publish('x._domainkey.example.test. TXT "v=DKIM1; p="\n', name="replaced")
    assert dig_record(validating_resolver, "x._domainkey.example.test", "TXT")[1] >= {"ad"}
    internet.publish("y.example.test. A 192.0.2.7\n", name="replaced")
    assert dig_record(validating_resolver, "y.example.test", "A")[2] == "192.0.2.7"
    poll(
        lambda: dig_record(validating_resolver, "x._domainkey.example.test", "TXT")[0] == "NXDOMAIN",
        timeout=15,
        failure="the record that was replaced is still served",
    )


def test_a_text_that_is_no_zone_is_refused_and_changes_nothing(validating_resolver: Server, internet: Internet) -> None:
    with pytest.raises(LabError, match=r"line .*unsupported record type"):
        internet.publish("hello world nonsense\n", name="nonsense")
    assert dig_record(validating_resolver, "outside.test", "MX")[0] == "NOERROR"
    internet.publish("z.example.test. A 192.0.2.8\n", name="sense")
    assert dig_record(validating_resolver, "z.example.test", "A")[2] == "192.0.2.8"


def test_a_server_behind_the_labs_root_still_reaches_its_debian_mirror(validating_resolver: Server) -> None:
    validating_resolver.run("apt-get update --error-on=any")


def compose_message(subject: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@outside.test", "b@outside.test", subject
    message.set_content("Hello.")
    return message


def test_mail_to_the_outside_is_stored_with_its_envelope(internet: Internet) -> None:
    reply = internet.send(
        "a@outside.test",
        ["b@outside.test", "c@outside.test"],
        internet.ip,
        compose_message("stored"),
        helo="h.test",
    )
    assert (reply.stage, reply.code) == ("DATA", 250)
    stored = internet.wait_for(lambda received: received.message["Subject"] == "stored")
    assert (stored.listener, stored.sender, stored.helo) == ("mx", "a@outside.test", "h.test")
    assert stored.recipients == ("b@outside.test", "c@outside.test")
    assert stored.peer == str(internet.ip)
    assert stored.tls == "TLSv1.3"
    assert stored.message.get_content().rstrip() == "Hello."


def test_mail_in_clear_is_recorded_as_such(internet: Internet) -> None:
    internet.send("", "b@outside.test", internet.ip, compose_message("in clear"), tls=False)
    stored = internet.wait_for(lambda received: received.message["Subject"] == "in clear")
    assert stored.tls is None
    assert stored.sender == ""


@pytest.mark.parametrize(("recipient", "code"), [("defer@outside.test", 451), ("refuse@outside.test", 550)])
def test_the_outside_defers_and_refuses_when_asked_to(internet: Internet, recipient: str, code: int) -> None:
    reply = internet.send("a@outside.test", recipient, internet.ip, compose_message("unwanted"))
    assert (reply.stage, reply.code) == ("RCPT", code)


def test_waiting_for_mail_that_does_not_come_ends(internet: Internet) -> None:
    with pytest.raises(LabError, match="no such message outside after 1 s"):
        internet.wait_for(lambda received: received.message["Subject"] == "never sent", timeout=1)


def test_a_delivery_where_nobody_listens_is_a_reply_of_code_0(internet: Internet, plain_server: Server) -> None:
    assert internet.send("a@outside.test", "b@plain.test", plain_server.ip, b"\r\n").code == 0


def test_the_relay_host_takes_mail_over_tls_with_the_password_only(internet: Internet) -> None:
    with smtplib.SMTP(str(internet.ip), 587, timeout=10) as smtp:
        smtp.ehlo()
        assert not smtp.has_extn("auth")
        assert smtp.mail("a@example.test")[0] == 530
        smtp.starttls()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(RELAY_USER, "wrong")
        smtp.login(RELAY_USER, RELAY_PASSWORD)
        smtp.send_message(compose_message("relayed"))
    stored = internet.wait_for(lambda received: received.message["Subject"] == "relayed")
    assert (stored.listener, stored.user) == ("relay", RELAY_USER)


def test_the_internet_container_survives_a_reboot(internet: Internet) -> None:
    anchor = internet.trust_anchor
    internet.send("a@outside.test", "b@outside.test", internet.ip, compose_message("before"))
    internet.restart()
    assert internet.trust_anchor == anchor
    reply = internet.send("a@outside.test", "b@outside.test", internet.ip, compose_message("after"))
    assert reply.code == 250
    assert {"before", "after"} <= {received.message["Subject"] for received in internet.read_messages()}
    assert internet.run("kdig +short @127.0.0.1 outside.test MX").stdout == "10 mx.outside.test.\n"


# --- the attacker


def test_connections_of_the_attacker_arrive_from_the_chosen_address(attacker: Attacker, internet: Internet) -> None:
    script = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], timeout=10) as smtp:
    smtp.sendmail("evil@outside.test", sys.argv[2], "Subject: from many")
"""
    chosen = [*attacker.sources[:3], attacker.sources6[0]]
    for source in chosen:
        target = internet.ip if source.version == 4 else internet.ip6
        attacker.run_python(script, str(target), f"source-{source}@outside.test".replace(":", "-"), source_ip=source)
    arrived = {received.peer for received in internet.read_messages() if received.sender == "evil@outside.test"}
    assert arrived == {str(source) for source in chosen}
    assert str(attacker.ip) not in arrived
