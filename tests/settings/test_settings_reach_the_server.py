"""Every setting changes the server or its DNS records, in every place where it is used; or its description says that it
does not. A setting that a part ignores fails here, and so does a new setting without an example."""

import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from settings_samples import COMPLETE, COMPLETE_WITH_FILES, HASH

from mailkeep.dns import records
from mailkeep.inventory.backup_keys import BackupKeys
from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem
from mailkeep.inventory.secrets import Secrets
from mailkeep.inventory.tls_certificate import create_self_signed, split_pem
from mailkeep.inventory.tls_keys import TlsPair
from mailkeep.parts import alerts, guard, mail_server, postfix
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import nested_models

ABSENT = object()
WEEKLY = tuple(f"/etc/systemd/system/{name}" for name in alerts.WEEKLY_FILES)
ACME, GUARD, WATCH = (f"/etc/mailkeep/{name}.json" for name in ("acme", "guard", "watch"))
BACKUP, INBOUND = "/etc/mailkeep/backup/config.json", "/etc/mailkeep/inbound.json"
NGINX, SHARED_STORE = "/etc/mailkeep/web/nginx.conf", "/etc/mailkeep/guard-store.json"
MAIN_CF, ALIASES, SENDER_LOGIN, RELAY_PASSWORD = (
    f"/etc/postfix/{name}" for name in ("main.cf", "aliases", "sender_login", "relay_password")
)
OWN_SENDERS = "/etc/postfix/own_senders"
SIEVE = "/etc/dovecot/sieve"
DOVECOT, DOVECOT_USERS, FIREWALL = "/etc/dovecot/dovecot.conf", "/etc/dovecot/users", "/etc/nftables.conf"
JAILS, SSHD = "/etc/fail2ban/jail.d/mailkeep.local", "/etc/ssh/sshd_config.d/10-mailkeep.conf"
TRUSTED_NETWORK_FILES = (JAILS, SSHD, WATCH, MAIN_CF)


@dataclass(frozen=True)
class Example:
    """Another valid `value`, and the `places` that it must change.

    Places are paths of files, `part NAME` for all else of a part, `DNS TYPE` or `DNS v=…` for records. `elsewhere` is
    the part of its description that says that it changes none. `base` is set both before and after the change, `also`
    only with it.
    """

    value: object
    places: tuple[str, ...]
    elsewhere: str = ""
    base: dict[str, object] = field(default_factory=dict)
    also: dict[str, object] = field(default_factory=dict)
    text: str = COMPLETE


def _limit_examples(section: str, values: dict[str, int]) -> dict[str, Example]:
    return {f"{section}.{name}": Example(value, (GUARD,)) for name, value in values.items()}


EXAMPLES: dict[str, Example] = {
    "accepted": Example(["job:/etc/cron.d/backup"], (), elsewhere="It changes nothing on the server"),
    "host.name": Example(
        "mx.example.org",
        (
            *(ACME, GUARD, WATCH, INBOUND, MAIN_CF, ALIASES, "/etc/mailname", "/etc/postfix/own_domains"),
            f"{SIEVE}/junk.sieve",
            *("/etc/mailkeep/web/pages/autoconfig.example.org", "/etc/mailkeep/web/pages/mta-sts.example.org"),
            *("DNS A", "DNS AAAA", "DNS MX", "DNS PTR", "DNS SRV", "DNS TLSA", "DNS CAA"),
        ),
    ),
    "host.addresses": Example(
        ["203.0.113.26"], (*TRUSTED_NETWORK_FILES, NGINX, "/etc/postfix/own_domains", "DNS A", "DNS AAAA", "DNS PTR")
    ),
    "host.forwarded_from": Example(["203.0.113.21"], (DOVECOT, FIREWALL, JAILS, WATCH)),
    "domains": Example(
        ["example.org", "example.net", "example.edu"],
        (
            *(MAIN_CF, "/etc/postfix/own_domains", ACME, NGINX, INBOUND),
            *("/etc/mailkeep/web/pages/autoconfig.example.edu", "/etc/mailkeep/web/pages/mta-sts.example.edu"),
            *("DNS MX", "DNS SRV", "DNS v=spf1", "DNS v=DMARC1", "DNS v=STSv1", "DNS v=TLSRPTv1"),
        ),
    ),
    "accounts[].address": Example(
        "carl@example.org",
        (DOVECOT_USERS, GUARD, WATCH, SENDER_LOGIN, "/etc/postfix/mailboxes"),
        base={"aliases": {}, "members_only": [], "catch_all": {}, "catch_all_except": [], "accounts[].send_as": []},
    ),
    "accounts[].password": Example(HASH.replace("2b4f", "zzzz"), (DOVECOT_USERS,)),
    "accounts[].name": Example("Anna Other", (), elsewhere="neither the server nor the DNS gets it"),
    "accounts[].quota": Example("3G", (DOVECOT_USERS,)),
    "accounts[].send_as": Example(["info@example.org"], (SENDER_LOGIN, GUARD, WATCH)),
    "accounts[].forward": Example(["anna@other.example"], (f"{SIEVE}/forwards.sieve",)),
    "accounts[].confirm_at": Example("anna@other.example", (WATCH, "/etc/postfix/alert_recipients")),
    **_limit_examples(
        "accounts[].limits",
        {
            "messages_per_10_minutes": 24,
            "messages_per_hour": 69,
            "messages_per_day": 349,
            "recipients_per_10_minutes": 64,
            "recipients_per_hour": 159,
            "recipients_per_day": 999,
            "new_recipients_per_day": 249,
            "networks_per_hour": 11,
        },
    ),
    "aliases": Example(
        {
            "info@example.org": "bert@example.net",
            "team@example.net": "info@example.org",
            "shop-*@example.org": "x@b.example",
        },
        (ALIASES, GUARD, "/etc/postfix/alias_patterns", "/etc/postfix/list_patterns"),
        base={"members_only": []},
    ),
    "members_only": Example([], (MAIN_CF, "/etc/postfix/members_only")),
    "catch_all": Example({"example.net": "anna@example.org"}, (ALIASES,)),
    "catch_all_except": Example(["old-*@example.net"], ("/etc/postfix/refused_recipients",)),
    "admin.addresses": Example(["other@example.com"], (WATCH, ALIASES, "/etc/postfix/alert_recipients")),
    "admin.networks": Example(["192.0.2.0/24"], TRUSTED_NETWORK_FILES),
    "alerts.webhook": Example(ABSENT, (WATCH,)),
    "alerts.webhook.format": Example("ntfy", (WATCH,)),
    "alerts.webhook.template": Example('{"x": "{text}"}', (WATCH,)),
    "alerts.queue": Example(501, (WATCH,)),
    "alerts.disk": Example(91, (WATCH,)),
    "alerts.certificate_days": Example(22, (WATCH,)),
    "alerts.failed_logins": Example(1001, (WATCH,)),
    "alerts.weekly": Example(True, (*WEEKLY, WATCH)),
    "relay": Example(ABSENT, (MAIN_CF, RELAY_PASSWORD, "part postfix")),
    "relay.host": Example("smtp2.example.com", (MAIN_CF, RELAY_PASSWORD)),
    "relay.port": Example(2525, (MAIN_CF, RELAY_PASSWORD)),
    "relay.user": Example("bert", (RELAY_PASSWORD,)),
    "tls.mode": Example(
        "files",
        (ACME, WATCH, "/etc/mailkeep/tls/server.pem", "part certificates"),
        also={"tls.acme": ABSENT, "tls.certificate": "chain.pem"},
    ),
    "tls.certificate": Example(
        "other.pem",
        (),
        elsewhere="the file beside mail.yml",  # tests/inventory/test_own_certificate.py
        text=COMPLETE_WITH_FILES,
    ),
    "tls.acme.directory": Example("https://acme.example.net/directory", (ACME,)),
    "tls.acme.contact": Example("you@example.com", (ACME,)),
    "tls.acme.challenge": Example("http-01", (ACME, FIREWALL), also={"tls.acme.provider": ABSENT}),
    "tls.acme.provider": Example("acme-dns", (ACME,)),
    "dns.dmarc": Example("none", ("DNS v=DMARC1",)),
    "dns.reports": Example("other@elsewhere.example", ("DNS v=DMARC1", "DNS v=TLSRPTv1")),
    "dns.spf": Example(["include:_spf.example.net"], ("DNS v=spf1", "/etc/postfix/master.cf", OWN_SENDERS, INBOUND)),
    "dns.never_send": Example(["ftp.example.org"], ("DNS v=spf1", "DNS v=DMARC1")),
    "dns.mta_sts": Example("testing", ("/etc/mailkeep/web/pages/mta-sts.example.org", "DNS v=STSv1")),
    "dns.caa": Example(["letsencrypt.org", "pki.example.net"], ("DNS CAA",)),
    "inbound.trusted": Example(["mx:example.com"], ("/etc/postfix/master.cf", OWN_SENDERS, INBOUND)),
    "inbound.trusted_sealers": Example(["lists.example.com"], (INBOUND,)),
    "inbound.refused_attachments": Example(["zip"], (INBOUND,)),
    "web.mta_sts": Example(
        "no", (ACME, NGINX, "/etc/mailkeep/web/pages/mta-sts.example.org", "DNS A", "DNS AAAA", "DNS CAA")
    ),
    "web.autoconfig": Example(
        "no", (ACME, NGINX, "/etc/mailkeep/web/pages/autoconfig.example.org", "DNS A", "DNS AAAA", "DNS CAA")
    ),
    "retention.journal": Example(
        "101M", ("/etc/systemd/journald.conf.d/mailkeep.conf", "/etc/systemd/system/mailkeep-logs.service")
    ),
    "retention.queue_days": Example(4, (MAIN_CF, "/etc/opendkim.conf")),
    "retention.trash_days": Example(15, (DOVECOT,)),
    "retention.report_days": Example(91, ("/etc/systemd/system/mailkeep-history.service",)),
    "backup": Example(ABSENT, (BACKUP, WATCH, "part backup")),
    "backup.targets[].name": Example("other", (BACKUP, WATCH)),
    "backup.targets[].path": Example("/srv/other", (BACKUP,)),
    "backup.targets[].host": Example("other.example.net", (BACKUP, "/etc/mailkeep/backup/known_hosts")),
    "backup.targets[].port": Example(2223, (BACKUP, "/etc/mailkeep/backup/known_hosts")),
    "backup.targets[].user": Example("other", (BACKUP,)),
    "backup.targets[].host_key": Example(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ("/etc/mailkeep/backup/known_hosts",),
    ),
    "backup.every_hours": Example(6, (BACKUP, WATCH, "/etc/systemd/system/mailkeep-backup.timer")),
    "backup.keep.daily": Example(9, (), elsewhere="It changes nothing on the server"),
    "backup.keep.weekly": Example(4, (), elsewhere="It changes nothing on the server"),
    "backup.keep.monthly": Example(11, (), elsewhere="It changes nothing on the server"),
    "resolver": Example(
        "local", (MAIN_CF, "/etc/resolv.conf", "/etc/unbound/unbound.conf.d/mailkeep.conf", "part resolver")
    ),
    "ssh.port": Example(2223, (JAILS, WATCH, FIREWALL)),
    "ssh.passwords": Example("yes", (SSHD,)),
    "firewall.block": Example(["198.51.100.192/26"], (FIREWALL,)),
    "firewall.open[].port": Example(9101, (FIREWALL,)),
    "firewall.open[].protocol": Example("udp", (FIREWALL,)),
    "firewall.open[].networks": Example(["198.51.100.8", "2001:db8:7::/48"], (FIREWALL,)),
    "firewall.may_send": Example(["172.30.1.0/24"], (FIREWALL,)),
    "forwarders": Example(["198.51.100.61"], (OWN_SENDERS, INBOUND, GUARD)),
    "spam.filter": Example("off", (MAIN_CF, WATCH, DOVECOT, "/etc/mailkeep/spam/rspamd.conf", "part spam")),
    "spam.when_down": Example("defer", (MAIN_CF, "/etc/postfix/master.cf")),
    "spam.dnsbls": Example(
        ["zen.spamhaus.org"], ("/etc/mailkeep/spam/rspamd.conf",), base={"resolver": "local", "spam.when_down": "defer"}
    ),
    "local_senders": Example(["root"], (MAIN_CF,)),
    "guard.mode": Example("enforce", (GUARD,)),
    **_limit_examples(
        "guard.limits",
        {
            "messages_per_10_minutes": 14,
            "messages_per_hour": 49,
            "messages_per_day": 249,
            "recipients_per_10_minutes": 49,
            "recipients_per_hour": 119,
            "recipients_per_day": 399,
            "new_recipients_per_day": 149,
            "networks_per_hour": 5,
        },
    ),
    **_limit_examples("guard.server", {"recipients_per_hour": 1501, "recipients_per_day": 8001}),
    **_limit_examples("guard.local", {"recipients_per_hour": 61, "recipients_per_day": 301}),
    "guard.leaving.recipients_per_hour": Example(3101, (WATCH,)),
    "guard.leaving.recipients_per_day": Example(17001, (WATCH,)),
    "guard.leaving.connections_per_hour": Example(9001, (FIREWALL,)),
    **_limit_examples("guard.forwards", {"recipients_per_hour": 71, "recipients_per_day": 401}),
    **_limit_examples(
        "guard.lists",
        {"recipients_per_hour": 81, "recipients_per_day": 451, "messages_per_hour": 4, "messages_per_day": 13},
    ),
    **_limit_examples(
        "guard.receiving",
        {"messages_per_hour": 901, "network_messages_per_hour": 351, "new_senders_per_hour": 41},
    ),
    "guard.receiving.exempt": Example(["198.51.100.71"], (GUARD,)),
    **_limit_examples(
        "guard.freeze",
        {"refused_tries": 21, "foreign_senders": 6, "networks": 10, "new_recipients": 201, "spam_messages": 13},
    ),
    **_limit_examples(
        "guard.holds",
        {
            "strangeness": 10,
            "dead": 5,
            "refused": 7,
            "share": 12,
            "complaints": 6,
            "complaint_share": 7,
            "freeze_dead": 12,
            "freeze_refused": 17,
            "freeze_share": 31,
            "freeze_complaints": 13,
            "freeze_complaint_share": 32,
        },
    ),
    "guard.shared_store": Example(ABSENT, (SHARED_STORE, "part guard")),
    "guard.shared_store.host": Example("redis.example.org", (SHARED_STORE,)),
    "guard.shared_store.port": Example(6381, (SHARED_STORE,)),
    "guard.shared_store.tls": Example("yes", (SHARED_STORE,)),
    "guard.shared_store.user": Example("other", (SHARED_STORE,)),
    "message_size": Example("31M", (MAIN_CF, DOVECOT)),
}


def list_settings(model: type[BaseModel] = Settings, path: str = "") -> Iterator[tuple[str, str]]:
    """Every setting, and every section that may be absent, with its description; `[]` is each item of a list."""
    for name, setting in model.model_fields.items():
        sections = [*nested_models(setting.annotation)]
        if not sections or setting.default is None:
            yield f"{path}{name}", setting.description or ""
        for section in sections:
            brackets = "[]" if str(setting.annotation).startswith("tuple") else ""
            yield from list_settings(section, f"{path}{name}{brackets}.")


DESCRIPTIONS = dict(list_settings())


def change_setting(data: dict[str, Any], path: str, value: object) -> None:
    """Sets it, or removes it with ABSENT; of a list's items, of the first."""
    *sections, name = path.split(".")
    section: Any = data
    for key in sections:
        section = section.setdefault(key.removesuffix("[]"), {})
        section = section[0] if key.endswith("[]") else section
    if value is ABSENT:
        section.pop(name, None)
    else:
        section[name] = value


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    """The same for all settings, so that a difference comes from the setting alone."""
    pem = generate_dkim_pem()
    pair = TlsPair(*split_pem(create_self_signed("mail.example.org", date.today())))
    keys = tuple(DkimKey(domain, "s20261122", pem) for domain in ("example.org", "mail.example.org"))
    return Secrets(
        keys,
        pair,
        "password",
        "https://alerts.example.net/\n",
        "password",
        dns_credentials={"TOKEN": "x"},
        backup=BackupKeys("passphrase", "key"),
    )


def render_places(settings: Settings, secrets: Secrets) -> dict[str, object]:
    places: dict[str, Any] = {}
    for part in mail_server.build_parts(settings, secrets):
        places |= {file.path: file for file in part.files}
        places[f"part {part.name}"] = (
            part.packages,
            part.users,
            part.memberships,
            part.directories,
            [file.path for file in part.files],
            part.absent,
            part.units,
            part.checks,
        )
    for record in records.all_records(settings, secrets):
        kind = record.value.split(";")[0].split(" ")[0] if record.value.startswith("v=") else record.type
        places.setdefault(f"DNS {kind}", []).append((record.name, record.value))
    return places


@cache
def parse_sample(text: str) -> dict[str, Any]:
    """Cached, as it takes longer than all else that a test here does."""
    sample: dict[str, Any] = yaml.safe_load(text)
    return sample


def find_changed_places(path: str, secrets: Secrets) -> set[str]:
    """The places that the example of this setting changes."""
    example = EXAMPLES[path]
    before = copy.deepcopy(parse_sample(example.text))
    for other, value in example.base.items():
        change_setting(before, other, value)
    after = copy.deepcopy(before)
    for other, value in {path: example.value, **example.also}.items():
        change_setting(after, other, value)
    assert before != after, "the example is the value of the sample"
    old, new = (render_places(Settings.model_validate(data), secrets) for data in (before, after))
    return {place for place in old.keys() | new.keys() if old.get(place) != new.get(place)}


def find_faults(path: str, secrets: Secrets) -> list[str]:
    """The places of a setting that its example leaves as they are."""
    example, changed = EXAMPLES[path], find_changed_places(path, secrets)
    if not example.places:
        assert example.elsewhere in DESCRIPTIONS[path], f"{path}: its description must say where it acts"
        assert example.elsewhere
        assert changed == set(), f"{path} changes the server: name the places"
    return sorted({*example.places} - changed)


def test_every_setting_has_an_example() -> None:
    absent = sorted(DESCRIPTIONS.keys() - EXAMPLES.keys())
    assert absent == [], "new settings: add another valid value and the places that it changes to EXAMPLES"
    assert sorted(EXAMPLES.keys() - DESCRIPTIONS.keys()) == [], "examples of settings that are gone"


@pytest.mark.parametrize("path", DESCRIPTIONS)
def test_a_setting_changes_each_place_where_it_is_used(path: str, secrets: Secrets) -> None:
    assert find_faults(path, secrets) == [], f"{path} does not reach these"


# Programs that ignore a setting, in all or in one of its places: (module, text, text in its place, setting, places).
MUTANTS = [
    (alerts, "alerts.certificate_days", "14", "alerts.certificate_days", [WATCH]),
    (postfix, "settings.retention.queue_days", "2", "retention.queue_days", [MAIN_CF]),
    (postfix, "settings.local_senders", '("root", "www-data")', "local_senders", [MAIN_CF]),
    (guard, "settings.guard.mode", '"learn"', "guard.mode", [GUARD]),
    (guard, "freeze.model_dump()", 'freeze.model_dump(exclude={"networks"})', "guard.freeze.networks", [GUARD]),
    (
        guard,
        "freeze.model_dump()",
        'freeze.model_dump(exclude={"new_recipients"})',
        "guard.freeze.new_recipients",
        [GUARD],
    ),
    (postfix, "(account.address, *account.send_as)", "(account.address,)", "accounts[].send_as", [SENDER_LOGIN]),
    (guard, "list(account.send_as)", "[]", "accounts[].send_as", [GUARD]),
    (alerts, "(account.address, *account.send_as)", "(account.address,)", "accounts[].send_as", [WATCH]),
]


@pytest.mark.parametrize(("module", "old", "new", "path", "places"), MUTANTS)
def test_a_part_that_ignores_a_setting_is_noticed(
    module: types.ModuleType,
    old: str,
    new: str,
    path: str,
    places: list[str],
    secrets: Secrets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, f"{module.__name__} has changed: write this mutant anew"
    mutant = types.ModuleType(module.__name__)
    exec(compile(source.replace(old, new), str(module.__file__), "exec"), vars(mutant))  # noqa: S102
    monkeypatch.setattr(module, "build_part", mutant.build_part)  # type: ignore[attr-defined]
    assert find_faults(path, secrets) == places
