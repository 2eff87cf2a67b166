"""Valid files load, and every value means what is written."""

import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError
from settings_samples import ACCOUNT_LIMITS, COMPLETE, COMPLETE_WITH_FILES, HASH, WITHOUT_GUARD, Inventory

from mailkeep.settings import reference
from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import SERVICES, format_size
from mailkeep.settings.schema import build_json_schema
from mailkeep.settings.sections import DEFAULT_LIMITS

ROOT = Path(__file__).parent.parent.parent
SCHEMA = build_json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_every_setting_reaches_the_model_as_it_was_written(mail_yml: Inventory) -> None:
    settings = mail_yml.load()
    assert settings.host.name == "mail.example.org"
    assert settings.host.addresses == (ip_address("203.0.113.25"), ip_address("2001:db8::25"))
    assert settings.domains == ("example.org", "example.net")
    anna, bert = settings.accounts
    assert (anna.address, anna.password, anna.name, anna.quota) == (
        "anna@example.org",
        HASH,
        "Anna Example",
        2 * 2**30,
    )
    assert anna.send_as == ("info@example.org", "team@example.net")
    assert (bert.name, bert.quota, bert.send_as) == ("", None, ())
    assert settings.aliases == {
        "info@example.org": ("anna@example.org", "bert+info@example.net"),
        "team@example.net": ("info@example.org",),
        "away@example.org": ("someone@elsewhere.example",),
        "board@example.org": ("anna@example.org", "bert@example.net"),
    }
    assert (anna.forward, bert.forward) == (("anna@elsewhere.example",), ())
    assert (settings.members_only, settings.catch_all_except) == (("board@example.org",), ("old@example.net",))
    assert settings.catch_all == {"example.net": "bert@example.net"}
    assert settings.admin.addresses == ("you@example.com",)
    assert settings.admin.networks == tuple(map(ip_network, ("192.0.2.0/24", "2001:db8:1::/48", "198.51.100.7/32")))
    assert settings.relay is not None
    assert (settings.relay.host, settings.relay.port, settings.relay.user) == (
        "smtp.example.com",
        587,
        "anna",
    )
    acme = settings.tls.acme
    assert (settings.tls.mode, acme.challenge, acme.provider) == ("acme", "dns-01", "rfc2136")
    assert (acme.directory, acme.contact) == (
        "https://acme-staging-v02.api.letsencrypt.org/directory",
        "certificates@example.com",
    )
    guard, store = settings.guard, settings.guard.shared_store
    assert (guard.mode, guard.limits.networks_per_hour, guard.freeze.networks) == ("learn", 6, 9)
    assert guard.server.model_dump() == {"recipients_per_hour": 1500, "recipients_per_day": 8000}
    assert guard.local.model_dump() == {"recipients_per_hour": 60, "recipients_per_day": 300}
    assert store is not None
    assert (store.host, store.port, store.tls, store.user) == ("valkey.example.org", 6380, False, "mailkeep")
    assert (settings.retention.journal, settings.retention.queue_days, settings.retention.trash_days) == (
        100 * 2**20,
        3,
        14,
    )
    assert settings.resolver == "system"
    assert (settings.ssh.port, settings.ssh.passwords) == (2222, False)
    assert settings.firewall.block == (ip_network("198.51.100.128/25"),)
    openings = [(opening.port, opening.protocol) for opening in settings.firewall.open]
    assert openings == [(9100, "tcp"), (443, "tcp"), (8443, "tcp"), (51820, "udp")]
    assert settings.local_senders == ("root", "www-data")
    assert settings.accepted == ("job:/etc/cron.d/backup", "group:sudo:anna")
    assert settings.message_size == 30 * 2**20


def test_a_certificate_of_the_operators_reaches_the_model_too(mail_yml: Inventory) -> None:
    tls = mail_yml.write(COMPLETE_WITH_FILES).load().tls
    assert (tls.mode, tls.certificate) == ("files", "chain.pem")


def list_paths(data: object, path: str = "") -> Iterator[str]:
    """The settings that a file names, as `SectionReference.path` and name write them."""
    for item in data if isinstance(data, list) else []:
        yield from list_paths(item, f"{path}[]")
    for name, value in data.items() if isinstance(data, dict) else []:
        yield f"{path}.{name}".removeprefix(".")
        yield from list_paths(value, f"{path}.{name}".removeprefix("."))


@pytest.mark.slow
def test_the_samples_have_every_section_and_every_setting() -> None:
    by_acme, with_files = ({*list_paths(yaml.safe_load(text))} for text in (COMPLETE, COMPLETE_WITH_FILES))
    sections = reference.list_sections()
    absent = [section.path for section in sections if section.path and section.path.removesuffix("[]") not in by_acme]
    assert absent == [], "sections that COMPLETE lacks; the fuzzing does not reach them"
    names = [f"{section.path}.{setting.name}".removeprefix(".") for section in sections for setting in section.settings]
    assert [name for name in names if name not in by_acme | with_files] == [], "settings that no sample has"


def test_the_example_loads_and_names_the_command_that_makes_an_inventory() -> None:
    example = ROOT / "inventories/example/mail.yml"
    assert load_settings(example).accounts == ()
    assert "`mailkeep init NAME" in example.read_text().splitlines()[0]


def test_one_number_of_a_ceiling_leaves_the_other_at_its_default(mail_yml: Inventory) -> None:
    guard = mail_yml.write(WITHOUT_GUARD + "guard: {server: {recipients_per_day: 20000}, local: {}}\n").load().guard
    assert guard.server.model_dump() == {"recipients_per_hour": 2000, "recipients_per_day": 20_000}
    assert guard.local.model_dump() == {"recipients_per_hour": 100, "recipients_per_day": 500}


def test_defaults_that_follow_from_the_largest_ceiling_are_beyond_it(mail_yml: Inventory) -> None:
    """They are no settings, so they have no bounds."""
    largest = "guard: {server: {recipients_per_hour: 1000000, recipients_per_day: 1000000}}"
    leaving = mail_yml.write(WITHOUT_GUARD + largest).load().max_leaving
    assert (leaving.recipients_per_hour, leaving.recipients_per_day) == (2_000_000, 2_000_000)


def test_a_setting_that_is_absent_or_empty_has_its_default(mail_yml: Inventory) -> None:
    least = "host: {name: mail.example.org, addresses: [203.0.113.25]}\ndomains: [example.org]\n"
    least += "admin: {addresses: [you@example.com]}\n"
    settings = mail_yml.write(least).load()
    assert (settings.catch_all, settings.relay, settings.resolver) == ({}, None, "local")
    optional = [name for name, field in Settings.model_fields.items() if not field.is_required()]
    empty = mail_yml.write(least + "".join(f"{name}:\n" for name in optional)).load()
    assert empty == settings


@pytest.mark.parametrize("name", ["no", "10:30", "2026-01-01", "0022", "1e3", "true", "1_000", ".5", "0x1F", "=", "<<"])
def test_no_text_turns_into_something_else(mail_yml: Inventory, name: str) -> None:
    written = name.replace(":", "-")  # a colon is refused in names, for another reason
    assert mail_yml.change("name: Anna Example", f"name: {written}").load().accounts[0].name == written


@pytest.mark.parametrize(("written", "port"), [("0022", None), ("22", 22), ("ssh", 22), ("1_0", None), ("0x16", None)])
def test_a_number_is_decimal_or_refused(mail_yml: Inventory, written: str, port: int | None) -> None:
    changed = mail_yml.change("port: 2222", f"port: {written}")
    if port is None:
        assert changed.problem().field == "ssh.port"
    else:
        assert changed.load().ssh.port == port


def test_settings_can_be_made_from_python_values(mail_yml: Inventory) -> None:
    data = yaml.safe_load(COMPLETE)
    assert Settings.model_validate(data) == mail_yml.load()
    with pytest.raises(ValidationError, match="port"):
        Settings.model_validate({**data, "ssh": {"port": True}})


@pytest.mark.parametrize(("written", "meant"), [("yes", True), ("true", True), ("no", False), ("false", False)])
def test_a_switch_takes_both_of_yamls_spellings(mail_yml: Inventory, written: str, meant: bool) -> None:
    assert mail_yml.change("passwords: no", f"passwords: {written}").load().ssh.passwords is meant


def test_line_ends_and_byte_order_mark_of_windows_make_no_difference(mail_yml: Inventory) -> None:
    expected = mail_yml.load()
    windows = "\ufeff" + COMPLETE.replace("\n", "\r\n")
    assert mail_yml.write(windows).load() == expected


@pytest.mark.parametrize(
    "address", ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "9.9.9.9", "2620:fe::9"]
)
def test_a_host_may_have_public_and_documentation_addresses(mail_yml: Inventory, address: str) -> None:
    changed = mail_yml.change("203.0.113.25", f'"{address}"')
    assert ip_address(address) in changed.load().host.addresses


def test_no_repr_of_settings_shows_a_hash(mail_yml: Inventory) -> None:
    settings = mail_yml.load()
    assert HASH not in repr(settings) + str(settings)


def test_settings_cannot_be_changed_after_they_were_checked(mail_yml: Inventory) -> None:
    settings = mail_yml.load()
    with pytest.raises(ValidationError):
        settings.ssh.port = 25  # type: ignore[misc]


def test_an_account_has_its_own_limits_then_those_of_all_then_the_defaults(mail_yml: Inventory) -> None:
    text = WITHOUT_GUARD.replace(ACCOUNT_LIMITS, "    limits: {messages_per_hour: 100}\n")
    settings = mail_yml.write(f"{text}guard: {{limits: {{messages_per_hour: 70, messages_per_day: 400}}}}\n").load()
    anna, other = (settings.effective_limits(account.limits) for account in settings.accounts[:2])
    assert anna == DEFAULT_LIMITS | {"messages_per_hour": 100, "messages_per_day": 400}
    assert other == DEFAULT_LIMITS | {"messages_per_hour": 70, "messages_per_day": 400}


def format_many_accounts(number: int) -> str:
    account = "  - address: user{0}@example.org\n    password: '" + HASH.replace("{", "{{").replace("}", "}}") + "'\n"
    account += "    name: User {0}\n    quota: 1G\n    send_as: [alias{0}@example.org]\n"
    head, tail = COMPLETE.split("accounts:\n")[0], COMPLETE[COMPLETE.index("admin:") :]
    aliases = "".join(f"  alias{n}@example.org: user{n}@example.org\n" for n in range(number))
    return f"{head}accounts:\n{''.join(account.format(n) for n in range(number))}aliases:\n{aliases}{tail}"


@pytest.mark.slow
def test_ten_thousand_accounts_load_within_seconds_and_in_linear_time(mail_yml: Inventory) -> None:
    seconds = []
    for number in (1_000, 10_000):
        mail_yml.write(format_many_accounts(number))
        start = time.process_time()
        assert len(mail_yml.load().accounts) == number
        seconds.append(time.process_time() - start)
    assert seconds[1] < 6, f"{seconds[1]:.1f} s"
    assert seconds[1] < 30 * seconds[0], seconds


def test_a_long_chain_of_aliases_loads(mail_yml: Inventory) -> None:
    chain = "".join(f"  a{n}@example.org: a{n + 1}@example.org\n" for n in range(998))
    chain += "  a998@example.org: anna@example.org\n"
    assert len(mail_yml.change("aliases:\n", f"aliases:\n{chain}").load().aliases) == 1003


# JSON Schema


@pytest.mark.slow
def test_the_schema_accepts_valid_files(mail_yml: Inventory) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for text in (
        COMPLETE,
        COMPLETE_WITH_FILES,
        (ROOT / "inventories/example/mail.yml").read_text(),
        format_many_accounts(3),
    ):
        mail_yml.write(text).load()
        VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("resolver: system", "resolvers: system"),
        ("quota: 2G", "quotas: 2G"),
        ("quota: 2G", "quota: 2 gigs"),
        ("resolver: system", "resolver: none"),
        ("port: 2222", "port: 99999"),
        (", https, 8443", ", imap3"),
        (f"'{HASH}'\n    name", "hunter2\n    name"),
        ("mode: acme", "mode: [acme]"),
        ("  name: mail.example.org\n", ""),
        ("queue_days: 3", "queue_days: 6"),
        ("192.0.2.0/24", "everywhere"),
    ],
)
def test_the_schema_refuses_what_load_refuses_in_shape(mail_yml: Inventory, old: str, new: str) -> None:
    changed = mail_yml.change(old, new)
    assert changed.problems()
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(yaml.safe_load(changed.path.read_text()))


def test_the_schema_takes_an_empty_optional_setting() -> None:
    VALIDATOR.validate({**yaml.safe_load(COMPLETE), "relay": None, "aliases": None})


def list_properties() -> list[tuple[str, str]]:
    models = {"Settings": SCHEMA, **SCHEMA["$defs"]}
    return [(model, name) for model in models for name in models[model]["properties"]]


@pytest.mark.parametrize(("model", "name"), list_properties())
def test_every_setting_is_described_and_its_example_is_valid(model: str, name: str) -> None:
    setting = (SCHEMA if model == "Settings" else SCHEMA["$defs"][model])["properties"][name]
    reference_ = setting.get("anyOf", [setting])[0].get("$ref", "")  # a section may be described where it is defined
    description = setting.get("description") or SCHEMA["$defs"][reference_.rpartition("/")[2]]["description"]
    assert description.endswith(".")
    if (model, name) != ("Account", "password"):  # a hash in full would be copied
        for example in setting.get("examples", []):
            VALIDATOR.evolve(schema={**setting, "$defs": SCHEMA["$defs"]}).validate(example)


# Reference


@pytest.mark.slow
def test_the_reference_is_what_the_models_say() -> None:
    assert reference.TARGET.read_text() == reference.render_reference(), "run: python -m mailkeep.settings.reference"


@pytest.mark.slow
def test_the_reference_names_every_setting() -> None:
    text = reference.render_reference()
    assert [name for _, name in list_properties() if f"| `{name}` |" not in text] == []


def test_a_size_is_written_as_it_is_read() -> None:
    assert [format_size(size) for size in (25 * 2**20, 2**30, 1536, 1000, 3 * 2**40)] == [
        "25M",
        "1G",
        "1536",
        "1000",
        "3T",
    ]


def test_port_names_are_those_of_this_machines_services() -> None:
    services = Path("/etc/services")
    if not services.exists():
        pytest.skip("no /etc/services")
    known: dict[str, int] = {}
    for line in services.read_text().splitlines():
        name, _, rest = line.partition("#")[0].partition("\t")
        port, _, aliases = rest.strip().partition("/tcp")
        if port.isdigit():
            known |= dict.fromkeys([name.strip(), *aliases.split()], int(port))
    assert {name: known.get(name, port) for name, port in SERVICES.items()} == SERVICES
