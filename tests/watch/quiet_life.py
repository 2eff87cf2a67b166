"""What an honest small server meets in a week, and what its services log meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

from simulated_machine import START
from simulated_server import ACCOUNTS, DAY, HOUR, Simulation
from watch_samples import write_queue_file

MINUTE = 60.0
TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = (START + day * DAY for day in (1, 2, 3, 4, 5, 6))
MAIL_BY_DAY = 100  # messages in each direction
DEAD, RESTARTED, MAINTAINED = "dead.example", "restarted.example", "example.net"
GONE = tuple(f"gone{number}.example" for number in range(8))  # servers that nobody runs any more
GREYLISTING = ("grey.example", "wary.example", "slow.example")
OTHERS = tuple(f"friends{number}.example" for number in range(9))
NETWORKS = {name: (f"2001:db8:{10 + n}::5", f"2001:db8:{20 + n}::7") for n, name in enumerate(ACCOUNTS)}
"""By account, an address of its laptop's network, and one of its phone's."""
BEN = "ben@example.org"
HOTEL = "2001:db8:99::4"
DOVECOT = "mail.example.org[private/dovecot-lmtp]"
BAN_SECONDS = 15 * MINUTE
GREYLIST_SECONDS = 590.0
QUEUE_LIFETIME = 2 * DAY  # maximal_queue_lifetime
MIN_BACKOFF, MAX_BACKOFF = 300.0, 4000.0  # minimal_backoff_time, maximal_backoff_time


@dataclass
class Message:
    queue_id: str
    sender: str
    recipient: str
    arrival: float

    @property
    def domain(self) -> str:
        return self.recipient.partition("@")[2]


@dataclass
class QuietLife:
    """The life of the server from `begin` on; it goes on to `end`. Tests set what is really wrong."""

    simulation: Simulation
    begin: float
    end: float
    is_blocked: bool = False
    refusing_accounts: set[str] = field(default_factory=set)
    dead_domains: set[str] = field(default_factory=lambda: {DEAD, *GONE})
    are_jails_proven: bool = True
    is_ending: bool = False  # Dovecot
    proof_faults: dict[str, list[str]] = field(default_factory=dict)
    messages: int = 0
    random: Random = field(default_factory=lambda: Random(9))  # noqa: S311

    def plan_week(self) -> None:
        for day in range(7):
            midnight = START + day * DAY
            self._plan_mail(midnight)
            self._plan_logins(midnight)
            self._plan_guesses(midnight)
            self._plan_checks(midnight)
        self._plan_upgrades()
        self._plan_events()

    def _at(self, when: float, action: Callable[[], None]) -> None:
        if self.begin < when < self.end:
            self.simulation.at(when, action)

    def _plan_mail(self, midnight: float) -> None:
        for _ in range(MAIL_BY_DAY):
            account, other = self.random.choice(ACCOUNTS), self.random.choice(OTHERS)
            self._at(midnight + self._choose_daytime(), partial(self.send_message, account, f"friend@{other}"))
            account = self.random.choice(ACCOUNTS)
            self._at(midnight + self._choose_daytime(), partial(self.receive_message, account))
        for hour in (9, 13, 20):  # to three who are at two servers with greylisting
            for recipient in (f"a@{GREYLISTING[0]}", f"b@{GREYLISTING[0]}", f"c@{GREYLISTING[1]}"):
                self._at(midnight + hour * HOUR, partial(self.send_message, "ben", recipient))
        self._at(midnight + 22.9 * HOUR, partial(self.send_message, "carla", f"d@{GREYLISTING[2]}"))
        self._at(midnight + 11 * HOUR, partial(self.send_message, "anna", "frind@friends1.example"))
        for hour in (2, 4):  # cron's
            self._at(midnight + hour * HOUR, partial(self.send_message, "root", f"ann@{MAINTAINED}"))

    def _choose_daytime(self) -> float:
        """Seconds after midnight, from 7 to 23."""
        return self.random.uniform(7 * HOUR, 23 * HOUR)

    def _plan_logins(self, midnight: float) -> None:
        for account, (laptop, phone) in NETWORKS.items():
            for half_hour in range(48):
                at = midnight + half_hour * HOUR / 2 + self.random.uniform(0, 900)
                self._at(at, partial(self.log_in, account, phone))
                if 16 <= half_hour < 40:
                    self._at(at + 300, partial(self.log_in, account, laptop))

    def _plan_guesses(self, midnight: float) -> None:
        for hour in range(24):
            at = midnight + hour * HOUR + self.random.uniform(0, 3000)
            self._at(at, partial(self.guess_passwords, f"203.0.113.{self.random.randrange(1, 255)}"))

    def _plan_checks(self, midnight: float) -> None:
        """The jails are proven each half hour, the certificate is looked at each hour, the DNS each day."""
        simulation, config = self.simulation, self.simulation.config
        for half_hour in range(48):
            self._at(midnight + half_hour * HOUR / 2 + 420, self.prove_jails)
        for hour in range(24):
            self._at(midnight + hour * HOUR + 720, partial(simulation.write_troubles, config.renewal_troubles_file))
        self._at(midnight + 5 * HOUR, partial(simulation.write_troubles, config.dns_troubles_file))
        self._at(midnight + 12 * HOUR, self._fill_disk)

    def _fill_disk(self) -> None:
        self.simulation.machine.disk_percent += 0.6

    def _plan_upgrades(self) -> None:
        names = ("dovecot", "unbound", "fail2ban", "opendkim", "postfix")
        for day, name in enumerate(names):
            seconds = (2.5, 3.2) if name == "fail2ban" else (1.5, 2.0)
            self._at(START + day * DAY + 6.6 * HOUR, partial(self.restart_service, f"{name}.service", *seconds))
        for number, name in enumerate((*names, "mailkeep-guard")):  # an upgrade of a library restarts all of them
            self._at(SUNDAY + 6.6 * HOUR + 8 * number, partial(self.restart_service, f"{name}.service"))
        self._at(SUNDAY + 6.6 * HOUR + 50, self.restart_systemd)

    def _plan_events(self) -> None:
        self._plan_mail_to_gone_servers()
        self._at(THURSDAY + 14 * HOUR, partial(self.send_message, "anna", f"old@{DEAD}"))
        self._at(FRIDAY + 3.2 * HOUR, self.renew_certificate)
        self._at(FRIDAY, partial(self.simulation.log_line, "dovecot", "no line of interest \ufffd"))
        # The administrator's other server is in maintenance for two hours of a night.
        self._at(WEDNESDAY + 1.5 * HOUR, partial(self.dead_domains.add, MAINTAINED))
        self._at(WEDNESDAY + 3.5 * HOUR, partial(self.dead_domains.discard, MAINTAINED))
        # While the dead server is tried again, another one restarts in the night.
        self._at(SATURDAY + 0.4 * HOUR, partial(self.dead_domains.add, RESTARTED))
        self._at(SATURDAY + 0.5 * HOUR, partial(self.send_message, "ben", f"night@{RESTARTED}"))
        self._at(SATURDAY + 1.1 * HOUR, partial(self.dead_domains.discard, RESTARTED))
        self._at(FRIDAY + 19 * HOUR, partial(self.log_in, "anna", HOTEL))
        self._at(FRIDAY + 19.2 * HOUR, self._send_from_hotel)
        self._at(SATURDAY + 4.5 * HOUR, self.reboot)

    def _plan_mail_to_gone_servers(self) -> None:
        """One message to three in the night, for two of whom connections time out; and a newsletter in the evening."""
        self._at(TUESDAY + HOUR, partial(self.send_message, "carla", f"friend@{OTHERS[1]}"))
        for domain in GONE[:2]:
            self._at(TUESDAY + HOUR + 30, partial(self.send_message, "carla", f"friend@{domain}"))
        readers = [f"reader{number}@{GONE[number % 8]}" for number in range(100)]
        for reader in (*readers[:8], f"reader@{OTHERS[2]}", *readers[8:]):
            self._at(TUESDAY + 22 * HOUR, partial(self.send_message, "ben", reader))

    def _send_from_hotel(self) -> None:
        self.simulation.add_guard_event(
            "network", "anna@example.org", "sends from 2001:db8:99::/48, for the first time"
        )

    # --- logins

    def log_in(self, account: str, address: str) -> None:
        self.simulation.log_line(
            "dovecot",
            f"imap-login: Logged in: user=<{account}@example.org>, method=PLAIN, rip={address}, lip=2001:db8::1, "
            "mpid=4711, TLS, session=<bk4GRBxhK4ogAQ24>",
        )

    def guess_passwords(self, address: str) -> None:
        """Five failures, and the ban."""
        for name in ("anna@example.org", "info@example.org", "test", "admin", "ben@example.org"):
            reason = "unknown user" if "@" not in name else "Password mismatch"
            self.simulation.log_line(
                "dovecot", f"auth({name},{address},sasl:plain)<SbnpQBxhTrPGM2RB>: passwd-file: {reason}"
            )
        self._change_bans()
        self.simulation.observe_now()
        self.simulation.after(BAN_SECONDS, self._change_bans)

    def _change_bans(self) -> None:
        """Elements of a set, which nft does not list, but counts as a change."""
        self.simulation.machine.generation += 1

    def prove_jails(self) -> None:
        if self.are_jails_proven:
            self._change_bans()
            self.simulation.after(20, partial(self.simulation.write_proof, self.proof_faults))

    # --- mail

    def receive_message(self, account: str) -> None:
        self.messages += 1
        self._store_message(Message(self._next_id(), "friend@friends3.example", f"{account}@example.org", self._now))

    def send_message(self, account: str, recipient: str) -> None:
        self.messages += 1
        host = "mail.example.org" if account == "root" else "example.org"
        self._deliver(Message(self._next_id(), f"{account}@{host}", recipient, self._now))

    @property
    def _now(self) -> float:
        return self.simulation.clock.now

    def _next_id(self) -> str:
        return f"4Tm{self.messages:05d}z{self.random.randrange(10**6):06d}"

    def _store_message(self, message: Message) -> None:
        """lmtp(8)."""
        dovecot = self.simulation.machine.units["dovecot.service"]
        if self.is_ending:
            answer = f"host {DOVECOT} said: 421 4.3.2 Shutting down (in reply to MAIL FROM command)"
            self._defer(message, "lmtp", DOVECOT, answer, self._store_message)
        elif dovecot.state not in ("active", "reloading"):
            self._defer(message, "lmtp", "none", f"connect to {DOVECOT}: Connection refused", self._store_message)
        elif message.recipient.partition("@")[0] in self.refusing_accounts:
            answer = (
                f"host {DOVECOT} said: 451 4.2.0 <{message.recipient}> Internal error occurred. Refer to server log"
            )
            self._defer(message, "lmtp", DOVECOT, f"{answer} (in reply to end of DATA command)", self._store_message)
        else:
            self._finish(message, "lmtp", DOVECOT, "sent", f"250 2.0.0 <{message.recipient}> cB0AB3z3 Saved")

    def _deliver(self, message: Message) -> None:
        """smtp(8)."""
        server = f"mx.{message.domain}[198.51.100.27]"
        age = self._now - message.arrival
        if age > QUEUE_LIFETIME:
            self.simulation.log_line(
                "postfix/qmgr", f"{message.queue_id}: from=<{message.sender}>, status=expired, returned"
            )
            self._return(message)
        elif self.is_blocked or message.domain in self.dead_domains:
            self.simulation.log_line("postfix/smtp", f"connect to {server}:25: Connection timed out")
            self._defer(message, "smtp", "none", f"connect to {server}:25: Connection timed out", self._deliver)
        elif message.domain in GREYLISTING and age < GREYLIST_SECONDS:
            answer = f"host {server} said: 450 4.2.0 <{message.recipient}>: Recipient address rejected: Greylisted"
            self._defer(message, "smtp", f"{server}:25", f"{answer} (in reply to RCPT TO command)", self._deliver)
        elif message.recipient.startswith("frind@"):
            answer = f"host {server} said: 550 5.1.1 <{message.recipient}>: User unknown (in reply to RCPT TO command)"
            self._finish(message, "smtp", f"{server}:25", "bounced", answer)
            self._return(message)
        else:
            self._finish(message, "smtp", f"{server}:25", "sent", "250 2.0.0 Ok: queued as 9F3A")

    def _return(self, message: Message) -> None:
        """bounce(8): the sender is told."""
        self._path_of(message).unlink(missing_ok=True)
        self.receive_message(message.sender.partition("@")[0])

    def _defer(self, message: Message, agent: str, relay: str, reason: str, retry: Callable[[Message], None]) -> None:
        """The queue manager waits as long as the message has waited, within its bounds."""
        self._log_delivery(message, agent, relay, "deferred", reason)
        file = self._path_of(message)
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            write_queue_file(file, message.arrival, message.sender, message.recipient)
        age = self._now - message.arrival
        self.simulation.observe_now()
        self.simulation.after(min(max(age, MIN_BACKOFF), MAX_BACKOFF), partial(retry, message))

    def _finish(self, message: Message, agent: str, relay: str, status: str, reason: str) -> None:
        self._log_delivery(message, agent, relay, status, reason)
        self._path_of(message).unlink(missing_ok=True)

    def _path_of(self, message: Message) -> Path:
        return self.simulation.machine.directory / "spool/deferred" / message.queue_id[7] / message.queue_id

    def _log_delivery(self, message: Message, agent: str, relay: str, status: str, reason: str) -> None:
        dsn = {"sent": "2.0.0", "deferred": "4.4.1", "bounced": "5.1.1"}[status]
        age = self._now - message.arrival
        self.simulation.log_line(
            f"postfix/{agent}",
            f"{message.queue_id}: to=<{message.recipient}>, relay={relay}, delay={age:.2f}, "
            f"delays={age:.2f}/0.01/0.1/0.2, dsn={dsn}, status={status} ({reason})",
        )

    # --- upkeep

    def restart_service(self, unit: str, stop: float = 1.5, start: float = 2.0) -> None:
        """`systemctl restart`, as a package's script or needrestart does. Mail comes meanwhile."""
        simulation, machine = self.simulation, self.simulation.machine
        simulation.observe_closely(60)
        self.stop_service(unit, "deactivating")
        if unit == "dovecot.service":
            self.is_ending = True
            self.receive_message("carla")
            self.is_ending = False
            self.receive_message("anna")
        simulation.after(stop, partial(self._set_state, unit, "activating"))
        simulation.after(stop + start, partial(self.start_service, unit))
        machine.units[unit].restarts = 0

    def restart_systemd(self) -> None:
        """`systemctl daemon-reexec`, as the upgrade of systemd does."""
        machine = self.simulation.machine
        machine.systemd_answers = False
        self.simulation.observe_closely(30)
        self.simulation.after(4, lambda: setattr(machine, "systemd_answers", True))

    def stop_service(self, unit: str, state: str = "inactive") -> None:
        machine = self.simulation.machine
        machine.end_process(unit)
        self._set_state(unit, state)
        if unit == "fail2ban.service":
            self.remove_rules("f2b-table")
        if unit == "mailkeep-guard.service":
            machine.guard_answers = False

    def start_service(self, unit: str) -> None:
        machine = self.simulation.machine
        machine.start_process(unit)
        self._set_state(unit, "active")
        if unit == "fail2ban.service":
            self.restore_rules()
        if unit == "mailkeep-guard.service":
            machine.guard_answers = True

    def _set_state(self, unit: str, state: str) -> None:
        self.simulation.machine.units[unit].state = state

    def remove_rules(self, name: str) -> None:
        """All of a table of nft, or what names a set of a jail."""
        machine = self.simulation.machine
        machine.change_rules([item for item in machine.items if f'"{name}"' not in str(item).replace("'", '"')])

    def restore_rules(self) -> None:
        self.simulation.machine.restore_rules()

    def renew_certificate(self) -> None:
        """It reloads Postfix and Dovecot."""
        simulation = self.simulation
        simulation.observe_closely(20)
        simulation.write_certificate(90)
        for unit in ("postfix.service", "dovecot.service"):
            self._set_state(unit, "reloading")
            simulation.after(1.5, partial(self._set_state, unit, "active"))

    def reboot(self) -> None:
        simulation, machine = self.simulation, self.simulation.machine
        simulation.observe_closely(120)
        for unit in machine.units:
            self.stop_service(unit, "deactivating")
        simulation.after(1, simulation.end_watch)
        simulation.after(45, self._boot)

    def _boot(self) -> None:
        """systemd starts the watch when most services run; two take a moment more."""
        simulation, machine = self.simulation, self.simulation.machine
        machine.boot, machine.generation = self._now - 10, 1
        machine.addresses.discard("2001:db8::1")  # not usable before duplicate address detection (RFC 4862)
        simulation.after(4, partial(machine.addresses.add, "2001:db8::1"))
        for unit in machine.units:
            if unit not in ("opendkim.service", "mailkeep-guard.service"):
                self.start_service(unit)
                continue
            self._set_state(unit, "inactive")
            simulation.after(1.5, partial(self._set_state, unit, "activating"))
            simulation.after(3.0, partial(self.start_service, unit))
        simulation.start_watch()
