"""What else a foreign server does: it listens for others than mail programs, and its cron jobs send mail."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailkeep.moving_in.observed import Observed

MAIL_PORTS = frozenset({22, 25, 143, 465, 587, 993, 4190})
"""Those of Mailkeep's own servers, and SSH."""
_KINDS = {
    "a web server": {80, 443, 8000, 8080, 8443},
    "a DNS server": {53, 853},
    "a VPN": {500, 1194, 1701, 1723, 4500, 51820},
    "POP3, which Mailkeep does not offer": {110, 995},
    "FTP": {20, 21},
    "a database": {3306, 5432, 6379, 27017, 11211},
    "chat": {5222, 5269, 6667, 6697},
    "file sharing": {111, 139, 445, 2049},
}
_MAILERS = re.compile(r"(?:^|[\s/|;&(`])(?:mail|mailx|s-nail|mutt|sendmail|msmtp|ssmtp|swaks|exim4?)(?:\s|$)")
_FIELDS = r"(?:@\w+|(?:\S+\s+){4}\S+)\s+"  # of a crontab's line, before user or command


@dataclass(frozen=True, slots=True)
class Listener:
    port: int
    protocol: str  # tcp, udp
    program: str  # "" if the kernel listens, as for WireGuard
    kind: str


@dataclass(frozen=True, slots=True)
class MailingJob:
    """A cron job that sends mail: by itself, or because cron mails its output to MAILTO."""

    file: str
    user: str
    line: str


def find_listeners(observed: Observed) -> list[Listener]:
    """Each port that others reach, but those of mail that a Mailkeep server has too."""
    listeners: dict[tuple[int, str], Listener] = {}
    for line in observed.output_lines("listening") + observed.output_lines("listening-by-netstat"):
        protocol, address, program = _parse_listener(line)
        host, _, port = address.rpartition(":")
        if not port.isdigit() or host.strip("[]").startswith(("127.", "::1")) or int(port) in MAIL_PORTS:
            continue
        kind = next((kind for kind, ports in _KINDS.items() if int(port) in ports), "")
        listeners.setdefault((int(port), protocol), Listener(int(port), protocol, program, kind))
    listening = sorted(listeners.values(), key=lambda listener: (listener.protocol, listener.port))
    return [listener for listener in listening if listener.protocol == "tcp" or _is_served(listener)]


def _is_served(listener: Listener) -> bool:
    """DHCP clients and time servers have UDP ports too, and many programs ask from one for a moment."""
    return listener.kind != "" and listener.program not in ("dhclient", "systemd-network", "chronyd")


def _parse_listener(line: str) -> tuple[str, str, str]:
    """Of `ss -Hlntup`, or `netstat -lntup`, whose fourth column is the address and last the program."""
    words = line.split()
    if len(words) < 5 or not words[0].startswith(("tcp", "udp")):
        return "", "", ""
    quoted = re.search(r'\(\("([^"]+)"', line)
    if quoted or words[1] in ("LISTEN", "UNCONN"):
        return words[0][:3], re.sub(r"%[^:]*", "", words[4]), quoted[1] if quoted else ""
    return words[0][:3], words[3], words[-1].partition("/")[2]


def find_mailing_jobs(observed: Observed) -> list[MailingJob]:
    jobs = [job for path in observed.files if "cron" in path for job in _read_crontab(observed, path)]
    scripts = [
        MailingJob(path, "root", "a script that calls a mail program") for path in observed.output_lines("cron-scripts")
    ]
    return [*jobs, *scripts]


def _read_crontab(observed: Observed, path: str) -> Iterator[MailingJob]:
    owner = path.rpartition("/")[2] if path.startswith("/var/spool/cron") else ""
    fields = _FIELDS + ("" if owner else r"(?P<user>\S+)\s+")
    mail_to = ""
    for line in observed.read_text(path).splitlines():
        if assignment := re.match(r"\s*MAILTO\s*=\s*[\"']?([^\"'\s]*)", line):
            mail_to = assignment[1]
        match = re.match(rf"\s*{fields}(?P<command>.+)", line)
        if not match or line.lstrip().startswith("#") or re.match(r"\s*\w+\s*=", line):
            continue
        user = owner or match["user"]
        if mail_to or _MAILERS.search(match["command"]):
            yield MailingJob(path, user, match["command"].strip())
