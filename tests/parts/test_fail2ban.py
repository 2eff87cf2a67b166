from configparser import RawConfigParser

import pytest

from mailkeep.errors import UserError
from mailkeep.parts import fail2ban
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings


def parse_jails(part: Part) -> RawConfigParser:
    parser = RawConfigParser()
    parser.read_string(file_content(part, "/etc/fail2ban/jail.d/mailkeep.local"))
    return parser


def file_content(part: Part, path: str) -> str:
    return next(file.content.decode() for file in part.files if file.path == path)


def test_an_unknown_service_is_refused_with_its_jail() -> None:
    with pytest.raises(UserError, match=r"jail dovecot: no service is called 'imap3'"):
        fail2ban.port_list("dovecot", ("imap3", "imaps"))


def test_every_port_of_a_jail_is_a_number(settings: Settings) -> None:
    config = parse_jails(fail2ban.build_part(settings))
    ports = [config[jail]["port"] for jail in ("sshd", "postfix", "dovecot")]
    assert all(port.isdecimal() for joined in ports for port in joined.split(","))


def test_the_ssh_jail_guards_the_port_that_mail_yml_names(declared: dict[str, object]) -> None:
    moved = Settings.model_validate(declared | {"ssh": {"port": 2222}})
    assert parse_jails(fail2ban.build_part(moved))["sshd"]["port"] == "2222"


def test_the_operators_networks_and_the_machine_itself_are_never_banned(settings: Settings) -> None:
    exempt = parse_jails(fail2ban.build_part(settings))["DEFAULT"]["ignoreip"].split()
    assert {"127.0.0.0/8", "::1", "192.0.2.1", "2001:db8::1", "198.51.100.0/24", "2001:db8:5::/64"} == set(exempt)


def test_an_address_that_returns_after_the_longest_ban_is_still_known(settings: Settings) -> None:
    part = fail2ban.build_part(settings)
    database = RawConfigParser()
    database.read_string(file_content(part, "/etc/fail2ban/fail2ban.d/mailkeep.local"))
    assert parse_weeks(database["DEFAULT"]["dbpurgeage"]) > parse_weeks(parse_jails(part)["DEFAULT"]["bantime.maxtime"])


def parse_weeks(time: str) -> int:
    assert time.endswith("w")
    return int(time[:-1])
