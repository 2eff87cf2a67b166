from configparser import RawConfigParser
from pathlib import Path

import pytest

import mailkeep_server
from mailkeep.errors import UserError
from mailkeep.parts import fail2ban
from mailkeep.parts.model import Part
from mailkeep.settings.models import Settings
from mailkeep_server import ban_networks


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


def test_only_what_a_client_does_on_port_25_closes_port_25(declared: dict[str, object]) -> None:
    """Somebody may guess passwords from the webmail of a provider, whose mail must arrive all the same."""
    part = fail2ban.build_part(Settings.model_validate(declared | {"firewall": {"open": [8443]}}))
    jails = parse_jails(part)
    ports = {jail: set(map(int, jails[jail]["port"].split(","))) for jail in fail2ban.JAILS}
    assert {jail for jail in ports if 25 in ports[jail]} == {"postfix"}
    assert ports["recidive"] >= ports["dovecot"] | ports["sshd"] | {8443}


def test_fail2ban_runs_with_networks_and_its_sets_take_them(settings: Settings) -> None:
    part = fail2ban.build_part(settings)
    drop_in = file_content(part, f"{fail2ban.DROP_IN}/mailkeep.conf")
    assert "ExecStart=\nExecStart=/usr/bin/python3 -IB /usr/lib/mailkeep fail2ban -xf start\n" in drop_in
    assert "SyslogIdentifier=fail2ban-server\n" in drop_in, "the recidive jail reads the lines of that name"
    assert "flags interval" in file_content(part, fail2ban.ACTION)
    assert set(fail2ban.JAILS) == ban_networks.JAILS
    assert all("mailkeep-nftables[" in parse_jails(part)[jail]["banaction"] for jail in fail2ban.JAILS)
    [unit] = part.units
    for module in fail2ban.PROGRAM:
        assert module in unit.restart_on
        assert Path(mailkeep_server.__file__).parents[1].joinpath(module.removeprefix("/usr/lib/mailkeep/")).exists()


def test_the_machine_that_forwards_is_never_banned(declared: dict[str, object]) -> None:
    """All that it forwards would be. Its ports are in no jail: the jails are proven by connections of the server's."""
    host = {"name": "mail.example.org", "addresses": ["192.0.2.1"], "forwarded_from": ["192.0.2.8", "2001:db8::8"]}
    jails = parse_jails(fail2ban.build_part(Settings.model_validate(declared | {"host": host})))
    for jail in fail2ban.JAILS:
        assert {"192.0.2.8/32", "2001:db8::8/128"} <= {*jails[jail]["ignoreip"].split()}
        assert not {"10025", "10993"} & {*jails[jail]["port"].split(",")}


def test_the_ssh_jail_guards_the_port_that_mail_yml_names(declared: dict[str, object]) -> None:
    moved = Settings.model_validate(declared | {"ssh": {"port": 2222}})
    assert parse_jails(fail2ban.build_part(moved))["sshd"]["port"] == "2222"


def test_the_operators_networks_and_the_machine_itself_are_never_banned(settings: Settings) -> None:
    jails = parse_jails(fail2ban.build_part(settings))
    for jail in fail2ban.JAILS:
        exempt = jails[jail]["ignoreip"].split()
        assert {"127.0.0.0/8", "::1", "192.0.2.1", "2001:db8::1", "198.51.100.0/24", "2001:db8:5::/64"} == set(exempt)


def test_no_default_of_ours_changes_the_operators_jails_and_none_of_theirs_ours(settings: Settings) -> None:
    jails = parse_jails(fail2ban.build_part(settings))
    assert dict(jails["DEFAULT"]) == {}
    needed = {"ignoreself", "ignoreip", "ignorecommand", "usedns", "backend", "maxretry", "findtime", "bantime"}
    assert all(needed | {"banaction", "action"} <= set(jails[jail]) for jail in fail2ban.JAILS)


def test_fail2ban_runs_with_what_the_proof_expects(settings: Settings) -> None:
    jails = parse_jails(fail2ban.build_part(settings))
    for jail, rules in fail2ban.rules_by_jail(settings).items():
        numbers = [int(jails[jail][name]) for name in ("maxretry", "findtime", "bantime")]
        assert numbers == [rules.maxretry, rules.findtime, rules.bantime]


def test_fail2ban_may_read_the_log_of_any_jail_and_its_start_is_tried_with_the_same_rights(settings: Settings) -> None:
    part = fail2ban.build_part(settings)
    drop_in = file_content(part, f"{fail2ban.DROP_IN}/mailkeep.conf")
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_DAC_READ_SEARCH\n" in drop_in
    assert "SupplementaryGroups=adm\n" in drop_in
    assert "ProtectHome=read-only\n" in drop_in
    [check] = [check for check in part.checks if "setpriv" in check.command]
    assert "--bounding-set=-all,+net_admin,+dac_read_search " in check.command
    assert "--groups root,adm " in check.command
    assert set(check.reads) == {"/etc/fail2ban/", fail2ban.DROP_IN}


def test_an_address_that_returns_after_the_longest_ban_is_still_known(settings: Settings) -> None:
    part = fail2ban.build_part(settings)
    database = RawConfigParser()
    database.read_string(file_content(part, "/etc/fail2ban/fail2ban.d/mailkeep.local"))
    assert parse_weeks(database["DEFAULT"]["dbpurgeage"]) > parse_weeks(parse_jails(part)["sshd"]["bantime.maxtime"])


def parse_weeks(time: str) -> int:
    assert time.endswith("w")
    return int(time[:-1])
