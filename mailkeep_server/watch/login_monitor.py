"""Logins, as Dovecot's journal has them: from networks that an account has not used, and failures that soar. And that
it takes no more of them, or no mail.

Nothing is decided by it: the operator is told. A name in these lines is one that an attacker may choose, but of a
login that worked it is an account's, and the address after it is Dovecot's word.
"""

import json
import re
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from mailkeep_server.common.networks import network_of
from mailkeep_server.watch.alert_queue import Desk

# Dovecot 2.4.1; earlier and later ones say `Login:`.
LOGGED_IN = re.compile(r"imap-login: (?:Logged in|Login): user=<([^<>\s,]+)>, method=\S+, rip=([0-9a-fA-F:.]+),")
# As the jail's filter: one line for each password tried, over IMAP and over SMTP.
FAILED = re.compile(
    r"auth\([^,()]*,([0-9a-fA-F:.]+),sasl:[\w-]+\)(?:<[^>]*>)?: (?:passwd-file: |[\w-]+: Username char)"
)
# Of the master: others' lines begin with what they are. client_limit is the other that it may say.
FULL = re.compile(r"(?:master: )?(?:Warning: )?service\(([\w-]+)\): (\w+_limit \(\d+\)) reached")
# Of error(8), to which the queue manager gives what is for a destination that it has given up for the time being. No
# address, which is in <>, and no answer of another server's, which comes after its name, is taken for it.
SUSPENDED = re.compile(
    r"(?:[^<(]|<[^>]*>)* status=deferred \(delivery temporarily suspended: "
    r"([\w ]+ [\w.-]+\[private/dovecot-lmtp\][^<>]*)\)$"
)
JOURNAL = (
    *("journalctl", "--follow", "--no-tail", "--output=json", "--output-fields=MESSAGE"),
    *("_SYSTEMD_UNIT=dovecot.service", "+", "_SYSTEMD_UNIT=postfix.service", "SYSLOG_IDENTIFIER=postfix/error"),
)
AGAIN = 1800.0  # seconds until what lasts is told again
LOOK_BACK = 30.0  # seconds of journal that a watch that starts reads: the last one may have died
NETWORKS = 100  # that are remembered for an account
WINDOW, STEP = 600.0, 10.0  # seconds


class Failures:
    """How many logins failed in the last ten minutes, from how many addresses (of the last thousand)."""

    def __init__(self) -> None:
        self.counts: deque[list[float]] = deque()  # [start of a step, count]
        self.addresses: deque[tuple[float, str]] = deque(maxlen=1000)

    def add(self, now: float, address: str) -> None:
        if not self.counts or now - self.counts[-1][0] >= STEP:
            self.counts.append([now, 0])
        self.counts[-1][1] += 1
        self.addresses.append((now, address))

    def seen(self, now: float) -> tuple[int, int]:
        while self.counts and now - self.counts[0][0] > WINDOW:
            self.counts.popleft()
        recent = {address for at, address in self.addresses if now - at <= WINDOW}
        return int(sum(count for _, count in self.counts)), len(recent)


class Logins:
    """Follows the journal in a thread of its own."""

    def __init__(self, desk: Desk, most_failures: int, state: Mapping[str, Any] | None = None) -> None:
        self.desk, self.most = desk, most_failures
        self.networks: dict[str, list[str]] = dict((state or {}).get("networks", {}))
        self.failures, self.soaring = Failures(), False
        self.told: dict[str, float] = {}
        self.lock = threading.Lock()
        self.read = time.time() - LOOK_BACK

    def state(self) -> dict[str, Any]:
        with self.lock:
            return {"networks": {account: list(known) for account, known in self.networks.items()}}

    def start(self) -> None:
        threading.Thread(target=self._follow, name="journal", daemon=True).start()

    def _follow(self) -> None:
        while True:
            # From where it was when it ended, or when the watch began.
            with subprocess.Popen([*JOURNAL, f"--since=@{self.read:.6f}"], stdout=subprocess.PIPE) as journal:
                assert journal.stdout
                for line in journal.stdout:
                    self._line(line)
                journal.kill()
            self.desk.happened("journal", "journalctl has ended; logins are read again in a second")
            time.sleep(1)

    def _line(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            self.read = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            self.message(entry["MESSAGE"])
        except (ValueError, KeyError, TypeError):
            return  # bytes that are no text, or a line cut short

    def message(self, text: str) -> None:
        if found := LOGGED_IN.match(text):
            self._login(found[1].lower(), found[2])
        elif found := FAILED.match(text):
            with self.lock:
                self.failures.add(time.time(), found[1])
        elif found := FULL.match(text):
            told = f"Dovecot's {found[1]} takes nobody any more: {found[2]} reached"
            hint = "`doveadm who` says who holds the sessions, `mailkeepctl freeze` ends an account's"
            self._lasts(f"full:{found[1]}", f"{told}; {hint}")
        elif found := SUSPENDED.match(text):
            told = f"Mail is not delivered to the mailboxes, and waits in the queue: {found[1]}"
            self._lasts("suspended", told)

    def _lasts(self, key: str, text: str) -> None:
        """Of what the journal has a line for each connection or message: once in a while is enough."""
        now = self.desk.clock()
        if not 0 <= now - self.told.get(key, -AGAIN) < AGAIN:
            self.told[key] = now
            self.desk.happened(key, text, urgent=True)

    def _login(self, account: str, address: str) -> None:
        here = network_of(address)
        with self.lock:
            known = self.networks.get(account, [])
            # The last one used comes last, and the one that was not used for longest goes.
            self.networks[account] = [*(one for one in known if one != here), here][-NETWORKS:]
        if known and here not in known:
            text = f"{account} has read mail from a network that it never used before: {address}"
            self.desk.happened(f"network:{account}", text)

    def look(self) -> None:
        """Tells whether failures soar; to be called every few seconds."""
        with self.lock:
            count, addresses = self.failures.seen(time.time())
        self.soaring = count > (self.most // 2 if self.soaring else self.most)
        if self.soaring:
            text = f"Somebody guesses passwords: {count} logins failed in ten minutes, from {addresses} addresses"
            self.desk.trouble("failures", text, "Few logins fail again")
        else:
            self.desk.over("failures")
