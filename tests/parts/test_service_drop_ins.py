"""Services come back however often they end, and other Linux users read and reach no more than they must."""

import re
from types import ModuleType

import pytest

from mailkeep.parts import dovecot, fail2ban, firewall, inbound, lines, opendkim, postfix, resolver, ssh, system, web
from mailkeep.parts.model import SYSTEMD, Part
from mailkeep.settings.models import Settings


@pytest.fixture
def parts(declared: dict[str, object]) -> list[Part]:
    serving = {"web": {"autoconfig": True}, "tls": {"mode": "acme"}}
    settings = Settings.model_validate(declared | serving)
    return [
        *(part.build_part(settings) for part in (dovecot, fail2ban, firewall, resolver, ssh, system, web)),
        postfix.build_part(settings, None),
        opendkim.build_part((), settings.retention.queue_days),
    ]


def read_unit_options(parts: list[Part], unit: str) -> list[str]:
    """The lines of the unit's file or drop-in."""
    paths = (f"{SYSTEMD}/{unit}", f"{SYSTEMD}/{unit}.d/mailkeep.conf")
    return next(file.content.decode() for part in parts for file in part.files if file.path in paths).splitlines()


@pytest.mark.parametrize("unit", ["dovecot", "postfix", "opendkim", "unbound", "fail2ban", "ssh", "mailkeep-web"])
def test_systemd_never_gives_a_service_up(parts: list[Part], unit: str) -> None:
    options = read_unit_options(parts, f"{unit}.service")
    assert options.index("[Unit]") < options.index("StartLimitIntervalSec=0") < options.index("[Service]")
    assert options.index("[Service]") < options.index("Restart=always")
    assert not any(re.match("Restart=on|StartLimitBurst", option) for option in options)


@pytest.mark.parametrize("part", [inbound, lines])
def test_a_milter_that_ends_when_idle_comes_back_with_the_next_connection(part: ModuleType, settings: Settings) -> None:
    built = part.build_part(settings)
    socket, service = built.units
    options = read_unit_options([built], service.name)
    assert f"Requires={socket.name}" in options
    assert options.index("[Unit]") < options.index("StartLimitIntervalSec=0") < options.index("[Service]")
    assert options.index("[Service]") < options.index("Restart=on-failure")
    assert f"ListenStream={service.socket}" in read_unit_options([built], socket.name)


@pytest.mark.parametrize("unit", ["dovecot", "postfix", "opendkim", "fail2ban", "ssh"])
def test_the_journal_takes_every_line_of_the_services_that_jails_read_and_bounds_all_others(
    parts: list[Part], unit: str
) -> None:
    options = read_unit_options(parts, f"{unit}.service")
    assert {"LogRateLimitIntervalSec=1s", "LogRateLimitBurst=1000000"} <= {*options}
    journald = next(file.content for part in parts for file in part.files if file.path == system.JOURNALD)
    assert b"\nRateLimit" not in journald


def test_no_other_user_reads_postfixs_tables_of_addresses(declared: dict[str, object]) -> None:
    files = postfix.build_part(Settings.model_validate(declared), None).files
    tables = [file for file in files if file.path in [f"{postfix.DIRECTORY}/{name}" for name in postfix.TABLES]]
    assert len(tables) == len(postfix.TABLES)
    assert {(file.owner, file.group, file.mode) for file in tables} == {("root", "postfix", 0o640)}


def test_only_root_and_dovecot_ask_for_accounts(parts: list[Part]) -> None:
    conf = next(file.content.decode() for part in parts for file in part.files if file.path == dovecot.CONF)
    assert "unix_listener auth-userdb {\n    mode = 0600\n  }" in conf
