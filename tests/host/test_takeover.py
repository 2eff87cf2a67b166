"""`plan --adopt` begins with what will be gone."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
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


@pytest.mark.parametrize(
    "dovecot", ["passdb sql {\n  query = x\n}", "passdb {\n  args = /etc/dovecot/sql.conf\n  driver = sql\n}"]
)
def test_tables_that_plan_does_not_read_are_named(dovecot: str, tmp_path: Path) -> None:
    """Dovecot 2.4 and 2.3."""
    table = tmp_path / "virtual"
    table.write_text("info@example.org ann\n")
    maps = f"hash:{table}, mysql:/etc/postfix/aliases.cf proxy:pgsql:/etc/postfix/pg.cf"
    quota = "dict_server {\n  driver = sql\n}\nuserdb passwd {\n}"
    for name, output in (("postconf", maps), ("doveconf", f"{quota}\n{dovecot}")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
        program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", TakeoverFact().command()],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    former = TakeoverFact().process(done.stdout.splitlines())
    assert former.unread == ("mysql:/etc/postfix/aliases.cf", "proxy:pgsql:/etc/postfix/pg.cf", "Dovecot's sql")
    assert "info@example.org" in former.aliases
    losses = describe_losses(make_settings(), (), FRESH, former, Snapshot())
    assert (
        "accounts or aliases in these, which plan does not read: mysql:/etc/postfix/aliases.cf, "
        "proxy:pgsql:/etc/postfix/pg.cf, Dovecot's sql"
    ) in losses
