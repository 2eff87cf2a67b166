"""A valid mail.yml with everything in it, and what to do to it."""

from pathlib import Path

import pytest

from mailkeep.settings.load import load_settings
from mailkeep.settings.models import Settings
from mailkeep.settings.yaml_reader import Problem, SettingsError

SALT_AND_DIGEST = "2b4fYwrsusIjrfimc3MFvw$MiGIqKV9aEP4koUvcuIkQpdtKftJqMrZnwq2+tdVtCg"
HASH = f"{{ARGON2ID}}$argon2id$v=19$m=19456,t=2,p=1${SALT_AND_DIGEST}"

COMPLETE = f"""\
# all that can be set
host:
  name: mail.example.org
  addresses: [203.0.113.25, "2001:db8::25"]
domains:
  - example.org
  - example.net
accounts:
  - address: anna@example.org
    password: '{HASH}'
    name: Anna Example
    quota: 2G
    send_as: [info@example.org, team@example.net]
  - address: bert@example.net   # the second
    password: '{HASH}'
aliases:
  info@example.org: [anna@example.org, bert+info@example.net]
  team@example.net: info@example.org
  away@example.org: someone@elsewhere.example
catch_all:
  example.net: bert@example.net
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
relay:
  host: smtp.example.com
  port: submission
  user: anna
tls:
  mode: files
  certificate: chain.pem
dns:
  dmarc: quarantine
  reports: reports@elsewhere.example
  spf: [include:_spf.example.com, "ip6:2001:db8:2::/48"]
  never_send: [www.example.org]
  mta_sts: enforce
  caa: [letsencrypt.org]
web:
  mta_sts: yes
  autoconfig: yes
retention:
  journal: 100M
  queue_days: 3
  trash_days: 14
resolver: system
ssh:
  port: 2222
  passwords: no
firewall:
  block: [198.51.100.128/25]
  open: [https, 8443]
local_senders: [root, www-data]
message_size: 30M
"""


class Inventory:
    """A mail.yml to write, load and look at."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str | bytes) -> "Inventory":
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self

    def change(self, old: str, new: str) -> "Inventory":
        """The complete file with `old`, which is there once, replaced."""
        assert COMPLETE.count(old) == 1, f"{old!r} is in the file {COMPLETE.count(old)} times"
        return self.write(COMPLETE.replace(old, new))

    def load(self) -> Settings:
        return load_settings(self.path)

    def problems(self) -> tuple[Problem, ...]:
        with pytest.raises(SettingsError) as raised:
            self.load()
        return raised.value.problems

    def problem(self) -> Problem:
        """The only problem, and what its message says is so."""
        (problem,) = self.problems()
        return problem

    def message(self) -> str:
        with pytest.raises(SettingsError) as raised:
            self.load()
        return str(raised.value)


def line_of(text: str, fragment: str) -> int:
    """The number of the only line that holds `fragment`."""
    (number,) = [n for n, line in enumerate(text.splitlines(), 1) if fragment in line]
    return number
