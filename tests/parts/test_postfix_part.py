"""What Postfix is told of the way to others, and of times of stress."""

import re
from itertools import takewhile

import pytest

from mailkeep.parts import postfix
from mailkeep.settings.models import Settings

SALT_AND_DIGEST = "2b4fYwrsusIjrfimc3MFvw$MiGIqKV9aEP4koUvcuIkQpdtKftJqMrZnwq2+tdVtCg"
HASH = f"{{ARGON2ID}}$argon2id$v=19$m=19456,t=2,p=1${SALT_AND_DIGEST}"


@pytest.mark.parametrize(
    ("relay", "address", "address6"), [({}, "192.0.2.1", "2001:db8::1"), ({"relay": {"host": "10.0.0.9"}}, "", "")]
)
def test_the_first_address_is_the_source_unless_a_relay_host_takes_the_mail(
    declared: dict[str, object], relay: dict[str, object], address: str, address6: str
) -> None:
    """The relay host may be in a private network, which packets from a public address do not reach."""
    part = postfix.build_part(Settings.model_validate(declared | relay), None)
    content = next(file.content for file in part.files if file.path == "/etc/postfix/main.cf").decode()
    parameters = dict(line.split(" =", 1) for line in content.splitlines() if line.startswith("outbound_address"))
    assert {name: value.strip() for name, value in parameters.items()} == {
        "outbound_address": address,
        "outbound_address6": address6,
    }


def read_files(declared: dict[str, object], **more: object) -> dict[str, str]:
    part = postfix.build_part(Settings.model_validate(declared | more), None)
    return {file.path.rpartition("/")[2]: file.content.decode() for file in part.files}


def list_rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if not line.startswith("#")]


def test_servers_that_spf_declares_and_forwarders_may_send_as_our_domains(declared: dict[str, object]) -> None:
    spf = ["ip4:198.51.100.98", "ip6:2001:db8:2::/48", "a:shop.example.net", "include:_spf.example.net"]
    files = read_files(declared, dns={"spf": spf}, forwarders=["198.51.100.60"])
    assert list_rows(files["own_senders"]) == ["198.51.100.98 OK", "2001:db8:2::/48 OK", "198.51.100.60/32 OK"]
    assert "spf-sources a:shop.example.net include:_spf.example.net\n" in files["master.cf"]
    assert "check_policy_service { unix:private/spf-sources, " in files["main.cf"]
    assert "example.org own_sender" in list_rows(files["own_domains"])
    assert any(row.startswith(".example.org REJECT") for row in list_rows(files["own_domains"]))


def test_without_names_to_look_up_nothing_asks_the_dns(declared: dict[str, object]) -> None:
    files = read_files(declared, dns={"spf": ["ip4:198.51.100.98"]})
    assert "spf-sources" not in files["main.cf"] + files["master.cf"]
    assert list_rows(files["own_senders"]) == ["198.51.100.98 OK"]


def test_a_relay_host_may_bring_our_mail_back(declared: dict[str, object]) -> None:
    assert (
        "spf-sources include:smtp.example.net\n"
        in read_files(declared, relay={"host": "smtp.example.net"})["master.cf"]
    )
    assert list_rows(read_files(declared, relay={"host": "192.0.2.9"})["own_senders"]) == ["192.0.2.9 OK"]


def test_postfix_reads_answers_and_patterns_whole(declared: dict[str, object]) -> None:
    """An answer with blanks needs braces, and a dollar begins a parameter's name. smtpd ends at each of both."""
    main_cf = read_files(declared, dns={"spf": ["a:shop.example.net"]})["main.cf"]
    answers = [line for line in main_cf.splitlines() if "default_action=4" in line]
    assert len(answers) > 1
    assert all("{ default_action=4" in line for line in answers)
    pattern = next(line for line in main_cf.splitlines() if line.startswith("smtpd_command_filter"))
    assert pattern.count("$") == 2
    assert "$$/" in pattern


def test_postfix_sheds_slow_clients_in_times_of_stress(settings: Settings) -> None:
    """By a fixed number for one of these, Postfix's own for times of stress would be off (STRESS_README)."""
    files = {file.path: file.content.decode() for file in postfix.build_part(settings, None).files}
    lines = files["/etc/postfix/main.cf"].splitlines()
    parameters = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith(("#", " ")))
    for name in ("smtpd_timeout", "smtpd_hard_error_limit", "smtpd_junk_command_limit", "smtpd_starttls_timeout"):
        assert parameters[name].startswith("${stress?{1"), name
    assert parameters["smtpd_per_request_deadline"] == "${stress?{yes}:{no}}"
    assert parameters["submission_timeout"].startswith("${stress?{10}:")
    for name in ("smtpd_timeout", "smtpd_hard_error_limit", "smtpd_junk_command_limit", "smtpd_per_request_deadline"):
        overrides = [line for line in files["/etc/postfix/master.cf"].splitlines() if f"-o {name}=" in line]
        assert all("$submission_timeout" in line for line in overrides)


def test_a_crowd_waits_at_the_ports_and_each_service_has_its_own_limit(settings: Settings) -> None:
    """Postfix's `default_process_limit` is also how many connections the kernel keeps for a port (listen(2))."""
    files = {file.path: file.content.decode() for file in postfix.build_part(settings, None).files}
    assert "\ndefault_process_limit = 1000\n" in files["/etc/postfix/main.cf"]
    services = [line.split() for line in files["/etc/postfix/master.cf"].splitlines() if re.match(r"\w", line)]
    assert len(services) > 20
    assert max(int(service[6]) for service in services) == 100


def test_it_takes_many_networks_to_shut_port_25(settings: Settings) -> None:
    files = {file.path: file.content.decode() for file in postfix.build_part(settings, None).files}
    [smtp] = [line.split() for line in files["/etc/postfix/master.cf"].splitlines() if line.startswith("smtp   ")][:1]
    assert (smtp[1], smtp[6]) == ("inet", "100")
    assert "smtpd_client_connection_count_limit = ${stress?{3}:{10}}" in files["/etc/postfix/main.cf"]
    assert "smtpd_client_ipv6_prefix_length = 64" in files["/etc/postfix/main.cf"]


def test_the_guard_is_asked_about_lists_with_members_elsewhere_and_about_nothing_else(
    declared: dict[str, object],
) -> None:
    changes = {
        "aliases": {
            "club@example.org": ["x@outside.test"],
            "all@example.org": ["club@example.org"],
            "here@example.org": ["anna@example.org"],
        },
        "catch_all": {"example.org": "y@outside.test"},
        "accounts": [{"address": "anna@example.org", "password": HASH}],
    }
    settings = Settings.model_validate(declared | changes)
    part = postfix.build_part(settings, None)
    table = next(file.content for file in part.files if file.path == "/etc/postfix/lists").decode()
    rows = dict(line.split(" ", 1) for line in table.splitlines() if not line.startswith("#"))
    expected = {"club@": "ask_about_list", "all@": "ask_about_list", "here@": "DUNNO", "": "ask_about_list"}
    assert {key: rows[f"{key}example.org"] for key in expected} == expected
    assert {rows[account.address] for account in settings.accounts} <= {"DUNNO"}
    assert rows["postmaster"] == "ask_about_list"


def test_nothing_signs_what_sieve_sends_and_bounces(declared: dict[str, object]) -> None:
    part = postfix.build_part(Settings.model_validate(declared), None)
    lines = next(file.content for file in part.files if file.path == "/etc/postfix/master.cf").decode().splitlines()
    for name, option in (("forwards ", "smtpd_milters"), ("bounce-cleanup ", "non_smtpd_milters")):
        begin = next(number for number, line in enumerate(lines) if line.startswith(name))
        options = [line.strip() for line in lines[begin + 1 : begin + 20]]
        assert f"-o {option}=$guard_milter" in options


FORWARDED = {"host": {"name": "mail.example.org", "addresses": ["192.0.2.1"], "forwarded_from": ["192.0.2.8"]}}


@pytest.mark.parametrize(("service", "port"), [("smtp", 10025), ("submissions", 10465), ("submission", 10587)])
def test_forwarded_connections_have_the_rules_of_the_others(
    declared: dict[str, object], service: str, port: int
) -> None:
    proxied = read_options(declared | FORWARDED, str(port))
    assert proxied.pop("smtpd_upstream_proxy_protocol") == "haproxy"
    assert proxied == read_options(declared, service)
    assert f"\n{port} " not in read_files(declared)["master.cf"]


def test_the_ports_of_forwarded_connections_are_declared(declared: dict[str, object]) -> None:
    ports, _ = postfix.list_declared_sockets([postfix.build_part(Settings.model_validate(declared | FORWARDED), None)])
    assert sorted(ports) == [25, 465, 587, 10025, 10465, 10587]


def read_options(declared: dict[str, object], service: str) -> dict[str, str]:
    """The options of a service in master.cf."""
    lines = read_files(declared)["master.cf"].splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"{service} "))
    options = takewhile(lambda line: line.startswith("  -o "), lines[begin + 1 :])
    return dict(option.removeprefix("  -o ").split("=", 1) for option in options)


def test_sieve_may_redirect_to_an_account_that_is_gone(declared: dict[str, object]) -> None:
    assert read_options(declared, "forwards")["smtpd_reject_unlisted_recipient"] == "no"


@pytest.mark.parametrize("service", ["forwards", "alerts", "alerts-unsigned"])
def test_the_limits_of_one_client_are_not_for_sockets_of_the_server(declared: dict[str, object], service: str) -> None:
    """For Postfix, all who use a socket are one client. Mail of scripts would have waited at 60 in a minute."""
    main_cf, options = read_files(declared)["main.cf"], read_options(declared, service)
    limits = re.findall(r"^(smtpd_client_(?:connection|message|recipient)\w*_limit) =", main_cf, re.MULTILINE)
    assert len(limits) == 4
    assert {name: options.get(name) for name in limits} == dict.fromkeys(limits, "0")


def test_nobody_keeps_a_process_that_evaluates_spf(declared: dict[str, object]) -> None:
    """smtpd keeps its connection while a client is silent, for five minutes. Five such clients deferred all others."""
    files = read_files(declared, dns={"spf": ["a:shop.example.net"]})
    service = files["main.cf"].split("check_policy_service { unix:private/spf-sources, ")[1].split("}")[0]
    assert "request_limit=1," in service
    [row] = [line.split() for line in files["master.cf"].splitlines() if line.startswith("spf-sources ")]
    assert int(row[6]) >= 20
