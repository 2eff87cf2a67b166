"""`plan --adopt` begins with what will be gone."""

from dataclasses import replace

from test_preflight_rules import FRESH, make_settings

from mailkeep.host.preflight_facts import Listener
from mailkeep.host.snapshot import Snapshot, UnitState
from mailkeep.host.takeover import MAX_NAMES, FormerMail, TakeoverFact, describe_losses
from mailkeep.parts.model import Part, Unit

FACTS = replace(
    FRESH,
    other_mtas=("exim4-daemon-light",),
    foreign_files=("/etc/dovecot/dovecot.conf",),
    listeners=(
        Listener("tcp", "*", 22, ("sshd",)),
        Listener("tcp", "*", 25, ("exim4",)),
        Listener("tcp", "*", 2525, ("exim4",)),
        Listener("tcp", "*", 110, ("dovecot",)),
    ),
)
PARTS = (Part("resolver", units=(Unit("systemd-resolved.service", running=False), Unit("unbound.service"))),)
ACTUAL = Snapshot(units={"systemd-resolved.service": UnitState({"ActiveState": "active"})})


def test_what_mail_yml_does_not_declare_is_named_by_kind() -> None:
    former = TakeoverFact().process(
        [
            "account ann",
            "account bob",
            "account Ann@example.org",
            "alias info",
            "alias root",
            "alias info",
            "jail sshd",
            "jail apache",
            "noise",
        ]
    )
    settings = make_settings(aliases={"sales@example.org": ["ann@example.org"]})
    assert describe_losses(settings, PARTS, FACTS, former, ACTUAL) == (
        "accounts and mailboxes: bob",
        "aliases: info",
        "ports: dovecot (tcp *:110), exim4 (tcp *:2525)",
        "jails that Mailkeep's replace: sshd",
        "services: exim4-daemon-light, removed, the configuration in /etc/dovecot/dovecot.conf, replaced, "
        "systemd-resolved.service, stopped",
    )


def test_the_summary_is_short_and_empty_where_nothing_is_lost() -> None:
    many = FormerMail(accounts=tuple(f"user{number}" for number in range(100)))
    assert describe_losses(make_settings(), (), FRESH, FormerMail(), Snapshot()) == ()
    [line] = describe_losses(make_settings(), (), FRESH, many, Snapshot())
    assert line.endswith(f"user{MAX_NAMES - 1} and {100 - MAX_NAMES} more")
