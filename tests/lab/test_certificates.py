"""The server gets and renews certificates from the lab's certificate authority, and keeps the old one on failure."""

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
LIMITED = 14001  # the port of the authority whose rate limit is exceeded


@dataclass(frozen=True)
class CertifiedServer:
    """A server that gets its certificates by ACME, and the internet with the authority."""

    site: Site
    internet: Internet

    def declare_acme(self, **acme: str) -> None:
        settings = yaml.safe_load(self.site.settings_file.read_text())
        settings["tls"] = {"mode": "acme", "acme": {"directory": DIRECTORY, **acme}}
        self.site.settings_file.write_text(yaml.safe_dump(settings))

    def deploy_site(self) -> list[str]:
        """Deploy, and return the operations that changed something."""
        result = self.site.deploy()
        assert result.code == 0, result.output
        return result.changed

    def start_authority(self, *, seconds: int = 90 * 86400, refuses: str = "nobody.test") -> None:
        """Start a new authority, which has no accounts yet; the server forgets the account that it had."""
        self.internet.start_authority(seconds=seconds, refuses=[refuses])
        self.site.server.run("rm -rf /var/lib/private/mailkeep-acme/accounts")

    def check_certificate(self) -> str:
        """Run the hourly check now; its unit's state: `inactive` after success, else `failed`."""
        self.site.server.run("systemctl start mailkeep-certificate", check=False)
        return self.site.server.run("systemctl is-failed mailkeep-certificate", check=False).stdout.strip()

    def wait_for_certificate(self, condition: Callable[[Certificate], bool], timeout: float = 60) -> None:
        """Wait until the server shows a certificate that meets this condition."""
        try:
            poll(lambda: condition(read_certificate(self.read_shown())), timeout, "no such certificate is shown", 0.5)
        except LabError as error:
            raise LabError(f"{error}\n{self.read_journal()}") from None

    def require_renewal(self) -> None:
        """Edit the state as if the authority had changed, so that the next check asks for a certificate."""
        self.site.server.run(f"sed -i '/from/s|acme|former|' {STATE}")

    def read_shown(self, port: int = IMAPS) -> str:
        """The certificate (PEM) that the server shows."""
        address = str(self.site.server.ip)
        connection = open_imap(address, port) if port == IMAPS else open_smtp(address, port)
        der = connection.sock.getpeercert(binary_form=True)
        connection.sock.close()
        return ssl.DER_cert_to_PEM_cert(der)

    def read_shown_over_https(self, name: str) -> str:
        with (
            socket.create_connection((str(self.site.server.ip), 443), 5) as plain,
            tls_context().wrap_socket(plain, server_hostname=name) as connection,
        ):
            return ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")

    def count_reloads(self) -> list[int]:
        """How many times Postfix and Dovecot have reloaded."""
        journal = "journalctl --output=cat --unit"
        counts = f"journalctl --sync; {journal} postfix | grep -c '^Reloaded'; {journal} dovecot | grep -c '^Reloaded'"
        return [int(line) for line in self.site.server.run(counts, check=False).stdout.split()]

    def count_requests(self) -> int:
        """How many requests the authority has received."""
        command = "journalctl --sync; journalctl --unit=authority --output=cat | grep -c ' /'"
        return int(self.internet.run(command, check=False).stdout)

    def read_journal(self) -> str:
        last = "journalctl --sync; journalctl --unit=mailkeep-certificate --output=cat --lines=12"
        return self.site.server.run(last).stdout

    def read_trouble(self) -> str:
        """The trouble that the last check reported; "not looked yet" before the first check."""
        text = self.site.server.run(f"cat {certificates.TROUBLES}", check=False).stdout
        return str(json.loads(text)["troubles"].get("certificate", "")) if text else "not looked yet"

    def publish(self) -> None:
        """Publish the records of the keys now in the vault; `site.publish` would use the keys it loaded before."""
        keys = secrets.load_secrets(self.site.settings, self.site.inventory)
        published = [*records.own_zone_records(self.site.settings, keys), *records.reverse_records(self.site.settings)]
        self.internet.publish(formats.format_zone_file(published))

    def tlsa_values(self) -> set[str]:
        zone_records = records.own_zone_records(
            self.site.settings, secrets.load_secrets(self.site.settings, self.site.inventory)
        )
        return {record.value for record in zone_records if record.type == "TLSA"}

    def find_problems(self, kind: str) -> list[Finding]:
        settings, keys = self.site.settings, secrets.load_secrets(self.site.settings, self.site.inventory)
        observation = observe.observe_server(settings, keys, client.make_resolver(self.internet.resolver))
        return [finding for finding in judge.judge_observation(settings, keys, observation) if finding.type == kind]


def tlsa_of(pem: str) -> str:
    return records.tlsa_record(HOST, x509.load_pem_x509_certificate(pem.encode())).value


@pytest.fixture(scope="module")
def certified(lab: Lab, built_site: Site, built_image: str, internet: Internet) -> Iterator[CertifiedServer]:
    server = lab.boot_server("certified", hostname=HOST, image=built_image)
    site = built_site.copy_for(server)
    certified_server = CertifiedServer(site, internet)
    certified_server.declare_acme()
    secrets.create_missing_keys(site.settings, site.inventory, date.today())
    certified_server.start_authority()
    internet.trust_authority(server)
    certified_server.publish()
    yield certified_server
    internet.run("systemctl stop authority", check=False)  # it may already be stopped
    internet.publish("", name="challenge")
    built_site.publish(internet)
    server.remove()


def test_a_deploy_is_enough_and_a_second_one_changes_nothing(certified: CertifiedServer) -> None:
    # As on a machine that never had a certificate.
    certified.site.server.run(f"systemctl stop postfix dovecot; rm {certificates.PEM}")
    certified.deploy_site()
    assert {tlsa_of(certified.read_shown(port)) for port in (SMTP, SUBMISSIONS, IMAPS)} == certified.tlsa_values()
    certified.wait_for_certificate(lambda certificate: not certificate.self_signed)
    poll(lambda: not certified.read_trouble(), 5, "a trouble is left")
    pem = certified.read_shown()
    assert {certified.read_shown(port) for port in (SMTP, SUBMISSIONS, IMAPS)} == {pem}
    assert {tlsa_of(pem)} == certified.tlsa_values()
    assert certified.find_problems("TLSA") == []
    assert certified.deploy_site() == []
    assert certified.read_shown() == pem


def test_the_acme_client_cannot_read_the_key_and_nothing_listens_on_port_80_afterwards(
    certified: CertifiedServer,
) -> None:
    as_lego = "systemd-run --quiet --wait --pipe --property=DynamicUser=yes --property=User=mailkeep-acme cat"
    for file in (certificates.PEM, certificates.KEY):
        assert "Permission denied" in certified.site.server.run(f"{as_lego} {file}", check=False).stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(certified.site.server.ip), 80), 5)


def test_without_need_the_authority_is_not_asked_and_nothing_reloads(certified: CertifiedServer) -> None:
    before = certified.count_requests(), certified.count_reloads(), certified.read_shown()
    assert certified.check_certificate() == "inactive"
    assert "No new certificate is needed." in certified.read_journal()
    assert (certified.count_requests(), certified.count_reloads(), certified.read_shown()) == before


# --- failures, after which the present certificate stays


def assert_check_fails(certified: CertifiedServer, reason: str) -> None:
    """The next check fails for this reason; no service reloads, and the certificate stays."""
    before = certified.count_reloads(), certified.read_shown()
    certified.require_renewal()
    assert certified.check_certificate() == "failed"
    assert re.search(reason, certified.read_journal()), certified.read_journal()
    assert (certified.count_reloads(), certified.read_shown(), certified.read_shown(SMTP)) == (*before, before[1])


def read_alerts(certified: CertifiedServer) -> str:
    return certified.site.server.run("journalctl --unit=mailkeep-watch --output=cat").stdout


def test_an_authority_that_is_down_for_a_day_is_reported_to_the_operator(certified: CertifiedServer) -> None:
    certified.internet.run("systemctl stop authority")
    assert_check_fails(certified, "connection refused")
    assert certified.read_trouble() == ""
    certified.site.server.run(f"sed -i '/failing/s/: 1[0-9]*/: 1700000000/' {STATE}")
    assert_check_fails(certified, "connection refused")
    assert f"There is no new certificate for {HOST}" in certified.read_trouble()
    poll(lambda: f"There is no new certificate for {HOST}" in read_alerts(certified), 10, "the watch tells nothing")


def test_when_the_authority_refuses_the_certificate_stays(certified: CertifiedServer) -> None:
    certified.start_authority(refuses=HOST)
    assert_check_fails(certified, "rejectedIdentifier")


def test_when_the_authoritys_rate_limit_is_exceeded_the_certificate_stays(certified: CertifiedServer) -> None:
    certified.start_authority()
    internet, server, script = certified.internet, certified.site.server, "/opt/outside/limited_authority.py"
    internet.write(script, Path(__file__).with_name("limited_authority.py").read_text())
    internet.run(f"systemd-run --quiet --collect --unit=limited python3 {script} {LIMITED} /opt/outside")
    poll(lambda: internet.run(f"ss -Hltn 'sport = :{LIMITED}'").stdout, 10, "it does not listen")
    config = server.run(f"cat {certificates.CONFIG}").stdout
    server.write(certificates.CONFIG, config.replace(DIRECTORY, f"https://acme.outside.test:{LIMITED}/dir"))
    try:
        assert_check_fails(certified, r"rateLimited :: too many certificates \(5\) already issued")
    finally:
        server.write(certificates.CONFIG, config)
        internet.run("systemctl stop limited")


def test_when_the_name_leads_to_another_address_the_certificate_stays(certified: CertifiedServer) -> None:
    certified.start_authority()
    certified.internet.publish(f"{HOST}. A {certified.internet.ip}\n")
    assert_check_fails(certified, "urn:ietf:params:acme:error:connection|urn:ietf:params:acme:error:unauthorized")
    certified.publish()


FOR_ANOTHER_KEY = """#!/bin/sh
mkdir -p /var/lib/mailkeep-acme/certificates
exec openssl req -quiet -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj /CN=x \
  -addext subjectAltName=DNS:mail.example.test -out /var/lib/mailkeep-acme/certificates/mail.example.test.crt
"""


def test_a_certificate_for_another_key_is_not_installed(certified: CertifiedServer) -> None:
    certified.site.server.run("mv /usr/bin/lego /usr/bin/lego.true")
    certified.site.server.write("/usr/bin/lego", FOR_ANOTHER_KEY, 0o755)
    try:
        assert_check_fails(certified, "the certificate that came is for another key")
    finally:
        certified.site.server.run("mv /usr/bin/lego.true /usr/bin/lego")


# --- renewal


def test_a_certificate_is_renewed_in_time_with_the_same_key_and_one_reload(certified: CertifiedServer) -> None:
    certified.start_authority(seconds=10)
    certified.require_renewal()
    assert certified.check_certificate() == "inactive"
    certified.wait_for_certificate(lambda certificate: certificate.not_after - certificate.not_before < 60)
    first, reloads = certified.read_shown(), certified.count_reloads()
    poll(lambda: certified.check_certificate() and certified.read_shown() != first, 40, "it is not renewed", 1)
    assert "A new certificate is needed: the present one ends in 0.0 days." in certified.read_journal()
    assert {certified.read_shown(SMTP), certified.read_shown(SUBMISSIONS)} == {certified.read_shown()}
    assert read_certificate(certified.read_shown()).public_key == read_certificate(first).public_key
    assert {tlsa_of(certified.read_shown())} == certified.tlsa_values()
    assert certified.count_reloads() == [count + 1 for count in reloads]


def test_a_name_without_a_certificate_does_not_cost_the_host_its_own(certified: CertifiedServer) -> None:
    server, tls_key = certified.site.server, certified.site.secrets.tls
    config = server.run(f"cat {certificates.CONFIG}").stdout
    certified.start_authority()
    server.write(certificates.CONFIG, json.dumps(json.loads(config) | {"names": [HOST, OTHER]}))
    server.write(certificates.PEM, tls_key.key + tls_key.certificate, 0o600)  # as on a new server
    assert certified.check_certificate() == "failed"
    assert read_certificate(certified.read_shown()).names == {HOST}
    assert f"There is no new certificate for {HOST}, {OTHER}: " in certified.read_trouble()
    server.write(certificates.CONFIG, config)
    assert certified.check_certificate() == "inactive"
    assert certified.read_trouble() == ""


def test_names_served_over_https_are_in_the_certificate_which_the_web_server_shows_too(
    certified: CertifiedServer,
) -> None:
    before = certified.site.settings_file.read_text()
    certified.site.settings_file.write_text(f"{before}dns: {{mta_sts: testing}}\n")
    certified.publish()
    certified.deploy_site()
    certified.wait_for_certificate(
        lambda certificate: (
            certificate.names == {HOST, *(f"mta-sts.{domain}" for domain in certified.site.settings.domains)}
        )
    )
    poll(
        lambda: certified.read_shown_over_https(OTHER) == certified.read_shown(),
        10,
        "the web server shows another certificate",
    )
    certified.site.settings_file.write_text(before)
    certified.publish()
    certified.deploy_site()


# --- by the DNS


@pytest.fixture(scope="module")
def by_dns(certified: CertifiedServer) -> CertifiedServer:
    """The server proves that it owns its names by records in a zone that accepts updates (RFC 2136)."""
    certified.start_authority()
    certified.internet.publish(f"_acme-challenge.{HOST}. CNAME _acme-challenge.dynamic.test.\n", name="challenge")
    certified.declare_acme(challenge="dns-01", provider="rfc2136")
    credentials = {"NAMESERVER": certified.internet.ip, "TSIG_KEY": "dynamic.", "TSIG_ALGORITHM": "hmac-sha256."}
    lines = [f"RFC2136_{name}={value}\n" for name, value in {**credentials, "TSIG_SECRET": TSIG_SECRET}.items()]
    save_dns_credentials(certified.site.inventory, "".join(lines))
    return certified


def test_a_new_tls_key_is_shown_once_its_record_is_published_and_gets_its_certificate_by_dns_01(
    by_dns: CertifiedServer,
) -> None:
    site, moment = by_dns.site, datetime.now(UTC) + timedelta(days=1)

    def take_step(later: timedelta = timedelta()) -> str:
        def find_unpublished(record: Record) -> tuple[list[str], int]:
            return tls_rotation.find_unpublished(record, client.make_resolver(by_dns.internet.resolver))

        read_served = tls_rotation.read_served_records
        rotation = tls_rotation.TlsRotation(
            site.settings, site.inventory, moment + later, find_unpublished, read_served, start_now=True
        )
        return "\n".join(rotation.take_step())

    [old] = by_dns.tlsa_values()
    take_step()
    [new] = by_dns.tlsa_values() - {old}
    assert "is not published yet: the resolver does not have it; ns.outside.test does not have it" in take_step()
    by_dns.publish()
    assert "Both records are published" in take_step()
    assert "Resolvers may still keep an older answer" in take_step()
    assert "The new key is now the current one" in take_step(timedelta(hours=2))
    assert "the server still shows another key" in take_step()
    by_dns.deploy_site()
    poll(lambda: by_dns.check_certificate() == "inactive", 60, "there is no certificate by DNS-01")
    poll(lambda: {tlsa_of(by_dns.read_shown(port)) for port in (SMTP, IMAPS)} == {new}, 10, "another key is shown")
    assert not read_certificate(by_dns.read_shown()).self_signed
    assert by_dns.find_problems("TLSA") == []
    assert old in take_step()
    assert by_dns.tlsa_values() == {new}
    by_dns.deploy_site()


def test_by_dns_01_port_80_stays_closed_and_the_providers_secret_out_of_the_journal(by_dns: CertifiedServer) -> None:
    with pytest.raises(TimeoutError):
        socket.create_connection((str(by_dns.site.server.ip), 80), 1)
    assert TSIG_SECRET not in by_dns.site.server.run("journalctl --output=cat").stdout
    assert by_dns.deploy_site() == []


def test_a_provider_that_lego_does_not_know_is_refused_before_anything_changes(certified: CertifiedServer) -> None:
    before = certified.site.settings_file.read_text()
    certified.declare_acme(challenge="dns-01", provider="nonesuch")
    result = certified.site.deploy()
    assert result.code == 1
    assert '"nonesuch" is not yet supported' in result.output
    certified.site.settings_file.write_text(before)
    assert certified.deploy_site() == []


def test_a_rebuilt_machine_shows_the_same_key(certified: CertifiedServer) -> None:
    before = certified.tlsa_values()
    certified.internet.run("systemctl stop authority")
    gone = f"/etc/mailkeep/tls {certificates.STATE} /var/lib/private/mailkeep-acme"
    certified.site.server.run(f"systemctl stop postfix dovecot mailkeep-certificate.timer; rm -r {gone}")
    certified.deploy_site()
    assert {tlsa_of(certified.read_shown(port)) for port in (SMTP, IMAPS)} == before == certified.tlsa_values()
    assert read_certificate(certified.read_shown()).self_signed


def test_after_a_change_to_self_signed_nothing_of_acme_is_left(certified: CertifiedServer) -> None:
    """Comes last: from here on this module's server has a self-signed certificate."""
    units = (certificates.ORDER, certificates.SERVICE, certificates.TIMER)
    spoil = f"echo nonsense > {certificates.CONFIG}; ! systemctl start {certificates.SERVICE}"
    certified.site.server.run(f"{spoil}; systemctl is-failed {certificates.SERVICE}")
    settings = yaml.safe_load(certified.site.settings_file.read_text()) | {"tls": {"mode": "self-signed"}}
    certified.site.settings_file.write_text(yaml.safe_dump(settings))
    secrets.create_missing_keys(certified.site.settings, certified.site.inventory, date.today())
    certified.deploy_site()
    left = "ls /etc/systemd/system /etc/systemd/system/timers.target.wants | grep -E 'mailkeep-(acme|certificate)'"
    assert certified.site.server.run(left, check=False).stdout == ""
    active = certified.site.server.run(f"systemctl is-active {' '.join(units)}", check=False).stdout
    assert active.split() == ["inactive"] * len(units), "and none has failed"
    assert certified.deploy_site() == []
    assert read_certificate(certified.read_shown()).self_signed
