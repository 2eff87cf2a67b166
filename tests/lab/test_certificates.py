"""Certificates that come and are renewed by themselves, from a certificate authority of the lab, and when not."""

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from clients import IMAPS, SMTP, SUBMISSIONS, open_imap, open_smtp, tls_context
from cryptography import x509

from mailkeep.dns import client, formats, judge, observe, records
from mailkeep.dns.findings import Finding
from mailkeep.dns.records import Record
from mailkeep.inventory import secrets
from mailkeep.inventory.credentials import save_dns_credentials
from mailkeep.lab import Internet, Lab, LabError, poll
from mailkeep.lab.internet import DIRECTORY, TSIG_SECRET
from mailkeep.lab.site import Site
from mailkeep.operate import tls_rotation
from mailkeep.parts import certificates
from mailkeep_server.common.certificates import Certificate, read_certificate

HOST, OTHER = "mail.example.test", "mta-sts.example.test"
STATE = f"{certificates.STATE}/state.json"
LIMITED = 14001  # where the authority that issues no more listens


@dataclass(frozen=True)
class World:
    """A server that gets its certificates by ACME, and the outside world with the authority."""

    site: Site
    internet: Internet

    def declare(self, **acme: str) -> None:
        declared = yaml.safe_load(self.site.settings_file.read_text())
        declared["tls"] = {"mode": "acme", "acme": {"directory": DIRECTORY, **acme}}
        self.site.settings_file.write_text(yaml.safe_dump(declared))

    def deploy(self) -> list[str]:
        """What a deploy has changed."""
        said = self.site.deploy()
        assert said.code == 0, said.output
        return said.changed

    def authority(self, *, seconds: int = 90 * 86400, refuses: str = "nobody.test") -> None:
        """A new one, to which all are strangers."""
        self.internet.start_authority(seconds=seconds, refuses=[refuses])
        self.site.server.run("rm -rf /var/lib/private/mailkeep-acme/accounts")

    def look(self) -> str:
        """The hourly look, now: `inactive` if it was successful, else `failed`."""
        self.site.server.run("systemctl start mailkeep-certificate", check=False)
        return self.site.server.run("systemctl is-failed mailkeep-certificate", check=False).stdout.strip()

    def shows(self, condition: Callable[[Certificate], bool], timeout: float = 60) -> None:
        """Waits until the server shows such a certificate."""
        try:
            poll(lambda: condition(read_certificate(self.shown())), timeout, "no such certificate is shown", 0.5)
        except LabError as error:
            raise LabError(f"{error}\n{self.said()}") from None

    def need(self) -> None:
        """As if the authority were another one than the last time."""
        self.site.server.run(f"sed -i '/from/s|acme|former|' {STATE}")

    def shown(self, port: int = IMAPS) -> str:
        """The certificate (PEM) that the server shows."""
        address = str(self.site.server.ip)
        connection = open_imap(address, port) if port == IMAPS else open_smtp(address, port)
        der = connection.sock.getpeercert(binary_form=True)
        connection.sock.close()
        return ssl.DER_cert_to_PEM_cert(der)

    def shown_over_https(self, name: str) -> str:
        with (
            socket.create_connection((str(self.site.server.ip), 443), 5) as plain,
            tls_context().wrap_socket(plain, server_hostname=name) as talk,
        ):
            return ssl.DER_cert_to_PEM_cert(talk.getpeercert(binary_form=True) or b"")

    def reloads(self) -> list[int]:
        """How often Postfix and Dovecot have reloaded."""
        journal = "journalctl --output=cat --unit"
        counts = f"journalctl --sync; {journal} postfix | grep -c '^Reloaded'; {journal} dovecot | grep -c '^Reloaded'"
        return [int(line) for line in self.site.server.run(counts, check=False).stdout.split()]

    def asked(self) -> int:
        """How many requests the authority has had."""
        asked = "journalctl --sync; journalctl --unit=authority --output=cat | grep -c ' /'"
        return int(self.internet.run(asked, check=False).stdout)

    def said(self) -> str:
        last = "journalctl --sync; journalctl --unit=mailkeep-certificate --output=cat --lines=12"
        return self.site.server.run(last).stdout

    def troubles(self) -> str:
        """What the last look had to tell; "not looked yet" before the first."""
        written = self.site.server.run(f"cat {certificates.TROUBLES}", check=False).stdout
        return str(json.loads(written)["troubles"].get("certificate", "")) if written else "not looked yet"

    def publish(self) -> None:
        """What is to be published now; the site itself remembers its keys."""
        keys = secrets.load_secrets(self.site.settings, self.site.inventory)
        listed = [*records.own_zone_records(self.site.settings, keys), *records.reverse_records(self.site.settings)]
        self.internet.publish(formats.format_zone_file(listed))

    def tlsa(self) -> set[str]:
        listed = records.own_zone_records(
            self.site.settings, secrets.load_secrets(self.site.settings, self.site.inventory)
        )
        return {record.value for record in listed if record.type == "TLSA"}

    def findings(self, kind: str) -> list[Finding]:
        declared, keys = self.site.settings, secrets.load_secrets(self.site.settings, self.site.inventory)
        seen = observe.observe_server(declared, keys, client.make_resolver(self.internet.resolver))
        return [finding for finding in judge.judge_observation(declared, keys, seen) if finding.type == kind]


def tlsa_of(pem: str) -> str:
    return records.tlsa_record(HOST, x509.load_pem_x509_certificate(pem.encode())).value


@pytest.fixture(scope="module")
def world(lab: Lab, built_site: Site, built_image: str, internet: Internet) -> Iterator[World]:
    server = lab.boot_server("certified", hostname=HOST, image=built_image)
    site = built_site.copy_for(server)
    text = site.settings_file.read_text()
    for theirs, ours in ((built_site.server.ip, server.ip), (built_site.server.ip6, server.ip6)):
        text = re.sub(rf"{re.escape(str(theirs))}(?![0-9:.])", str(ours), text)
    site.settings_file.write_text(text)
    made = World(site, internet)
    made.declare()
    secrets.create_missing_keys(site.settings, site.inventory, date.today())
    made.authority()
    internet.trust_authority(server)
    made.publish()
    yield made
    internet.run("systemctl stop authority", check=False)  # it may be down
    internet.publish("", name="challenge")
    built_site.publish(internet)
    server.remove()


def test_a_deploy_is_enough_and_a_second_one_changes_nothing(world: World) -> None:
    # As on a machine that has never had a certificate.
    world.site.server.run(f"systemctl stop postfix dovecot; rm {certificates.PEM}")
    world.deploy()
    assert {tlsa_of(world.shown(port)) for port in (SMTP, SUBMISSIONS, IMAPS)} == world.tlsa()
    world.shows(lambda certificate: not certificate.self_signed)
    poll(lambda: not world.troubles(), 5, "a trouble is left")
    pem = world.shown()
    assert {world.shown(port) for port in (SMTP, SUBMISSIONS, IMAPS)} == {pem}
    assert {tlsa_of(pem)} == world.tlsa()
    assert world.findings("TLSA") == []
    assert world.deploy() == []
    assert world.shown() == pem


def test_who_asks_cannot_read_the_key_and_nothing_listens_afterwards(world: World) -> None:
    as_lego = "systemd-run --quiet --wait --pipe --property=DynamicUser=yes --property=User=mailkeep-acme cat"
    for file in (certificates.PEM, certificates.KEY):
        assert "Permission denied" in world.site.server.run(f"{as_lego} {file}", check=False).stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(world.site.server.ip), 80), 5)


def test_when_nothing_is_needed_nobody_is_asked_and_nothing_reloads(world: World) -> None:
    before = world.asked(), world.reloads(), world.shown()
    assert world.look() == "inactive"
    assert "No new certificate is needed." in world.said()
    assert (world.asked(), world.reloads(), world.shown()) == before


# --- what goes wrong: the certificate that is there stays


def fails(world: World, reason: str) -> None:
    """The next look fails for this reason, and all else is as it was."""
    before = world.reloads(), world.shown()
    world.need()
    assert world.look() == "failed"
    assert re.search(reason, world.said()), world.said()
    assert (world.reloads(), world.shown(), world.shown(SMTP)) == (*before, before[1])


def told(world: World) -> str:
    return world.site.server.run("journalctl --unit=mailkeep-watch --output=cat").stdout


def test_when_the_authority_is_down_the_operator_hears_of_it_after_a_day(world: World) -> None:
    world.internet.run("systemctl stop authority")
    fails(world, "connection refused")
    assert world.troubles() == ""
    world.site.server.run(f"sed -i '/failing/s/: 1[0-9]*/: 1700000000/' {STATE}")
    fails(world, "connection refused")
    assert f"There is no new certificate for {HOST}" in world.troubles()
    poll(lambda: f"There is no new certificate for {HOST}" in told(world), 10, "the watch tells nothing")


def test_when_the_authority_refuses(world: World) -> None:
    world.authority(refuses=HOST)
    fails(world, "rejectedIdentifier")


def test_when_it_issues_no_more_for_the_time_being(world: World) -> None:
    world.authority()
    internet, server, script = world.internet, world.site.server, "/opt/outside/limited_authority.py"
    internet.write(script, Path(__file__).with_name("limited_authority.py").read_text())
    internet.run(f"systemd-run --quiet --collect --unit=limited python3 {script} {LIMITED} /opt/outside")
    poll(lambda: internet.run(f"ss -Hltn 'sport = :{LIMITED}'").stdout, 10, "it does not listen")
    config = server.run(f"cat {certificates.CONFIG}").stdout
    server.write(certificates.CONFIG, config.replace(DIRECTORY, f"https://acme.outside.test:{LIMITED}/dir"))
    try:
        fails(world, r"rateLimited :: too many certificates \(5\) already issued")
    finally:
        server.write(certificates.CONFIG, config)
        internet.run("systemctl stop limited")


def test_when_the_name_leads_elsewhere(world: World) -> None:
    world.authority()
    world.internet.publish(f"{HOST}. A {world.internet.ip}\n")
    fails(world, "urn:ietf:params:acme:error:connection|urn:ietf:params:acme:error:unauthorized")
    world.publish()


FOR_ANOTHER_KEY = """#!/bin/sh
mkdir -p /var/lib/mailkeep-acme/certificates
exec openssl req -quiet -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=x \
  -addext subjectAltName=DNS:mail.example.test -out /var/lib/mailkeep-acme/certificates/mail.example.test.crt
"""


def test_what_comes_is_looked_at(world: World) -> None:
    world.site.server.run("mv /usr/bin/lego /usr/bin/lego.true")
    world.site.server.write("/usr/bin/lego", FOR_ANOTHER_KEY, 0o755)
    try:
        fails(world, "the certificate that came is for another key")
    finally:
        world.site.server.run("mv /usr/bin/lego.true /usr/bin/lego")


# --- renewal


def test_it_is_renewed_in_time_with_the_same_key_and_services_reload_once(world: World) -> None:
    world.authority(seconds=10)
    world.need()
    assert world.look() == "inactive"
    world.shows(lambda certificate: certificate.not_after - certificate.not_before < 60)
    first, reloads = world.shown(), world.reloads()
    poll(lambda: world.look() and world.shown() != first, 40, "it is not renewed", 1)
    assert "A new certificate is needed: the present one ends in 0.0 days." in world.said()
    assert {world.shown(SMTP), world.shown(SUBMISSIONS)} == {world.shown()}
    assert read_certificate(world.shown()).public_key == read_certificate(first).public_key
    assert {tlsa_of(world.shown())} == world.tlsa()
    assert world.reloads() == [count + 1 for count in reloads]


def test_one_name_that_cannot_be_had_does_not_cost_the_host_its_own(world: World) -> None:
    server, own = world.site.server, world.site.secrets.tls
    config = server.run(f"cat {certificates.CONFIG}").stdout
    world.authority()
    server.write(certificates.CONFIG, json.dumps(json.loads(config) | {"names": [HOST, OTHER]}))
    server.write(certificates.PEM, own.key + own.certificate, 0o600)  # as at the first time
    assert world.look() == "failed"
    assert read_certificate(world.shown()).names == {HOST}
    assert f"There is no new certificate for {HOST}, {OTHER}: " in world.troubles()
    server.write(certificates.CONFIG, config)
    assert world.look() == "inactive"
    assert world.troubles() == ""


def test_what_is_served_over_https_is_asked_for_and_shown_there_as_well(world: World) -> None:
    before = world.site.settings_file.read_text()
    world.site.settings_file.write_text(f"{before}dns: {{mta_sts: testing}}\n")
    world.publish()
    world.deploy()
    world.shows(
        lambda certificate: (
            certificate.names == {HOST, *(f"mta-sts.{domain}" for domain in world.site.settings.domains)}
        )
    )
    poll(lambda: world.shown_over_https(OTHER) == world.shown(), 10, "the web server shows another certificate")
    world.site.settings_file.write_text(before)
    world.publish()
    world.deploy()


# --- by the DNS


@pytest.fixture(scope="module")
def by_dns(world: World) -> World:
    """The names are shown to be ours by records in a zone that takes updates (RFC 2136)."""
    world.authority()
    world.internet.publish(f"_acme-challenge.{HOST}. CNAME _acme-challenge.dynamic.test.\n", name="challenge")
    world.declare(challenge="dns-01", provider="rfc2136")
    given = {"NAMESERVER": world.internet.ip, "TSIG_KEY": "dynamic.", "TSIG_ALGORITHM": "hmac-sha256."}
    lines = [f"RFC2136_{name}={value}\n" for name, value in {**given, "TSIG_SECRET": TSIG_SECRET}.items()]
    save_dns_credentials(world.site.inventory, "".join(lines))
    return world


def test_a_new_key_is_shown_once_the_world_has_its_record_and_gets_its_certificate_by_dns_01(by_dns: World) -> None:
    site, moment = by_dns.site, datetime.now(UTC) + timedelta(days=1)

    def step(later: timedelta = timedelta()) -> str:
        def unseen(record: Record) -> tuple[list[str], int]:
            return tls_rotation.find_unpublished(record, client.make_resolver(by_dns.internet.resolver))

        served = tls_rotation.read_served_records
        rotation = tls_rotation.TlsRotation(
            site.settings, site.inventory, moment + later, unseen, served, start_now=True
        )
        return "\n".join(rotation.take_step())

    [old] = by_dns.tlsa()
    step()
    [new] = by_dns.tlsa() - {old}
    assert "is not published yet: the resolver does not have it; ns.outside.test does not have it" in step()
    by_dns.publish()
    assert "Both records are published" in step()
    assert "Resolvers may still keep an older answer" in step()
    assert "The new key is now the current one" in step(timedelta(hours=2))
    assert "the server still shows another key" in step()
    by_dns.deploy()
    poll(lambda: by_dns.look() == "inactive", 60, "there is no certificate by DNS-01")
    poll(lambda: {tlsa_of(by_dns.shown(port)) for port in (SMTP, IMAPS)} == {new}, 10, "another key is shown")
    assert not read_certificate(by_dns.shown()).self_signed
    assert by_dns.findings("TLSA") == []
    assert old in step()
    assert by_dns.tlsa() == {new}
    by_dns.deploy()


def test_by_dns_01_port_80_is_closed_and_what_the_provider_knows_stays_secret(by_dns: World) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((str(by_dns.site.server.ip), 80), 1)
    assert TSIG_SECRET not in by_dns.site.server.run("journalctl --output=cat").stdout
    assert by_dns.deploy() == []


def test_a_provider_that_lego_does_not_know_is_refused_before_anything_changes(world: World) -> None:
    before = world.site.settings_file.read_text()
    world.declare(challenge="dns-01", provider="nonesuch")
    said = world.site.deploy()
    assert said.code == 1
    assert '"nonesuch" is not yet supported' in said.output
    world.site.settings_file.write_text(before)
    assert world.deploy() == []


def test_a_rebuilt_machine_shows_the_same_key(world: World) -> None:
    before = world.tlsa()
    world.internet.run("systemctl stop authority")
    gone = f"/etc/mailkeep/tls {certificates.STATE} /var/lib/private/mailkeep-acme"
    world.site.server.run(f"systemctl stop postfix dovecot mailkeep-certificate.timer; rm -r {gone}")
    world.deploy()
    assert {tlsa_of(world.shown(port)) for port in (SMTP, IMAPS)} == before == world.tlsa()
    assert read_certificate(world.shown()).self_signed


def test_taken_back_nothing_asks_for_a_certificate_any_more(world: World) -> None:
    """The last one: the certificate of this module's server is self-signed from now on."""
    units = (certificates.ORDER, certificates.SERVICE, certificates.TIMER)
    spoiled = f"echo nonsense > {certificates.CONFIG}; ! systemctl start {certificates.SERVICE}"
    world.site.server.run(f"{spoiled}; systemctl is-failed {certificates.SERVICE}")
    declared = yaml.safe_load(world.site.settings_file.read_text()) | {"tls": {"mode": "self-signed"}}
    world.site.settings_file.write_text(yaml.safe_dump(declared))
    secrets.create_missing_keys(world.site.settings, world.site.inventory, date.today())
    world.deploy()
    left = "ls /etc/systemd/system /etc/systemd/system/timers.target.wants | grep -E 'mailkeep-(acme|certificate)'"
    assert world.site.server.run(left, check=False).stdout == ""
    active = world.site.server.run(f"systemctl is-active {' '.join(units)}", check=False).stdout
    assert active.split() == ["inactive"] * len(units), "and none has failed"
    assert world.deploy() == []
    assert read_certificate(world.shown()).self_signed
