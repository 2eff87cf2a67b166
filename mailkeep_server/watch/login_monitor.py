"""Logins as Dovecot's journal shows them: from networks that are new to an account, and failures that soar. Also lines
that say that Dovecot accepts no more connections, or no mail.

Nothing is decided here, only reported. An attacker chooses the user name in these lines; only that of a
successful login is an account's. The address after it is Dovecot's own word.
"""

import json
import re
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from mailkeep_server.common.networks import network_of
from mailkeep_server.common.wording import count_noun
from mailkeep_server.watch import busy_ports
from mailkeep_server.watch.alert_queue import URGENT, AlertQueue

# Dovecot 2.4.1; earlier and later versions write `Login:`.
LOGIN = re.compile(
    r"(?:imap|managesieve)-login: (?:Logged in|Login): user=<([^<>\s,]+)>, method=\S+, rip=([0-9a-fA-F:.]+),"
)
# As the filter of the jail: one line for each password tried, by IMAP or by SMTP.
FAILED_LOGIN = re.compile(
    r"auth\([^,()]*,([0-9a-fA-F:.]+),sasl:[\w-]+\)(?:<[^>]*>)?: (?:passwd-file: |[\w-]+: Username char)"
)
# By Dovecot's master: the lines of other processes begin with their names. It may be process_limit or client_limit.
LIMIT_REACHED = re.compile(r"(?:master: )?(?:Warning: )?service\(([\w-]+)\): (\w+_limit \(\d+\)) reached")
# By imap, of an account that has logged in. See limit_sessions.
SESSIONS_LIMIT = re.compile(r"(?:imap|sieve)\(([^()\s]+)\): Error: Post-login script denied access to user ")
# By Postfix's error(8), which gets messages for a destination that the queue manager has given up for some time.
# Neither an address, which is in <>, nor another server's answer, which follows its name, can look like it.
DELIVERY_SUSPENDED = re.compile(
    r"(?:[^<(]|<[^>]*>)* status=deferred \(delivery temporarily suspended: "
    r"([\w ]+ [\w.-]+\[private/dovecot-lmtp\][^<>]*)\)$"
)
JOURNAL_COMMAND = (
    *("journalctl", "--follow", "--no-tail", "--output=json", "--output-fields=MESSAGE"),
    *("_SYSTEMD_UNIT=dovecot.service", "+", "_SYSTEMD_UNIT=postfix.service"),
    # Of one field, any of several values.
    *(f"SYSLOG_IDENTIFIER=postfix/{agent}" for agent in ("error", "smtp", "lmtp", "relay/smtp")),
    # Only root may log by these names.
    *("+", "_UID=0", *(f"SYSLOG_IDENTIFIER={name}" for name in busy_ports.IDENTIFIERS)),
)
REPEAT_SECONDS = 1800.0  # until a condition that has a line for each connection or message is reported again
REREAD_SECONDS = 30.0  # of the journal that a starting watch reads: the last one may have died meanwhile
MAX_NETWORKS = 100  # remembered for an account
NEWS_AFTER = 7 * 86400.0  # seconds from the watch's first start. Until then each account's first login is no news
FAILURE_WINDOW = 600.0  # seconds
FAILURE_STEP = 10.0  # seconds; failures of one step are counted together
MAX_FAILURE_ADDRESSES = 1000
SHOWN_ADDRESSES = 3


class FailureCounter:
    """Failed logins of the last ten minutes, and from how many addresses the last thousand came."""

    def __init__(self) -> None:
        self.steps: deque[list[float]] = deque()  # [start, failures]
        self.addresses: deque[tuple[float, str]] = deque(maxlen=MAX_FAILURE_ADDRESSES)

    def add_failure(self, now: float, address: str) -> None:
        if not self.steps or now - self.steps[-1][0] >= FAILURE_STEP:
            self.steps.append([now, 0])
        self.steps[-1][1] += 1
        self.addresses.append((now, address))

    def count_recent(self, now: float) -> tuple[int, Counter[str]]:
        """Failures, and the addresses of the last thousand with how many came from each."""
        while self.steps and now - self.steps[0][0] > FAILURE_WINDOW:
            self.steps.popleft()
        recent = Counter(address for at, address in self.addresses if now - at <= FAILURE_WINDOW)
        return int(sum(failures for _, failures in self.steps)), recent


class LoginMonitor:
    """Follows the journal in a thread of its own."""

    def __init__(
        self,
        alerts: AlertQueue,
        max_failures: int,
        state: Mapping[str, Any] | None = None,
        read_delivery: Callable[[str], object] = lambda _: None,
        ssh_port: int = 22,
    ) -> None:
        """`read_delivery` gets the lines of Postfix's delivery agents."""
        self.read_delivery, self.ssh_port = read_delivery, ssh_port
        self.alerts, self.max_failures = alerts, max_failures
        self.networks: dict[str, list[str]] = dict((state or {}).get("networks", {}))
        self.began_at: float = (state or {}).get("logins_since", time.time())
        self.failures, self.are_soaring = FailureCounter(), False
        self.last_reports: dict[str, float] = {}
        self.lock = threading.Lock()
        self.read_until = time.time() - REREAD_SECONDS

    def export_state(self) -> dict[str, Any]:
        """For the constructor after a restart, as JSON values."""
        with self.lock:
            networks = {account: list(networks) for account, networks in self.networks.items()}
            return {"networks": networks, "logins_since": self.began_at}

    def start(self) -> None:
        threading.Thread(target=self._follow_journal, name="journal", daemon=True).start()

    def _follow_journal(self) -> None:
        while True:
            command = [*JOURNAL_COMMAND, f"--since=@{self.read_until:.6f}"]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as journal:
                assert journal.stdout
                for line in journal.stdout:
                    self.read_line(line)
                journal.kill()
            self.alerts.report_event("journal", "journalctl ended; the watch starts it again to read logins")
            time.sleep(1)

    def read_line(self, line: bytes) -> None:
        """One entry of the journal as JSON. Bytes that are no text, and lines cut short, are ignored."""
        try:
            entry = json.loads(line)
            self.read_until = int(entry["__REALTIME_TIMESTAMP"]) / 1e6
            self.read_message(entry["MESSAGE"])
        except (ValueError, KeyError, TypeError):
            return

    def read_message(self, text: str) -> None:
        if match := LOGIN.match(text):
            self._note_login(match[1].lower(), match[2])
        elif match := FAILED_LOGIN.match(text):
            with self.lock:
                self.failures.add_failure(time.time(), match[1])
        elif match := LIMIT_REACHED.match(text):
            hint = "`doveadm who` says who holds the sessions, `mailkeepctl freeze` ends an account's"
            self._report_lasting(
                f"full:{match[1]}", f"Dovecot's {match[1]} accepts no more connections: {match[2]} reached; {hint}"
            )
        elif match := SESSIONS_LIMIT.match(text):
            text = f"{match[1]} has as many IMAP sessions as an account may have, and gets no more for now"
            hint = (
                f"`doveadm who {match[1]}` says from where; if that is somebody else, `mailkeepctl freeze {match[1]}`"
            )
            self._report_lasting(f"sessions:{match[1]}", f"{text}; {hint}")
        elif match := DELIVERY_SUSPENDED.match(text):
            text = f"Mail is not delivered to the mailboxes, and waits in the queue: {match[1]}"
            self._report_lasting("suspended", f"{text}; `systemctl status dovecot` says why")
        elif busy := busy_ports.describe_busy_port(text, self.ssh_port):
            self._report_lasting(*busy)
        else:
            self.read_delivery(text)

    def _report_lasting(self, key: str, text: str) -> None:
        now = self.alerts.clock()
        if not 0 <= now - self.last_reports.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            self.last_reports[key] = now
            self.alerts.report_event(key, text, URGENT)

    def _note_login(self, account: str, address: str) -> None:
        network = network_of(address)
        with self.lock:
            known = self.networks.get(account, [])
            # The last one used is the last of the list; the one not used for longest is forgotten.
            others = [other for other in known if other != network]
            self.networks[account] = [*others, network][-MAX_NETWORKS:]
        advice = f"if that is not its owner, `mailkeepctl freeze {account}`"
        if known and network not in known:
            text = f"{account} has read mail from a network that is new to it: {address}; {advice}"
            self.alerts.report_event(f"network:{account}", text)
        elif not known and time.time() - self.began_at > NEWS_AFTER:
            # A password that nobody uses is the one whose theft nobody notices.
            text = f"{account} has read mail for the first time, from {address}; {advice}"
            self.alerts.report_event(f"network:{account}", text, URGENT)

    def check_failures(self) -> None:
        """Reports failures that soar; to be called every few seconds."""
        with self.lock:
            count, addresses = self.failures.count_recent(time.time())
        self.are_soaring = count > (self.max_failures // 2 if self.are_soaring else self.max_failures)
        if self.are_soaring:
            worst = ", ".join(f"{number} from {address}" for address, number in addresses.most_common(SHOWN_ADDRESSES))
            failures = (
                f"{count} logins failed in ten minutes, from {count_noun(len(addresses), 'address', 'addresses')}"
            )
            next_step = "`fail2ban-client banned` shows the bans; `firewall.block` in mail.yml shuts a network out"
            text = f"Somebody guesses passwords: {failures}; of the last ones {worst}. {next_step}"
            self.alerts.report_trouble("failures", text, "Few logins fail again")
        else:
            self.alerts.end_trouble("failures")
