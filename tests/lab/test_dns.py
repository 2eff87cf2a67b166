"""What the world sees of a server: its records, loaded by a real name server and judged by others' software; and that
the live check tells when they are not as they should be."""

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
KEY = generate_dkim_pem()  # of a domain that is not ours


@dataclass(frozen=True)
class World:
    """The built server with its records published, and the outside world."""

    site: Site
    internet: Internet

    def wanted(self) -> list[Record]:
        return records.own_zone_records(self.site.settings, self.site.secrets)

    def findings(self, **dns: str) -> list[Finding]:
        """Of the live check; `dns` are settings beside the site's."""
        declared = self.declared(**dns)
        seen = observe.observe_server(declared, self.site.secrets, client.make_resolver(self.internet.resolver))
        return judge.judge_observation(declared, self.site.secrets, seen)

    def declared(self, **dns: str) -> Settings:
        elsewhere = Web(mta_sts=False)
        return self.site.settings.model_copy(update={"dns": Dns.model_validate(dns), "web": elsewhere})

    def publish(self, zone: str) -> None:
        self.internet.publish(zone)


@pytest.fixture(scope="module")
def published(built_site: Site, internet: Internet) -> Iterator[World]:
    yield World(built_site, internet)
    built_site.publish(internet)


@pytest.fixture
def world(published: World) -> World:
    published.site.publish(published.internet)
    return published


def text(listed: list[Record]) -> str:
    return formats.format_zone_file(listed)


# --- the zone


def test_bind_loads_the_zone_that_is_printed(world: World) -> None:
    for domain in ("example.test", "example-two.test"):
        ours = [record for record in world.wanted() if f".{record.name}".endswith(f".{domain}")]
        head = "@ 60 SOA ns.outside.test. hostmaster.outside.test. 1 3600 600 86400 60\n@ 60 NS ns.outside.test.\n"
        said = world.internet.run(f"named-checkzone -i local {domain} /dev/stdin", stdin=head + text(ours)).stdout
        assert said.endswith("OK\n"), said
        assert "ignoring" not in said


def test_the_check_finds_nothing_wrong_with_it(world: World) -> None:
    assert world.findings() == []


def test_what_a_former_provider_left_is_seen(world: World) -> None:
    listed = text([*world.wanted(), *records.reverse_records(world.site.settings)])
    world.publish(f'{listed}_mta-sts.example.test. TXT "v=STSv1; id=20200101;"\n')
    [finding] = world.findings()
    assert (finding.level, finding.name) == ("error", "_mta-sts.example.test")


def changed(record: Record) -> list[str]:
    if record.type == "TXT":
        others = {"v=spf1": "v=spf1 ip4:192.0.2.99 +all", "v=DMARC1; p": "v=DMARC1; p=none"}
        return [next((o for start, o in others.items() if record.value.startswith(start)), record.value.swapcase())]
    others = {"A": "192.0.2.99", "AAAA": "2001:db8:ffff::99", "MX": "5 mx.outside.test.", "PTR": "mx.outside.test"}
    return [others.get(record.type, record.value.replace("1", "2", 1))]


MUTATIONS = {
    "changed": changed,
    "dropped": lambda _record: [],
    "doubled": lambda record: [record.value, *(changed(record) if record.type != "TXT" else [f"{record.value} "])],
    "cut off": lambda record: [record.value[: len(record.value) * 2 // 3]] if record.type == "TXT" else [],
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_record_of_a_zone_gone_wrong_is_reported_by_name(world: World, mutation: str) -> None:
    listed = [*world.wanted(), *records.reverse_records(world.site.settings)]
    wrong = [
        Record(one.need, one.name, one.type, value, one.reason, one.source)
        for one in listed
        for value in MUTATIONS[mutation](one)
    ]
    world.publish(text(wrong))
    found = {(finding.name, finding.type) for finding in world.findings()}
    assert {(one.name, one.type) for one in listed} - found == set()


def test_a_signature_that_does_not_validate_is_told_from_a_server_that_fails(world: World) -> None:
    async def ask_for(name: str) -> client.Answer:
        dns_client = client.Client(client.make_resolver(world.internet.resolver))
        question = Question(name, "MX")
        return (await dns_client.ask_resolver([question]))[question]

    assert asyncio.run(ask_for("bogus.test")).error == "its DNSSEC signatures do not validate"
    assert asyncio.run(ask_for("example.test")).authentic


def test_spf_is_evaluated_with_all_that_it_includes(world: World) -> None:
    def found(spf: str, more: str = "") -> str:
        rest = [one for one in world.wanted() if (one.name, one.value[:6]) != ("example.test", "v=spf1")]
        world.publish(
            text([*rest, *records.reverse_records(world.site.settings)]) + f'example.test. TXT "{spf}"\n{more}'
        )
        return " ".join(finding.problem for finding in world.findings())

    ours = " ".join(f"ip{address.version}:{address}" for address in world.site.settings.host.addresses)
    chain = "".join(f'_{n}.example.test. TXT "v=spf1 include:_{n + 1}.example.test -all"\n' for n in range(11))
    assert found("v=spf1 include:_ours.example.test -all", f'_ours.example.test. TXT "v=spf1 {ours} -all"') == ""
    assert found("v=spf1 redirect=_ours.example.test", f'_ours.example.test. TXT "v=spf1 {ours} -all"') == ""
    assert "may send too" in found(f"v=spf1 {ours} include:outside.test -all")
    assert "other servers ignore it" in found(f"v=spf1 {ours} include:_0.example.test -all", chain)
    assert "other servers ignore it" in found(f"v=spf1 {ours} include:nothing.example.test -all")


def test_the_check_of_twelve_domains_takes_as_long_as_its_slowest_look_up(world: World) -> None:
    many = Settings.model_validate(
        {
            "host": {"name": HOST, "addresses": [world.site.server.ip, world.site.server.ip6]},
            "domains": ["example.test", *(f"example-{n}.test" for n in range(11))],
            "admin": {"addresses": ["you@outside.test"]},
        }
    )
    keys = secrets.Secrets(
        tuple(DkimKey(name, "s20261123", KEY) for name in (*many.domains, HOST)), world.site.secrets.tls, None
    )
    listed = [*records.own_zone_records(many, keys), *records.reverse_records(many)]
    world.publish(text(listed))
    with slow_resolver(world.internet.resolver, 0.2) as (resolver, asked):
        start = time.monotonic()
        seen = observe.observe_server(many, keys, client.make_resolver(resolver))
        took = time.monotonic() - start
    assert judge.judge_observation(many, keys, seen) == []
    assert len(listed) > 100
    # The servers are found in three steps: zone, its servers, their addresses.
    assert took < 0.1 * 0.2 * len(asked)
    print(f"{len(listed)} records of 12 domains, {len(asked)} questions of 200 ms each: {took:.1f} s")


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
    """What somebody elsewhere sends: the envelope sender, the message, and the name in HELO."""

    sender: str
    data: str
    helo: str = "mx.evil.test"


def evil(attacker: Attacker) -> str:
    """A domain of the spoofer's own, all in order."""
    key = DkimKey("evil.test", "s1", KEY).public
    record = Record("required", "s1._domainkey.evil.test", "TXT", f"v=DKIM1; p={key}", "", "")
    return f"""\
evil.test. TXT "v=spf1 ip4:{attacker.ip} -all"
evil.test. MX 10 mx.evil.test.
mx.evil.test. A {attacker.ip}
mx.evil.test. TXT "v=spf1 ip4:{attacker.ip} -all"
{text([record])}"""


def signed(data: str, domain: str) -> str:
    signature = dkim.sign(data.encode(), b"s1", domain.encode(), KEY, include_headers=[b"From", b"Subject"])
    return signature.decode() + data


def from_(author: str, *headers: str) -> str:
    return compose_message(author, STRICT, "spoofed", *headers)


SPOOFS = {
    "an account in both From": Spoof(ANNA, from_(ANNA)),
    "an account in the From: line, the envelope in order": Spoof("me@evil.test", from_(ANNA)),
    "the same, with the spoofer's own signature": Spoof("me@evil.test", signed(from_(ANNA), "evil.test")),
    "a signature that says it is ours": Spoof("me@evil.test", signed(from_(ANNA), "example.test")),
    "the host itself, as in incident A": Spoof(f"test@{HOST}", from_(f"test@{HOST}")),
    "a subdomain that does not exist": Spoof("me@evil.test", from_("news@letter.example.test")),
    "a subdomain of the host": Spoof("me@evil.test", from_(f"root@www.{HOST}")),
    "the other mail domain": Spoof("me@evil.test", from_("ben@example-two.test")),
    "a bounce with our name in HELO": Spoof("", from_(f"MAILER-DAEMON@{HOST}"), HOST),
    "capital letters": Spoof("me@evil.test", from_("Anna <ANNA@EXAMPLE.TEST>")),
}


@pytest.fixture
def spoofer(world: World, attacker: Attacker) -> Attacker:
    world.internet.publish(evil(attacker), name="evil")
    return attacker


def sent(world: World, spoofer: Attacker, spoof: Spoof) -> str:
    return run_on(
        spoofer, deliver_message, str(world.internet.ip), SMTP, spoof.sender, [STRICT], spoof.data, helo=spoof.helo
    )


@pytest.mark.parametrize("name", SPOOFS)
def test_a_spoof_is_refused(world: World, spoofer: Attacker, name: str) -> None:
    assert sent(world, spoofer, SPOOFS[name]).startswith("550 5.7.26 ")


def test_our_own_message_that_was_altered_is_refused(world: World, spoofer: Attacker) -> None:
    world.internet.clear_messages()
    login = ANNA, world.site.passphrases[ANNA]
    deliver_message(
        str(world.site.server.ip), SUBMISSIONS, ANNA, [STRICT], compose_message(ANNA, STRICT, "taken"), login=login
    )
    data = world.internet.wait_for(lambda mail: mail.message["Subject"] == "taken").data.decode()
    assert is_accepted(sent(world, spoofer, Spoof("me@evil.test", data)))  # a forward: the signature still holds
    altered = data.replace("Hello.", "Send money.")
    assert sent(world, spoofer, Spoof("me@evil.test", altered)).startswith("550 5.7.26 ")


def test_without_dmarc_spoofs_pass(world: World, spoofer: Attacker) -> None:
    world.publish(text([record for record in world.wanted() if not record.name.startswith("_dmarc.")]))
    passed = [name for name, spoof in SPOOFS.items() if is_accepted(sent(world, spoofer, spoof))]
    assert len(passed) == len(SPOOFS)


# --- TLS


def test_an_independent_client_sees_that_dane_holds(world: World) -> None:
    def finger() -> str:
        return world.internet.run(f"posttls-finger -t 10 -c -l dane-only '[{HOST}]'", check=False).stdout

    assert "Verified TLS connection established" in finger()
    wrong = [record for record in world.wanted() if record.type != "TLSA"]
    world.publish(text(wrong) + f"_25._tcp.{HOST}. TLSA 3 1 1 {'0' * 64}\n")
    assert "Verified" not in finger()
    assert any(finding.type == "TLSA" for finding in world.findings())


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
def web(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A web server elsewhere for the policy of both domains, with a certificate that is trusted here and there."""
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
    world: World, web: Callable[[str], None]
) -> None:
    declared = world.declared(mta_sts="testing")
    listed = [*records.own_zone_records(declared, world.site.secrets), *records.reverse_records(declared)]
    addresses = "".join(f"mta-sts.{domain}. A {world.internet.ip}\n" for domain in declared.domains)
    world.publish(text(listed) + addresses)
    web(mta_sts.policy_text(declared))
    poll(lambda: not world.findings(mta_sts="testing"), 10, "the policy is not good")
    said = world.internet.run("mta-sts-query example.test").stdout
    assert "VALID" in said
    assert f"'{HOST}'" in said

    web(mta_sts.policy_text(declared).replace("mail.", "mx."))
    found = {finding.name for finding in world.findings(mta_sts="testing")}
    assert found == {f"mta-sts.{domain}" for domain in declared.domains}
    enforced = world.findings(mta_sts="enforce")
    assert any("do not deliver here" in finding.problem for finding in enforced)  # its certificate is self-signed


# --- new keys


def test_a_new_dkim_key_signs_only_once_the_world_sees_it(world: World, tmp_path: Path) -> None:
    inventory = Path(shutil.copytree(world.site.inventory, tmp_path / "inventory"))
    declared, tomorrow = world.site.settings, date.today() + timedelta(days=1)
    selector = f"s{tomorrow:%Y%m%d}"

    def unseen(keys: list[DkimKey]) -> dict[DkimKey, str]:
        return dkim_rotation.find_unpublished(keys, client.make_resolver(world.internet.resolver))

    def rotate() -> str:
        rotation = dkim_rotation.DkimRotation(declared, inventory, tomorrow, unseen, since, start_now=True)
        return "\n".join(rotation.take_step())

    def since(_keys: list[DkimEntry]) -> dict[DkimEntry, date]:
        return {}

    def signing() -> set[str]:
        return {key.selector for key in secrets.load_secrets(declared, inventory).dkim}

    rotate()
    assert f"{selector}._domainkey.example.test is not published yet: the record is missing" in rotate()
    listed = records.own_zone_records(declared, secrets.load_secrets(declared, inventory))
    cut = [replace(one, value=one.value[:300]) if one.name.startswith(selector) else one for one in listed]
    world.publish(text(cut))
    assert "the key is cut off" in rotate()
    assert selector not in signing()
    world.publish(text(listed))
    assert f"{selector} replaces" in rotate()
    assert signing() == {selector}


def test_a_server_signs_with_a_key_that_it_has_and_that_its_signer_has_loaded(world: World) -> None:
    site = world.site
    [present] = [DkimEntry(key.domain, key.selector) for key in site.secrets.dkim if key.domain == "example.test"]
    file = opendkim.key_path(present.domain, present.selector)
    written = site.server.run(f"stat --format %Y {file}").stdout.strip()

    def since() -> dict[DkimEntry, date]:
        return dkim_rotation.find_signing_since([present, DkimEntry("example.test", "s20990101")], site.inventory)

    assert since() == {present: date.fromtimestamp(int(written))}
    site.server.run(f"touch --date '1 hour' {file}")
    assert since() == {}
    site.server.run(f"touch --date @{written} {file}")


# --- the daily look from the server


RESTART = "systemctl reset-failed unbound mailkeep-dns; systemctl restart unbound"  # as often as one likes
SILENCE = "/etc/unbound/unbound.conf.d/silence.conf"


@contextlib.contextmanager
def nobody_answers(world: World) -> Iterator[None]:
    """The server's resolver fails for both domains."""
    zones = "".join(f'  local-zone: "{domain}." refuse\n' for domain in world.site.settings.domains)
    world.site.server.write(SILENCE, f"server:\n{zones}")
    try:
        yield
    finally:
        world.site.server.run(f"rm {SILENCE}; {RESTART}")


def test_the_server_notices_a_changed_record_and_a_listing_by_itself(world: World) -> None:
    site = world.site
    zone = text([*records.own_zone_records(site.settings, site.secrets), *records.reverse_records(site.settings)])
    entry = blocklists.entry_name(blocklists.LISTS[0], str(site.settings.host.addresses[0]))
    test = blocklists.entry_name(blocklists.LISTS[0], "127.0.0.2")

    def troubles(published: str) -> dict[str, str]:
        world.publish(published)
        return look()

    def look() -> dict[str, str]:
        site.server.run(f"{RESTART}; systemctl start mailkeep-dns.service")
        return dict(json.loads(site.server.run(f"cat {dns_watch.TROUBLES}").stdout)["troubles"])

    site.server.run("systemctl clean --what=state mailkeep-dns.service")
    assert troubles(zone) == {}
    mx = zone.replace("MX 10 mail.example.test.", "MX 10 mx.outside.test.", 1)
    assert list(troubles(mx)) == ["example.test MX"]
    with nobody_answers(world):
        assert list(look()) == ["example.test MX"]  # once may be the network
        silent = look()
    assert "now it is 10 mx.outside.test." in silent["example.test MX"]
    assert "no answer, twice in a row" in silent["example-two.test MX"]
    listing = f"{entry}. A 127.0.0.4\n"
    assert troubles(f"{zone}{listing}") == {}  # a list without its test entry is dead
    [said] = troubles(f"{zone}{listing}{test}. A 127.0.0.2\n").values()
    assert said.startswith(f"zen.spamhaus.org lists {site.settings.host.addresses[0]} (127.0.0.4)")
    assert troubles(zone) == {}
    assert list(troubles(mx)) == ["example.test MX"]
    site.server.run("systemctl clean --what=state mailkeep-dns.service")
    assert troubles(mx) == {}  # as if it had been there at the deploy
    site.server.run("systemctl clean --what=state mailkeep-dns.service")


# --- blocklists


def test_a_listing_is_told_from_a_refusal_and_from_a_list_that_is_dead(world: World) -> None:
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
    found = blocklists.query_blocklists(world.site.settings, client.make_resolver(world.internet.resolver), lists)
    states = {(entry.list.removesuffix(".test"), entry.subject): entry.state for entry in found}
    address = str(world.site.server.ip)
    expected = ("listed", "clear", "refused", "gone", "gone", "gone")
    assert states == {
        **{(zone, address): state for zone, state in zip(zones, expected, strict=True)},
        ("white", address): "trusted",
        ("names", "example.test"): "listed",
        ("names", "example-two.test"): "clear",
        ("names", HOST): "clear",
    }
    [listing] = [entry for entry in found if entry.list == "good.test"]
    assert (listing.answer, listing.delisting) == ("127.0.0.4 caught in a trap", "ask them")
