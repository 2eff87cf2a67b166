"""The server's DNS records, as the internet sees them.

A real name server loads them, and other people's software judges them. The live check reports each record that is
wrong.
"""

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import dkim
import pytest
from clients import SMTP, SUBMISSIONS, compose_message, deliver_message, is_accepted, run_on
from slow_resolver import slow_resolver

from mailkeep.dns import blocklists, client, formats, judge, mta_sts, observe, records
from mailkeep.dns.blocklists import Blocklist
from mailkeep.dns.client import Question
from mailkeep.dns.findings import Finding
from mailkeep.dns.records import Record
from mailkeep.inventory import secrets
from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem
from mailkeep.inventory.vault_entries import DkimEntry
from mailkeep.lab import Attacker, Internet, poll
from mailkeep.lab.site import Site
from mailkeep.operate import dkim_rotation
from mailkeep.parts import dns_watch, opendkim
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import Dns, Web

ANNA, STRICT = "anna@example.test", "strict@outside.test"
HOST = "mail.example.test"
KEY = generate_dkim_pem()  # of the spoofer's domain


@dataclass(frozen=True)
class World:
    """The built server with its records published, and the internet."""

    site: Site
    internet: Internet

    def zone_records(self) -> list[Record]:
        return records.own_zone_records(self.site.settings, self.site.secrets)

    def check_dns(self, **dns: str) -> list[Finding]:
        """The findings of the live check; `dns` are settings that replace the site's."""
        settings = self.settings_with(**dns)
        observation = observe.observe_server(settings, self.site.secrets, client.make_resolver(self.internet.resolver))
        return judge.judge_observation(settings, self.site.secrets, observation)

    def settings_with(self, **dns: str) -> Settings:
        no_pages = Web(mta_sts=False)
        return self.site.settings.model_copy(update={"dns": Dns.model_validate(dns), "web": no_pages})

    def publish(self, zone: str) -> None:
        self.internet.publish(zone)


@pytest.fixture(scope="module")
def module_world(built_site: Site, internet: Internet) -> Iterator[World]:
    yield World(built_site, internet)
    built_site.publish(internet)
    internet.publish("", name="evil")


@pytest.fixture
def world(module_world: World) -> World:
    module_world.site.publish(module_world.internet)
    return module_world


def zone_text(zone_records: list[Record]) -> str:
    return formats.format_zone_file(zone_records)


# --- the zone


def test_bind_loads_the_zone_that_is_printed(world: World) -> None:
    for domain in ("example.test", "example-two.test"):
        domain_records = [record for record in world.zone_records() if f".{record.name}".endswith(f".{domain}")]
        head = "@ 60 SOA ns.outside.test. hostmaster.outside.test. 1 3600 600 86400 60\n@ 60 NS ns.outside.test.\n"
        output = world.internet.run(
            f"named-checkzone -i local {domain} /dev/stdin", stdin=head + zone_text(domain_records)
        ).stdout
        assert output.endswith("OK\n"), output
        assert "ignoring" not in output


def test_the_check_finds_nothing_wrong_with_the_zone_that_is_printed(world: World) -> None:
    assert world.check_dns() == []


def test_a_record_that_a_former_provider_left_is_reported(world: World) -> None:
    zone = zone_text([*world.zone_records(), *records.reverse_records(world.site.settings)])
    world.publish(f'{zone}_mta-sts.example.test. TXT "v=STSv1; id=20200101;"\n')
    [finding] = world.check_dns()
    assert (finding.level, finding.name) == ("error", "_mta-sts.example.test")


def changed_values(record: Record) -> list[str]:
    if record.type == "TXT":
        others = {"v=spf1": "v=spf1 ip4:192.0.2.99 +all", "v=DMARC1; p": "v=DMARC1; p=none"}
        return [
            next((other for start, other in others.items() if record.value.startswith(start)), record.value.swapcase())
        ]
    others = {"A": "192.0.2.99", "AAAA": "2001:db8:ffff::99", "MX": "5 mx.outside.test.", "PTR": "mx.outside.test"}
    return [others.get(record.type, record.value.replace("1", "2", 1))]


MUTATIONS = {
    "changed": changed_values,
    "dropped": lambda _record: [],
    "doubled": lambda record: [
        record.value,
        *(changed_values(record) if record.type != "TXT" else [f"{record.value} "]),
    ],
    "cut off": lambda record: [record.value[: len(record.value) * 2 // 3]] if record.type == "TXT" else [],
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_record_of_a_zone_gone_wrong_is_reported_by_name(world: World, mutation: str) -> None:
    published = [*world.zone_records(), *records.reverse_records(world.site.settings)]
    wrong = [
        Record(record.need, record.name, record.type, value, record.reason, record.source)
        for record in published
        for value in MUTATIONS[mutation](record)
    ]
    world.publish(zone_text(wrong))
    reported = {(finding.name, finding.type) for finding in world.check_dns()}
    assert {(record.name, record.type) for record in published} - reported == set()


def test_an_invalid_dnssec_signature_is_distinguished_from_a_failing_server(world: World) -> None:
    async def ask_for(name: str) -> client.Answer:
        dns_client = client.Client(client.make_resolver(world.internet.resolver))
        question = Question(name, "MX")
        return (await dns_client.ask_resolver([question]))[question]

    assert asyncio.run(ask_for("bogus.test")).error == "its DNSSEC signatures do not validate"
    assert asyncio.run(ask_for("example.test")).authentic


def test_spf_is_evaluated_with_its_includes_and_redirects(world: World) -> None:
    def find_problems(spf: str, more_records: str = "") -> str:
        rest = [
            record for record in world.zone_records() if (record.name, record.value[:6]) != ("example.test", "v=spf1")
        ]
        world.publish(
            zone_text([*rest, *records.reverse_records(world.site.settings)])
            + f'example.test. TXT "{spf}"\n{more_records}'
        )
        return " ".join(finding.problem for finding in world.check_dns())

    ours = " ".join(f"ip{address.version}:{address}" for address in world.site.settings.host.addresses)
    chain = "".join(
        f'_{number}.example.test. TXT "v=spf1 include:_{number + 1}.example.test -all"\n' for number in range(11)
    )
    assert (
        find_problems("v=spf1 include:_ours.example.test -all", f'_ours.example.test. TXT "v=spf1 {ours} -all"') == ""
    )
    assert find_problems("v=spf1 redirect=_ours.example.test", f'_ours.example.test. TXT "v=spf1 {ours} -all"') == ""
    assert "may send too" in find_problems(f"v=spf1 {ours} include:outside.test -all")
    assert "other servers ignore it" in find_problems(f"v=spf1 {ours} include:_0.example.test -all", chain)
    assert "other servers ignore it" in find_problems(f"v=spf1 {ours} include:nothing.example.test -all")


def test_the_check_of_twelve_domains_takes_no_longer_than_its_slowest_lookups(world: World) -> None:
    settings = Settings.model_validate(
        {
            "host": {"name": HOST, "addresses": [world.site.server.ip, world.site.server.ip6]},
            "domains": ["example.test", *(f"example-{n}.test" for n in range(11))],
            "admin": {"addresses": ["you@outside.test"]},
        }
    )
    keys = secrets.Secrets(
        tuple(DkimKey(name, "s20261123", KEY) for name in (*settings.domains, HOST)), world.site.secrets.tls, None
    )
    published = [*records.own_zone_records(settings, keys), *records.reverse_records(settings)]
    world.publish(zone_text(published))
    with slow_resolver(world.internet.resolver, 0.2) as (resolver, questions):
        start = time.monotonic()
        observation = observe.observe_server(settings, keys, client.make_resolver(resolver))
        seconds = time.monotonic() - start
    assert judge.judge_observation(settings, keys, observation) == []
    assert len(published) > 100
    # The check finds the name servers in three steps: the zone, its servers, their addresses.
    assert seconds < 0.1 * 0.2 * len(questions)
    print(f"{len(published)} records of 12 domains, {len(questions)} questions of 200 ms each: {seconds:.1f} s")


# --- a receiving server that checks


def test_our_mail_passes_spf_dkim_and_dmarc(world: World) -> None:
    world.internet.clear_messages()
    login = ANNA, world.site.passphrases[ANNA]
    data = compose_message(ANNA, STRICT, "ours")
    assert is_accepted(deliver_message(str(world.site.server.ip), SUBMISSIONS, ANNA, [STRICT], data, login=login))
    received = world.internet.wait_for(lambda mail: mail.message["Subject"] == "ours")
    assert {received.results[name] for name in ("spf", "dkim", "dmarc")} == {"pass"}
    world.site.server.run(f"sendmail {STRICT}", stdin="Subject: of the host\n\nHello.\n")
    received = world.internet.wait_for(lambda mail: mail.message["Subject"] == "of the host")
    assert {received.results[name] for name in ("spf", "dkim", "dmarc")} == {"pass"}


@dataclass(frozen=True)
class Spoof:
    """A message that a spoofer sends: the envelope sender, the data, and the name in HELO."""

    sender: str
    data: str
    helo: str = "mx.evil.test"


def spoofer_zone(attacker: Attacker) -> str:
    """The spoofer's domain, whose SPF, DKIM and MX records are valid."""
    key = DkimKey("evil.test", "s1", KEY).public
    record = Record("required", "s1._domainkey.evil.test", "TXT", f"v=DKIM1; p={key}", "", "")
    return f"""\
evil.test. TXT "v=spf1 ip4:{attacker.ip} -all"
evil.test. MX 10 mx.evil.test.
mx.evil.test. A {attacker.ip}
mx.evil.test. TXT "v=spf1 ip4:{attacker.ip} -all"
{zone_text([record])}"""


def sign_as(data: str, domain: str) -> str:
    signature = dkim.sign(data.encode(), b"s1", domain.encode(), KEY, include_headers=[b"From", b"Subject"])
    return signature.decode() + data


def spoofed_message(author: str, *headers: str) -> str:
    return compose_message(author, STRICT, "spoofed", *headers)


SPOOFS = {
    "an account in both From": Spoof(ANNA, spoofed_message(ANNA)),
    "an account in the From: line, the envelope in order": Spoof("me@evil.test", spoofed_message(ANNA)),
    "the same, with the spoofer's own signature": Spoof("me@evil.test", sign_as(spoofed_message(ANNA), "evil.test")),
    "a signature that says it is ours": Spoof("me@evil.test", sign_as(spoofed_message(ANNA), "example.test")),
    "the host itself, as in incident A": Spoof(f"test@{HOST}", spoofed_message(f"test@{HOST}")),
    "a subdomain that does not exist": Spoof("me@evil.test", spoofed_message("news@letter.example.test")),
    "a subdomain of the host": Spoof("me@evil.test", spoofed_message(f"root@www.{HOST}")),
    "the other mail domain": Spoof("me@evil.test", spoofed_message("ben@example-two.test")),
    "a bounce with our name in HELO": Spoof("", spoofed_message(f"MAILER-DAEMON@{HOST}"), HOST),
    "capital letters": Spoof("me@evil.test", spoofed_message("Anna <ANNA@EXAMPLE.TEST>")),
}


@pytest.fixture
def spoofer(world: World, attacker: Attacker) -> Attacker:
    world.internet.publish(spoofer_zone(attacker), name="evil")
    return attacker


def send_spoof(world: World, spoofer: Attacker, spoof: Spoof) -> str:
    return run_on(
        spoofer, deliver_message, str(world.internet.ip), SMTP, spoof.sender, [STRICT], spoof.data, helo=spoof.helo
    )


@pytest.mark.parametrize("name", SPOOFS)
def test_a_spoof_is_refused(world: World, spoofer: Attacker, name: str) -> None:
    assert send_spoof(world, spoofer, SPOOFS[name]).startswith("550 5.7.26 ")


def test_our_own_message_that_was_altered_is_refused(world: World, spoofer: Attacker) -> None:
    world.internet.clear_messages()
    login = ANNA, world.site.passphrases[ANNA]
    deliver_message(
        str(world.site.server.ip), SUBMISSIONS, ANNA, [STRICT], compose_message(ANNA, STRICT, "taken"), login=login
    )
    data = world.internet.wait_for(lambda mail: mail.message["Subject"] == "taken").data.decode()
    assert is_accepted(send_spoof(world, spoofer, Spoof("me@evil.test", data)))  # a forward: the signature still holds
    altered = data.replace("Hello.", "Send money.")
    assert send_spoof(world, spoofer, Spoof("me@evil.test", altered)).startswith("550 5.7.26 ")


def test_without_dmarc_spoofs_pass(world: World, spoofer: Attacker) -> None:
    world.publish(zone_text([record for record in world.zone_records() if not record.name.startswith("_dmarc.")]))
    passed = [name for name, spoof in SPOOFS.items() if is_accepted(send_spoof(world, spoofer, spoof))]
    assert len(passed) == len(SPOOFS)


# --- TLS


def test_an_independent_client_verifies_the_server_by_dane(world: World) -> None:
    def run_posttls_finger() -> str:
        return world.internet.run(f"posttls-finger -t 10 -c -l dane-only '[{HOST}]'", check=False).stdout

    assert "Verified TLS connection established" in run_posttls_finger()
    without_tlsa = [record for record in world.zone_records() if record.type != "TLSA"]
    world.publish(zone_text(without_tlsa) + f"_25._tcp.{HOST}. TLSA 3 1 1 {'0' * 64}\n")
    assert "Verified" not in run_posttls_finger()
    assert any(finding.type == "TLSA" for finding in world.check_dns())


SERVE = """\
import http.server, ssl, sys
class Policy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(open("/root/policy", "rb").read())
server = http.server.ThreadingHTTPServer(("", 443), Policy)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/root/web.pem", "/root/web.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture
def policy_server(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the policy that a web server on the internet serves for both domains, with a trusted certificate."""
    names = ",".join(f"DNS:mta-sts.{domain}" for domain in world.site.settings.domains)
    world.internet.write("/root/serve.py", SERVE)
    world.internet.run(f"""cd /root
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout web.key -out web.pem -days 30 \\
  -subj /CN=web -addext subjectAltName={names} 2>&1
install -m 644 web.pem /usr/local/share/ca-certificates/web.crt
update-ca-certificates
systemd-run --unit=web --collect python3 /root/serve.py""")
    trusted = tmp_path / "web.pem"
    trusted.write_text(world.internet.run("cat /root/web.pem").stdout)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    yield lambda policy: world.internet.write("/root/policy", policy)
    world.internet.run(
        "systemctl stop web; rm /usr/local/share/ca-certificates/web.crt; update-ca-certificates --fresh"
    )


def test_an_mta_sts_policy_elsewhere_is_found_by_us_and_by_an_independent_client(
    world: World, policy_server: Callable[[str], None]
) -> None:
    settings = world.settings_with(mta_sts="testing")
    published = [*records.own_zone_records(settings, world.site.secrets), *records.reverse_records(settings)]
    addresses = "".join(f"mta-sts.{domain}. A {world.internet.ip}\n" for domain in settings.domains)
    world.publish(zone_text(published) + addresses)
    policy_server(mta_sts.policy_text(settings))
    poll(lambda: not world.check_dns(mta_sts="testing"), 10, "the policy is not good")
    output = world.internet.run("mta-sts-query example.test").stdout
    assert "VALID" in output
    assert f"'{HOST}'" in output

    policy_server(mta_sts.policy_text(settings).replace("mail.", "mx."))
    reported = {finding.name for finding in world.check_dns(mta_sts="testing")}
    assert reported == {f"mta-sts.{domain}" for domain in settings.domains}
    enforced = world.check_dns(mta_sts="enforce")
    assert any("do not deliver here" in finding.problem for finding in enforced)  # its certificate is self-signed


# --- new keys


def test_a_new_dkim_key_signs_only_once_its_record_is_published_whole(world: World, tmp_path: Path) -> None:
    inventory = Path(shutil.copytree(world.site.inventory, tmp_path / "inventory"))
    settings, tomorrow = world.site.settings, date.today() + timedelta(days=1)
    selector = f"s{tomorrow:%Y%m%d}"

    def find_unpublished(keys: list[DkimKey]) -> dict[DkimKey, str]:
        return dkim_rotation.find_unpublished(keys, client.make_resolver(world.internet.resolver))

    def take_step() -> str:
        rotation = dkim_rotation.DkimRotation(
            settings, inventory, tomorrow, find_unpublished, signing_since, start_now=True
        )
        return "\n".join(rotation.take_step())

    def signing_since(_keys: list[DkimEntry]) -> dict[DkimEntry, date]:
        return {}

    def signing_selectors() -> set[str]:
        return {key.selector for key in secrets.load_secrets(settings, inventory).dkim}

    take_step()
    assert f"{selector}._domainkey.example.test is not published yet: the record is missing" in take_step()
    zone_records = records.own_zone_records(settings, secrets.load_secrets(settings, inventory))
    truncated = [
        replace(record, value=record.value[:300]) if record.name.startswith(selector) else record
        for record in zone_records
    ]
    world.publish(zone_text(truncated))
    assert "the key is cut off" in take_step()
    assert selector not in signing_selectors()
    world.publish(zone_text(zone_records))
    assert f"{selector} replaces" in take_step()
    assert signing_selectors() == {selector}


def test_a_server_signs_with_a_key_only_once_its_signer_has_loaded_it(world: World) -> None:
    site = world.site
    [present] = [DkimEntry(key.domain, key.selector) for key in site.secrets.dkim if key.domain == "example.test"]
    file = opendkim.key_path(present.domain, present.selector)
    modified = site.server.run(f"stat --format %Y {file}").stdout.strip()

    def signing_since() -> dict[DkimEntry, date]:
        return dkim_rotation.find_signing_since([present, DkimEntry("example.test", "s20990101")], site.inventory)

    assert signing_since() == {present: date.fromtimestamp(int(modified))}
    site.server.run(f"touch --date '1 hour' {file}")
    assert signing_since() == {}
    # OpenDKIM reads it again: verify warns of files that were touched since they were read.
    site.server.run(f"touch --date @{modified} {file}; systemctl restart opendkim")


# --- the server's daily check


# reset-failed, because systemd limits the number of restarts.
RESTART = "systemctl reset-failed unbound mailkeep-dns; systemctl restart unbound"
SILENCE = "/etc/unbound/unbound.conf.d/silence.conf"


@contextlib.contextmanager
def silence_resolver(world: World) -> Iterator[None]:
    """A context in which the server's resolver refuses all questions about both domains."""
    zones = "".join(f'  local-zone: "{domain}." refuse\n' for domain in world.site.settings.domains)
    world.site.server.write(SILENCE, f"server:\n{zones}")
    try:
        yield
    finally:
        world.site.server.run(f"rm {SILENCE}; {RESTART}")


def test_the_daily_check_reports_a_changed_record_and_a_blocklists_entry(world: World) -> None:
    site = world.site
    zone = zone_text([*records.own_zone_records(site.settings, site.secrets), *records.reverse_records(site.settings)])
    entry = blocklists.entry_name(blocklists.LISTS[0], str(site.settings.host.addresses[0]))
    test = blocklists.entry_name(blocklists.LISTS[0], "127.0.0.2")

    def publish_and_check(zone_file: str) -> dict[str, str]:
        world.publish(zone_file)
        return check_dns()

    def check_dns() -> dict[str, str]:
        site.server.run(f"{RESTART}; systemctl start mailkeep-dns.service")
        return dict(json.loads(site.server.run(f"cat {dns_watch.TROUBLES}").stdout)["troubles"])

    site.server.run("systemctl clean --what=state mailkeep-dns.service")
    assert publish_and_check(zone) == {}
    mx = zone.replace("MX 10 mail.example.test.", "MX 10 mx.outside.test.", 1)
    assert list(publish_and_check(mx)) == ["example.test MX"]
    with silence_resolver(world):
        assert list(check_dns()) == ["example.test MX"]  # a single failure may be the network's
        troubles = check_dns()
    assert "now it is 10 mx.outside.test." in troubles["example.test MX"]
    assert "no answer, twice in a row" in troubles["example-two.test MX"]
    listing = f"{entry}. A 127.0.0.4\n"
    assert publish_and_check(f"{zone}{listing}") == {}  # a list without its test entry is dead
    [trouble] = publish_and_check(f"{zone}{listing}{test}. A 127.0.0.2\n").values()
    assert trouble.startswith(f"zen.spamhaus.org lists {site.settings.host.addresses[0]} (127.0.0.4)")
    assert publish_and_check(zone) == {}
    assert list(publish_and_check(mx)) == ["example.test MX"]
    site.server.run("systemctl clean --what=state mailkeep-dns.service")
    assert publish_and_check(mx) == {}  # as if the record were so at the deploy
    site.server.run("systemctl clean --what=state mailkeep-dns.service")


# --- blocklists


def test_a_listing_is_distinguished_from_a_refusal_and_from_a_dead_list(world: World) -> None:
    ip = world.site.server.ip.reverse_pointer.removesuffix(".in-addr.arpa")
    world.publish(f"""\
2.0.0.127.good.test. A 127.0.0.2
{ip}.good.test. A 127.0.0.4
{ip}.good.test. TXT "caught in a trap"
2.0.0.127.quiet.test. A 127.0.0.2
2.0.0.127.refuses.test. A 127.0.0.2
{ip}.refuses.test. A 127.255.255.254
*.everything.test. A 127.0.0.2
*.sold.test. A 192.0.2.80
2.0.0.127.white.test. A 127.0.10.0
{ip}.white.test. A 127.0.10.3
test.names.test. A 127.0.0.2
example.test.names.test. A 127.0.0.2
""")
    zones = ("good", "quiet", "refuses", "everything", "sold", "silent")
    lists = (
        *(Blocklist(f"{zone}.test", "addresses", "ask them") for zone in zones),
        Blocklist("white.test", "addresses", "", is_allowlist=True),
        Blocklist("names.test", "domains", "ask them", "test"),
    )
    entries = blocklists.query_blocklists(world.site.settings, client.make_resolver(world.internet.resolver), lists)
    states = {(entry.list.removesuffix(".test"), entry.subject): entry.state for entry in entries}
    address = str(world.site.server.ip)
    expected = ("listed", "clear", "refused", "gone", "gone", "gone")
    assert states == {
        **{(zone, address): state for zone, state in zip(zones, expected, strict=True)},
        ("white", address): "trusted",
        ("names", "example.test"): "listed",
        ("names", "example-two.test"): "clear",
        ("names", HOST): "clear",
    }
    [listing] = [entry for entry in entries if entry.list == "good.test"]
    assert (listing.answer, listing.delisting) == ("127.0.0.4 caught in a trap", "ask them")
