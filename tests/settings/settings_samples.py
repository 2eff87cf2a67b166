"""Valid mail.yml files in which every setting occurs, and what tests do with one."""

from pathlib import Path

import pytest

from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.yaml_reader import Problem, SettingsError

SALT_AND_DIGEST = "2b4fYwrsusIjrfimc3MFvw$MiGIqKV9aEP4koUvcuIkQpdtKftJqMrZnwq2+tdVtCg"
HASH = f"{{ARGON2ID}}$argon2id$v=19$m=19456,t=2,p=1${SALT_AND_DIGEST}"

ACCOUNT_LIMITS = """\
    limits:
      messages_per_10_minutes: 25
      messages_per_hour: 70
      messages_per_day: 350
      recipients_per_10_minutes: 65
      recipients_per_hour: 160
      recipients_per_day: 1000
      new_recipients_per_day: 250
      networks_per_hour: 10
"""
BY_ACME = """\
tls:
  mode: acme
  acme:
    directory: https://acme-staging-v02.api.letsencrypt.org/directory
    contact: certificates@example.com
    challenge: dns-01
    provider: rfc2136
"""
BY_FILES = """\
tls:
  mode: files
  certificate: chain.pem
"""
GUARD = """\
guard:
  mode: learn
  limits:
    messages_per_10_minutes: 15
    messages_per_hour: 50
    messages_per_day: 250
    recipients_per_10_minutes: 50
    recipients_per_hour: 120
    recipients_per_day: 400
    new_recipients_per_day: 150
    networks_per_hour: 6
  server: {recipients_per_hour: 1500, recipients_per_day: 8000}
  local: {recipients_per_hour: 60, recipients_per_day: 300}
  leaving: {recipients_per_hour: 3100, recipients_per_day: 17000, connections_per_hour: 9000}
  forwards: {recipients_per_hour: 70, recipients_per_day: 400}
  lists: {recipients_per_hour: 80, recipients_per_day: 450, messages_per_hour: 3, messages_per_day: 12}
  receiving:
    messages_per_hour: 900
    network_messages_per_hour: 350
    new_senders_per_hour: 40
    exempt: [198.51.100.70]
  freeze:
    refused_tries: 20
    foreign_senders: 5
    networks: 9
    new_recipients: 200
    spam_messages: 12
  holds:
    {strangeness: 8, dead: 4, refused: 6, share: 9, complaints: 4, complaint_share: 5, freeze_dead: 11,
    freeze_refused: 16, freeze_share: 30, freeze_complaints: 12, freeze_complaint_share: 25}
  shared_store:
    host: valkey.example.org
    port: 6380
    tls: no
    user: mailkeep
"""

COMPLETE = f"""\
# every section; of `tls`, the settings for certificates by ACME
host:
  name: mail.example.org
  addresses: [203.0.113.25, "2001:db8::25"]
  forwarded_from: [203.0.113.20, "2001:db8::20"]
domains:
  - example.org
  - example.net
accounts:
  - address: anna@example.org
    password: '{HASH}'
    name: Anna Example
    quota: 2G
    send_as: [info@example.org, team@example.net]
    forward: [anna@elsewhere.example]
    confirm_at: anna@elsewhere.example
{ACCOUNT_LIMITS}\
  - address: bert@example.net   # the second
    password: '{HASH}'
aliases:
  info@example.org: [anna@example.org, bert+info@example.net]
  team@example.net: info@example.org
  away@example.org: someone@elsewhere.example
  board@example.org: [anna@example.org, bert@example.net]
members_only: [board@example.org]
catch_all:
  example.net: bert@example.net
catch_all_except: [old@example.net]
admin:
  addresses: [you@example.com]
  networks: [192.0.2.0/24, 2001:db8:1::/48, 198.51.100.7]
alerts:
  webhook:
    format: slack
    template: '{{"content": "{{title}}: {{text}}"}}'
  queue: 500
  disk: 90
  certificate_days: 21
  failed_logins: 1000
  weekly: no
relay:
  host: smtp.example.com
  port: submission
  user: anna
{BY_ACME}\
dns:
  dmarc: quarantine
  reports: reports@elsewhere.example
  spf: [include:_spf.example.com, "ip6:2001:db8:2::/48"]
  never_send: [www.example.org]
  mta_sts: enforce
  caa: [letsencrypt.org]
inbound:
  trusted: [192.0.2.77, scanner.example.org, "include:_spf.shop.example"]
  trusted_sealers: [lists.example.net]
  refused_attachments: [programs, macros, ace]
web:
  mta_sts: yes
  autoconfig: yes
retention:
  journal: 100M
  queue_days: 3
  trash_days: 14
  report_days: 90
backup:
  targets:
    - name: offsite
      path: /srv/backup/mail
      host: backup.example.net
      port: 2022
      user: keeper
      host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEB1Z29vZGV4YW1wbGVrZXlmb3Jkb2N1bWVudGF0
    - {{name: disk, path: /mnt/disk/mail}}
  every_hours: 12
  keep: {{daily: 8, weekly: 6, monthly: 13}}
resolver: system
ssh:
  port: 2222
  passwords: no
firewall:
  block: [198.51.100.128/25]
  open: [{{port: 9100, protocol: tcp, networks: [198.51.100.7]}}, https, 8443, 51820/udp]
  may_send: [172.30.0.0/24]
forwarders: [198.51.100.60, 2001:db8:60::/48]
spam:
  filter: full
  when_down: pass
local_senders: [root, www-data]
{GUARD}\
accepted: [job:/etc/cron.d/backup, group:sudo:anna]
message_size: 30M
"""
COMPLETE_WITH_FILES = (
    COMPLETE.replace(BY_ACME, BY_FILES)
    .replace("resolver: system", "resolver: local")
    .replace("  when_down: pass\n", "  when_down: pass\n  dnsbls: [zen.spamhaus.org]\n")
)
WITHOUT_GUARD = COMPLETE.replace(GUARD, "")


class Inventory:
    """A mail.yml to write and load."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str | bytes) -> "Inventory":
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self

    def change(self, old: str, new: str, text: str = COMPLETE) -> "Inventory":
        """Writes `text` with `old`, which occurs in it once, replaced."""
        assert text.count(old) == 1, f"{old!r} is in the file {text.count(old)} times"
        return self.write(text.replace(old, new))

    def load(self) -> Settings:
        return load_settings(self.path)

    def problems(self) -> tuple[Problem, ...]:
        with pytest.raises(SettingsError) as raised:
            self.load()
        return raised.value.problems

    def problem(self) -> Problem:
        """The only problem."""
        (problem,) = self.problems()
        return problem

    def message(self) -> str:
        with pytest.raises(SettingsError) as raised:
            self.load()
        return str(raised.value)


def line_of(text: str, fragment: str) -> int:
    """The number of the only line that holds `fragment`."""
    (number,) = [number for number, line in enumerate(text.splitlines(), 1) if fragment in line]
    return number
