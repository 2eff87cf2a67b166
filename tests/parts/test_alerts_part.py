"""The watch's configuration names all that it must watch, and its secret stays secret."""

from pathlib import Path

import pytest

from mailkeep.parts import alerts, fail2ban, firewall, lines, ssh
from mailkeep.parts.model import Part, Unit
from mailkeep.settings.models import Settings
from mailkeep_server.watch.config import WatchConfig, load_config

WEBHOOK = "https://ntfy.example/very-secret\ntoken"


@pytest.fixture
def with_webhook(declared: dict[str, object]) -> Settings:
    return Settings.model_validate(declared | {"alerts": {"webhook": {"format": "slack"}, "disk": 70}})


def read_config(part: Part, directory: Path) -> WatchConfig:
    """As the watch reads it."""
    for file in part.files:
        if file.path.startswith("/etc/mailkeep/"):
            (directory / Path(file.path).name).write_bytes(file.content)
    return load_config(directory / "watch.json")


def test_the_watch_reads_its_configuration(settings: Settings, tmp_path: Path) -> None:
    config = read_config(alerts.build_part(settings, None, ()), tmp_path)
    assert (config.host, config.admins, config.webhook) == ("mail.example.org", ["ann@example.net"], None)
    logins = [143, 465, 587, 993, 4190]
    assert config.jails == {
        "sshd": [22],
        "postfix": [25, *logins],
        "dovecot": logins,
        "managesieve": logins,
        "recidive": [22, *logins],
    }
    assert config.never_ban == ["192.0.2.1", "2001:db8::1", "198.51.100.0/24", "2001:db8:5::/64"]
    assert config.channels == ("mail",)


def test_every_bound_of_mail_yml_reaches_the_watch(declared: dict[str, object], tmp_path: Path) -> None:
    bounds = {"certificate_days": 21, "queue": 321, "disk": 71, "failed_logins": 43}
    settings = Settings.model_validate(declared | {"alerts": bounds})
    config = read_config(alerts.build_part(settings, None, ()), tmp_path)
    assert config.min_certificate_days == 21
    assert config.max_queued_messages == 321
    assert config.max_disk_percent == 71
    assert config.max_failed_logins == 43


def test_only_programs_that_run_have_their_troubles_read(declared: dict[str, object], tmp_path: Path) -> None:
    both = declared | {"tls": {"mode": "acme"}}
    config = read_config(alerts.build_part(Settings.model_validate(both), None, ()), tmp_path)
    assert config.dns_troubles_file == "/var/lib/mailkeep-dns/troubles.json"
    assert config.renewal_troubles_file == "/var/lib/mailkeep-certificate/troubles.json"
    neither = Settings.model_validate(declared | {"resolver": "system"})
    config = read_config(alerts.build_part(neither, None, ()), tmp_path)
    assert (config.dns_troubles_file, config.renewal_troubles_file) == ("", "")


def test_announcements_of_reports_are_read_where_reports_arrive(declared: dict[str, object], tmp_path: Path) -> None:
    settings = Settings.model_validate(declared)
    config = read_config(alerts.build_part(settings, None, ()), tmp_path)
    assert config.report_announcements_file == "/var/lib/mailkeep-reports/announcements.json"
    elsewhere = Settings.model_validate(declared | {"dns": {"reports": "reports@example.net"}})
    assert read_config(alerts.build_part(elsewhere, None, ()), tmp_path).report_announcements_file == ""


def test_every_unit_that_must_run_is_watched(settings: Settings, tmp_path: Path) -> None:
    stopped = Part("x", units=(Unit("no.service", running=False),))
    services = (ssh.build_part(settings), firewall.build_part(settings), stopped)
    config = read_config(alerts.build_part(settings, None, services), tmp_path)
    assert config.units == ["ssh.service", "nftables.service", "mailkeep-jails.timer", "mailkeep-weekly.timer"]
    assert config.on_demand == []


def test_the_milters_that_end_when_idle_are_watched_with_their_sockets(settings: Settings, tmp_path: Path) -> None:
    config = read_config(alerts.build_part(settings, None, (lines.build_part(settings),)), tmp_path)
    assert config.units[:2] == ["mailkeep-lines.socket", "mailkeep-lines.service"]
    assert config.on_demand == ["mailkeep-lines.service"]


def test_every_jail_is_watched(settings: Settings) -> None:
    assert set(fail2ban.banned_ports_by_jail(settings)) == set(fail2ban.JAILS)


def test_the_webhooks_secret_is_in_a_file_that_only_root_reads_and_that_is_never_shown(
    with_webhook: Settings, tmp_path: Path
) -> None:
    part = alerts.build_part(with_webhook, WEBHOOK, ())
    (secret,) = [file for file in part.files if b"very-secret" in file.content]
    assert (secret.path, secret.owner, secret.mode, secret.secret) == ("/etc/mailkeep/webhook", "root", 0o600, True)
    config = read_config(part, tmp_path)
    assert config.webhook
    assert (config.webhook.format, config.webhook.url, config.webhook.token) == ("slack", *WEBHOOK.split("\n"))
    assert config.channels == ("mail", "webhook")
    assert "very-secret" not in repr(config) + repr(part.files)


def test_without_a_webhook_its_secret_goes(settings: Settings) -> None:
    assert alerts.build_part(settings, None, ()).absent == ("/etc/mailkeep/webhook",)
