"""`plan --adopt` begins with what will be gone."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_preflight_rules import FRESH, make_settings

from mailkeep.host.preflight_facts import Listener
from mailkeep.host.snapshot import PathState, Snapshot, UnitState
from mailkeep.host.takeover import MAX_NAMES, FormerMail, TakeoverFact, describe_kept, describe_losses
from mailkeep.parts.model import File, Part, Unit

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


RULESET = '{"nftables": [{"chain": {"family": "inet", "table": "site", "name": "input"}}, \
{"chain": {"family": "inet", "table": "f2b-table", "name": "f2b-chain"}}]}'


def test_what_stays_beside_mailkeep_is_named_by_kind() -> None:
    part = Part(
        "demo",
        files=(File("/etc/demo.conf", b"ours\n"), File("/etc/new.conf", b"ours\n")),
        absent=("/etc/demo.old",),
    )
    state = PathState("regular file", "root", "root", 0o644, "another digest")
    actual = Snapshot(paths={"/etc/demo.conf": state, "/etc/demo.old": state})
    listeners = (
        *FRESH.listeners,
        Listener("tcp", "*", 80, ("nginx",)),
        Listener("tcp", "*", 8080, ("docker-proxy",)),
        Listener("tcp", "*", 8081, ("hidden",)),
    )
    facts = replace(FACTS, listeners=listeners, running_firewalls=("ufw",), nft_ruleset=RULESET)
    settings = make_settings(firewall={"open": [80, 8080]})
    former = FormerMail(accounts=("ann",), jails=("sshd", "shop"))
    assert describe_kept(settings, (part,), facts, former, actual) == (
        "firewalls beside Mailkeep's: ufw, table inet site",
        "jails of your own: shop",
        "services that are reached as before: nginx (tcp *:80), docker-proxy (tcp *:8080)",
        "mail: mailboxes and the queue, which stay where they are",
        "a copy in /var/backups/mailkeep/adopted-TIME, of what is replaced or removed: /etc/demo.conf, /etc/demo.old",
    )


def test_firewall_rules_that_the_next_boot_would_load_are_a_loss_if_their_file_is_replaced() -> None:
    part = Part("firewall", files=(File("/etc/nftables.conf", b"ours\n"),), units=(Unit("nftables.service"),))
    actual = Snapshot(paths={"/etc/nftables.conf": PathState("regular file", "root", "root", 0o755, "other")})
    for enabled, expected in (("enabled", ["firewall rules, from the next boot on"]), ("disabled", [])):
        units = {"nftables.service": UnitState({"UnitFileState": enabled})}
        losses = describe_losses(make_settings(), (part,), FRESH, FormerMail(), replace(actual, units=units))
        assert [line.partition(":")[0] for line in losses] == expected


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
