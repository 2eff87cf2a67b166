"""Sensors that ask the running services: a service that runs and does not answer, or answers wrongly, is of no use.

A sensor waits three seconds at most for all its answers of a sample, and five for systemd if that hangs. A service that
hangs delays the others' alerts no longer.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from mailkeep_server.common import dns_query, fail2ban_socket, milter_server, paths, signing, unit_states
from mailkeep_server.common.deadlines import limit_next_step
from mailkeep_server.common.wording import describe_error
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor

ANSWER_TIMEOUT = 3.0  # seconds
OWN_RESOLVERS = ("127.0.0.1", "::1")  # 127.0.0.53 is systemd-resolved
AUTH_SOCKET = Path("/var/spool/postfix/private/auth")


class AskingSensor(Sensor):
    """Asks again after a few seconds when an answer was wrong, so that a deploy's restart is no trouble."""

    samples = 2
    CALM_INTERVAL, DOUBT_INTERVAL = 20.0, 8.0  # seconds

    @property
    def interval(self) -> float:  # type: ignore[override]
        return self.DOUBT_INTERVAL if self.has_doubt else self.CALM_INTERVAL

    has_doubt = False

    def find_troubles(self) -> Troubles:
        self.has_doubt = True  # also if it raises
        troubles = self.ask()
        self.has_doubt = bool(troubles)
        return troubles

    def ask(self) -> Troubles:
        raise NotImplementedError


class SigningSensor(AskingSensor):
    """Whether OpenDKIM signs mail of each domain. If it cannot, nobody can send: `On-Default tempfail`."""

    name = "signing"
    DOMAINS_PER_SAMPLE = 5

    def __init__(self, domains: Sequence[str], path: str = signing.SOCKET) -> None:
        self.domains, self.path = list(domains), path
        self.faults: dict[str, str] = {}
        self.next = 0

    def ask(self) -> Troubles:
        try:
            self._judge_domains(time.monotonic() + ANSWER_TIMEOUT)
        except TimeoutError:
            return _describe_unsigned("", f"does not answer within {ANSWER_TIMEOUT:.0f} seconds")
        except OSError as error:
            return _describe_unsigned("", f"cannot be asked: {describe_error(error)}")
        faults = {domain: fault for domain, fault in self.faults.items() if fault}
        if not faults:
            return {}
        names = ", ".join(islice(faults, 3)) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
        return _describe_unsigned(f" from {names}", next(iter(faults.values())))

    def _judge_domains(self, deadline: float) -> None:
        """Raises OSError if OpenDKIM does not answer: one that hangs would hang for each of the domains."""
        for domain in self._choose_domains():
            self.faults[domain] = self._find_fault(domain, deadline - time.monotonic())

    def _choose_domains(self) -> list[str]:
        """The faulty ones, and those whose turn it is: a signature costs a millisecond, and a line of the log."""
        count = min(self.DOMAINS_PER_SAMPLE, len(self.domains))
        turn = [self.domains[(self.next + n) % len(self.domains)] for n in range(count)]
        self.next += count
        faulty = [domain for domain, fault in self.faults.items() if fault]
        return list(dict.fromkeys((*faulty[: self.DOMAINS_PER_SAMPLE], *turn)))

    def _find_fault(self, domain: str, timeout: float) -> str:
        try:
            signed = signing.request_signature(f"postmaster@{domain}", "WATCH", timeout, self.path)
        except (RuntimeError, ValueError) as error:
            return f"gives no signature: {error}"
        return signing.find_signing_fault(domain, signed)


def _describe_unsigned(authors: str, fault: str) -> Troubles:
    text = (
        f"Mail{authors} is not signed, and cannot be sent: OpenDKIM {fault}. "
        "`journalctl -u opendkim` says why; a deploy restores its keys, tables and their owners"
    )
    return {"unsigned": (text, "OpenDKIM signs again")}


class ResolverSensor(AskingSensor):
    """Whether this machine asks its own resolver, and that one validates. Else mail goes out without DANE."""

    name = "resolver"

    def __init__(self, file: Path = dns_query.RESOLV_CONF, query: Callable[..., dns_query.DnsReply] | None = None):
        self.file, self.query = file, query or dns_query.query_server

    def ask(self) -> Troubles:
        troubles = {}
        if fault := self._find_file_fault():
            text = (
                f"{self.file} {fault}: mail goes out without DANE, and blocklists may answer wrongly. A deploy "
                "restores it; find the program that writes it"
            )
            troubles["file"] = text, f"{self.file} names this machine's own resolver again"
        if fault := self._find_answer_fault():
            text = f"The resolver (unbound) {fault}: mail may wait, or go out without DANE"
            troubles["answer"] = text, "The resolver answers again, and validates"
        return troubles

    def _find_file_fault(self) -> str:
        try:
            strangers = [name for name in dns_query.read_nameservers(self.file) if name not in OWN_RESOLVERS]
            if strangers:
                return f"names {', '.join(strangers)}, not this machine's own resolver"
            return "" if dns_query.trusts_ad(self.file) else "has no `options trust-ad`"
        except OSError as error:
            return f"cannot be read ({describe_error(error)})"

    def _find_answer_fault(self) -> str:
        try:
            reply = self.query("127.0.0.1", ".", "SOA", ANSWER_TIMEOUT)
        except TimeoutError:
            return f"does not answer within {ANSWER_TIMEOUT:.0f} seconds"
        except (OSError, ValueError) as error:
            return f"does not answer: {describe_error(error)}"
        if reply.code:
            return f"cannot look up the DNS root (error {reply.code})"
        return "" if reply.authentic else "does not validate: its answer for the DNS root is not authentic"


class ServiceSensor(AskingSensor):
    """Whether a service answers as usual, within TIMEOUT seconds."""

    TIMEOUT = ANSWER_TIMEOUT

    def __init__(self, name: str, unit: str, consequence: str) -> None:
        self.name, self.unit, self.consequence = name, unit, consequence

    def ask(self) -> Troubles:
        fault = self._find_fault()
        if not fault:
            return {}
        text = f"{self.unit} {fault}: {self.consequence}. `systemctl restart {self.unit}` starts it anew"
        return {"silent": (text, f"{self.unit} answers again")}

    def _find_fault(self) -> str:
        try:
            self.ask_service()
        except TimeoutError:
            return f"does not answer within {self.TIMEOUT:.0f} seconds"
        except OSError as error:
            return f"cannot be asked ({error.strerror or error})"
        except RuntimeError:
            return "answers with something else than usual"
        return ""

    def ask_service(self) -> None:
        """Raises OSError if the service does not answer, and RuntimeError for another answer than usual."""
        raise NotImplementedError


class Fail2banSensor(ServiceSensor):
    def __init__(self, path: str = fail2ban_socket.SOCKET) -> None:
        super().__init__("fail2ban", "fail2ban.service", "nobody is banned meanwhile")
        self.path = path

    def ask_service(self) -> None:
        fail2ban_socket.ask_fail2ban("ping", timeout=ANSWER_TIMEOUT, path=self.path)


class AnswerSensor(ServiceSensor):
    """A service that answers on its Unix-domain socket, as soon as it is asked."""

    def __init__(self, name: str, unit: str, path: Path, question: bytes, answer: bytes, consequence: str) -> None:
        super().__init__(name, unit, consequence)
        self.path, self.question, self.answer = path, question, answer

    def ask_service(self) -> None:
        with socket.socket(socket.AF_UNIX) as service:
            deadline = time.monotonic() + self.TIMEOUT
            limit_next_step(service, deadline)
            service.connect(str(self.path))
            service.sendall(self.question)
            received = b""
            while self.answer not in received:
                limit_next_step(service, deadline)
                if not (more := service.recv(4096)):
                    raise RuntimeError("another answer")
                received = (received + more)[-8192:]


class MilterSensor(AnswerSensor):
    """A milter that ends when idle. It is asked only while it runs: the question would start it."""

    systemd = unit_states.SOCKET

    def ask(self) -> Troubles:
        return {} if self._has_ended() else super().ask()

    def _has_ended(self) -> bool:
        try:
            return unit_states.read_active_states([self.unit], self.systemd).get(self.unit) == "inactive"
        except OSError:  # the sensor of the units says so
            return False


def build_answer_sensors(signing_domains: Sequence[str], *, local_resolver: bool) -> list[Sensor]:
    hello = f"VERSION\t1\t2\nCPID\t{os.getpid()}\n".encode()  # as Postfix greets it (Dovecot's auth protocol)
    return [
        SigningSensor(signing_domains),
        *([ResolverSensor()] if local_resolver else ()),
        Fail2banSensor(),
        AnswerSensor("logins", "dovecot.service", AUTH_SOCKET, hello, b"VERSION\t", "nobody can log in meanwhile"),
        MilterSensor(
            "inbound",
            "mailkeep-inbound.service",
            Path(paths.INBOUND_MILTER_SOCKET),
            milter_server.OFFER,
            milter_server.ANSWER_TO_OFFER,
            "incoming mail waits at its senders meanwhile",
        ),
    ]
