"""The watch is told all that it has to look after, and its secret is its own."""

from pathlib import Path

import pytest

from mailkeep.parts import alerts, fail2ban, firewall, ssh
from mailkeep.parts.model import Part, Unit
from mailkeep.settings.models import Settings
from mailkeep_server.watch import config

URL = "https://ntfy.example/very-secret\ntoken"


@pytest.fixture
def hooked(declared: dict[str, object]) -> Settings:
    return Settings.model_validate(declared | {"alerts": {"webhook": {"format": "slack"}, "disk": 70}})


def written(part: Part, directory: Path) -> config.Config:
    """As the watch reads it."""
    for file in part.files:
        if file.path.startswith("/etc/mailkeep/"):
            (directory / Path(file.path).name).write_bytes(file.content)
    return config.load(directory / "watch.json")


def test_the_watch_reads_what_is_written_for_it(settings: Settings, tmp_path: Path) -> None:
    read = written(alerts.build_part(settings, None, ()), tmp_path)
    assert (read.host, read.admins, read.webhook) == ("mail.example.org", ["ann@example.net"], None)
    assert read.jails == {"sshd": [22], "postfix": [25, 143, 465, 587, 993], "dovecot": [25, 143, 465, 587, 993]} | {
        "recidive": None
    }
    assert read.own == ["192.0.2.1", "2001:db8::1", "198.51.100.0/24", "2001:db8:5::/64"]


def test_every_unit_that_shall_run_is_watched(settings: Settings, tmp_path: Path) -> None:
    services = (
        ssh.build_part(settings),
        firewall.build_part(settings),
        Part("x", units=(Unit("no.service", running=False),)),
    )
    read = written(alerts.build_part(settings, None, services), tmp_path)
    assert read.units == ["ssh.service", "nftables.service", "mailkeep-jails.timer"]


def test_every_jail_is_watched(settings: Settings) -> None:
    assert set(fail2ban.banned_ports_by_jail(settings)) == set(fail2ban.JAILS)


def test_the_webhooks_secret_is_in_a_file_that_only_root_reads_and_that_is_never_shown(
    hooked: Settings, tmp_path: Path
) -> None:
    part = alerts.build_part(hooked, URL, ())
    (holding,) = [file for file in part.files if b"very-secret" in file.content]
    assert (holding.path, holding.owner, holding.mode, holding.secret) == ("/etc/mailkeep/webhook", "root", 0o600, True)
    read = written(part, tmp_path)
    assert read.webhook
    assert (read.webhook.format, read.webhook.url, read.webhook.token) == ("slack", *URL.split("\n"))
    assert "very-secret" not in repr(read) + repr(part.files)


def test_without_a_webhook_its_secret_goes(settings: Settings) -> None:
    assert alerts.build_part(settings, None, ()).absent == ("/etc/mailkeep/webhook",)
