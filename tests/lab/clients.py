"""What a client, honest or not, says to a mail server, and what it hears.

Every function returns the server's last answer as text: "250 2.0.0 Ok: queued", "OK", or, where the connection is
refused, dropped or cut, "dropped: " and why. Standard library only: `run_on` has the same functions run on another
machine of the lab, from an address or as a user of its choice.
"""

import base64
import imaplib
import json
import resource
import select
import smtplib
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from mailkeep.lab import Attacker, Container

T = TypeVar("T")

SMTP, IMAP, SUBMISSIONS, SUBMISSION, IMAPS = 25, 143, 465, 587, 993
OUTSIDE = "x@outside.test"
STRANGER = "stranger@outside.test"
TIMEOUT = 12.0  # seconds


def tls_context(version: str = "", ciphers: str = "") -> ssl.SSLContext:
    """Believes any certificate: that is not what these clients are about. `version` is one of ssl.TLSVersion, the
    only one that it speaks then; `ciphers` are OpenSSL's names, weak ones included."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of old versions: our point
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if ciphers:
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def accepted(answer: str) -> bool:
    return answer.startswith(("2", "OK"))


def heard(act: Callable[[], str]) -> str:
    """What `act` returns, or the answer or the break of the connection that ended it."""
    try:
        return act()
    except smtplib.SMTPResponseException as error:
        text = error.smtp_error
        return f"{error.smtp_code} {text.decode(errors='replace') if isinstance(text, bytes) else text}"
    except imaplib.IMAP4.abort as error:
        return f"dropped: {error!r}"
    except imaplib.IMAP4.error as error:
        return f"NO {error.args[0]!r}"
    except (OSError, EOFError, smtplib.SMTPException) as error:
        return f"dropped: {error!r}"


# --- SMTP


def smtp(
    host: str,
    port: int = SMTP,
    *,
    tls: bool = True,
    helo: str = "mx.outside.test",
    context: ssl.SSLContext | None = None,
) -> smtplib.SMTP:
    """A connection after EHLO; over TLS where the port begins with it or, unless `tls` is False, offers it."""
    context = context or tls_context()
    if port == SUBMISSIONS:
        connection: smtplib.SMTP = smtplib.SMTP_SSL(host, port, helo, timeout=TIMEOUT, context=context)
    else:
        connection = smtplib.SMTP(host, port, helo, timeout=TIMEOUT)
    connection.ehlo()
    if tls and connection.has_extn("starttls"):
        connection.starttls(context=context)
        connection.ehlo()
    return connection


def ask(connection: smtplib.SMTP, *commands: str, insist: bool = False) -> str:
    """The answer to the last of these commands or, unless we `insist`, to the first that is refused."""
    answer = ""
    for command in commands:
        code, text = connection.docmd(command)
        answer = f"{code} {text.decode(errors='replace')}"
        if code >= 400 and not insist:
            break
    return answer


def auth_plain(user: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def envelope(sender: str, *recipients: str) -> list[str]:
    return [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)]


def talk(
    host: str,
    port: int,
    commands: Iterable[str],
    *,
    login: tuple[str, str] | None = None,
    helo: str = "mx.outside.test",
    insist: bool = False,
) -> str:
    """The answer to these commands, given one by one, as by `ask`; `login` is a user and a password to begin with."""

    def act() -> str:
        with smtp(host, port, helo=helo) as connection:
            return ask(connection, *([auth_plain(*login)] if login else []), *commands, insist=insist)

    return heard(act)


def deliver(
    host: str,
    port: int,
    sender: str,
    recipients: list[str],
    data: str,
    *,
    login: tuple[str, str] | None = None,
    helo: str = "mx.outside.test",
) -> str:
    """Send one message, byte for byte; its lines end in CR LF as `data` has them."""

    def act() -> str:
        with smtp(host, port, helo=helo) as connection:
            commands = [auth_plain(*login)] if login else []
            answer = ask(connection, *commands, *envelope(sender, *recipients), "DATA")
            if not answer.startswith("354"):
                return answer
            connection.send(data.encode() + b".\r\n")
            code, text = connection.getreply()
            return f"{code} {text.decode(errors='replace')}"

    return heard(act)


def message(sender: str, recipient: str, subject: str, *headers: str) -> str:
    lines = [*headers, f"From: {sender}", f"To: {recipient}", f"Subject: {subject}", "", "Hello.", ""]
    return "\r\n".join(lines)


def pour(host: str, port: int, *pieces: str) -> str:
    """Send each of these pieces whole, however many commands are in it, and hear one answer for it; an empty piece
    hears one more. The answer to the last piece, or the first that is refused."""

    def act() -> str:
        with socket.create_connection((host, port), TIMEOUT) as connection, connection.makefile("rb") as replies:
            answer = _reply(replies)
            for piece in pieces:
                connection.sendall(piece.encode())
                answer = _reply(replies)
                if answer[:1] not in ("2", "3"):
                    break
            return answer or "dropped: closed"

    return heard(act)


def _reply(replies: Any) -> str:
    line = replies.readline()
    while line[3:4] == b"-":
        line = replies.readline()
    return line.decode(errors="replace").strip()


def crowd(host: str, port: int, times: int, at_once: bool) -> str:
    """Connect again and again, all staying (`at_once`) or each leaving first; the last answer."""

    def act() -> str:
        staying: list[smtplib.SMTP] = []
        answer = ""
        for _ in range(times):
            connection = smtp(host, port, tls=False)
            answer = ask(connection, "NOOP")
            if at_once:
                staying.append(connection)
            else:
                connection.quit()
        return answer

    return heard(act)


# --- IMAP


def imap(host: str, port: int = IMAPS, *, tls: bool = True, context: ssl.SSLContext | None = None) -> imaplib.IMAP4:
    """A connection; over TLS where the port begins with it or, unless `tls` is False, after STARTTLS."""
    context = context or tls_context()
    if port == IMAPS:
        return imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=TIMEOUT)
    connection = imaplib.IMAP4(host, port, timeout=TIMEOUT)
    if tls:
        connection.starttls(context)
    return connection


def mails(host: str, port: int, user: str, password: str, folder: str = "INBOX") -> list[bytes]:
    """All messages in a folder, oldest first."""
    with imap(host, port) as mailbox:
        mailbox.login(user, password)
        mailbox.select(folder, readonly=True)
        numbers = mailbox.search(None, "ALL")[1][0].split()
        return [cast(bytes, mailbox.fetch(number, "(BODY.PEEK[])")[1][0][1]) for number in numbers]


# --- HTTPS


def https(host: str, name: str | None, request: str) -> str:
    """All that is answered to this request, byte for byte; nothing where the connection is closed. `name` is what the
    client says the server is called (SNI); None: it speaks no TLS."""
    with socket.create_connection((host, 443), TIMEOUT) as plain:
        try:
            talk = plain if name is None else tls_context().wrap_socket(plain, server_hostname=name or None)
            talk.sendall(request.encode())
            with talk.makefile("rb") as stream:
                return cast(bytes, stream.read()).decode(errors="replace")
        except (ssl.SSLError, ConnectionError):
            return ""


# --- whatever the port


def append(host: str, user: str, password: str, times: int) -> str:
    """So many messages of a few bytes, put into the mailbox: the answer to the last one, or the first refused."""
    return _in_mailbox(host, user, password, (lambda at: at.append("INBOX", "", "", b"a\r\n") for _ in range(times)))


def make_folders(host: str, user: str, password: str, times: int) -> str:
    new = range(start := time.monotonic_ns(), start + times)
    return _in_mailbox(host, user, password, (lambda at, name=name: at.create(f"folder-{name}") for name in new))


def _in_mailbox(host: str, user: str, password: str, acts: Iterable[Callable[[imaplib.IMAP4], tuple[str, Any]]]) -> str:
    def act() -> str:
        answer = ""
        with imap(host) as mailbox:
            mailbox.login(user, password)
            for each in acts:
                code, text = each(mailbox)
                answer = f"{code} {text!r}"
                if code != "OK":
                    break
        return answer

    return heard(act)


def log_in(host: str, port: int, user: str, password: str, *, tls: bool = True) -> str:
    """Try a password once: "235 …" or "OK" where it is right."""

    def act() -> str:
        if port not in (IMAP, IMAPS):
            with smtp(host, port, tls=tls) as connection:
                return ask(connection, auth_plain(user, password))
        with imap(host, port, tls=tls) as mailbox:
            return str(mailbox.login(user, password)[0])

    return heard(act)


def shake_hands(host: str, port: int, version: str, ciphers: str) -> str:
    """The TLS version that a client and the server agree on when the client knows just these: "OK TLSv1.2"."""
    context = tls_context(version, ciphers)

    def act() -> str:
        if port in (IMAP, IMAPS):
            with imap(host, port, context=context) as connection:
                return f"OK {connection.sock.version()}"
        with smtp(host, port, context=context) as connection:
            return f"OK {connection.sock.version()}"

    return heard(act)


def open_ports(host: str, first: int = 1, last: int = 65535, *, wait: float = 0.5, width: int = 16384) -> list[int]:
    """Those of the TCP ports that take a connection within `wait` seconds, asked `width` at a time."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    width = min(width, most - 64)
    ports = range(first, last + 1)
    return [port for done in range(0, len(ports), width) for port in _open(host, ports[done : done + width], wait)]


def _open(host: str, ports: range, wait: float) -> list[int]:
    found, asked, poll = [], {}, select.poll()
    for port in ports:
        knock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        knock.setblocking(False)
        knock.connect_ex((host, port))
        asked[knock.fileno()] = port, knock
        poll.register(knock, select.POLLOUT)
    deadline = time.monotonic() + wait
    while asked and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            port, knock = asked.pop(descriptor)
            poll.unregister(descriptor)
            if not knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                found.append(port)
            knock.close()
    for _, knock in asked.values():
        knock.close()
    return found


def ask_udp(host: str, port: int) -> str:
    """Whether something answers there within a second: "OK"."""

    def act() -> str:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.settimeout(1)
            connection.connect((host, port))
            connection.send(b"?")
            connection.recv(9)
        return "OK"

    return heard(act)


def greeting(host: str, port: int, seconds: float = 1) -> str:
    """Whether the server speaks to us at all, within so many seconds: "OK"."""

    def act() -> str:
        with socket.create_connection((host, port), seconds) as connection:
            return "OK" if connection.recv(4096) else "dropped: closed"

    return heard(act)


def try_once(host: str, door: str, source: str) -> str:
    """A failure of the kind that `door` sees: a wrong password, an unknown SSH key, mail to be relayed."""
    if door == "ssh":
        options = [f"-o{option}" for option in ("BatchMode=yes", "StrictHostKeyChecking=no", "ConnectTimeout=10")]
        command = ["ssh", "-b", source, *options, f"root@{host}", "true"]
        answer = ""
        while "Permission denied" not in answer:  # but turned away unheard, as the crowd before a busy sshd is
            answer = subprocess.run(command, capture_output=True, check=False, text=True, timeout=TIMEOUT).stderr
        return answer
    if door == "relay":
        return talk(host, SMTP, envelope(STRANGER, OUTSIDE))
    return log_in(host, {"imap": IMAP, "imaps": IMAPS, "submission": SUBMISSION}[door], "anna@example.test", "wrong")


def try_again(host: str, door: str, source: str, times: int) -> list[str]:
    """So many tries at once; the answers."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: try_once(host, door, source), range(times)))


def besiege(host: str, port: int, door: str, source: str, times: int, patience: float) -> dict[str, Any]:
    """So many `tries` at once; then, within `patience` seconds, what is heard of whoever connects anew (`after`), and
    on a connection that was made `before`."""
    with socket.create_connection((host, port), TIMEOUT) as waiting:
        waiting.recv(4096)
        tries = try_again(host, door, source, times)
        deadline = time.monotonic() + patience
        while accepted(after := greeting(host, port, 5)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return {"tries": tries, "after": after, "before": heard(lambda: _prod(waiting))}


def _prod(waiting: socket.socket) -> str:
    """Commands that no server leaves unanswered, though it may answer that it is the wrong protocol, or hang up."""
    waiting.settimeout(2)
    waiting.sendall(b"a NOOP\r\n" * 3)
    waiting.recv(99)
    return "OK"


def reach(path: str) -> str:
    """Whether a program may connect to this Unix socket: "OK"."""

    def act() -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
        return "OK"

    return heard(act)


def run_on(
    machine: "Container",
    function: Callable[..., T],
    *arguments: Any,
    source: object = "",
    user: str = "root",
    times: int = 1,
    **options: Any,
) -> T:
    """What one of the functions here returns, at the last of so many times, on another machine of the lab: from its
    address `source`, of which an attacker has many, or as its Linux user `user`."""
    called = json.dumps([function.__name__, arguments, options])
    script = f"""{Path(__file__).read_text()}
name, arguments, options = json.loads({called!r})
for _ in range({times}):
    answer = globals()[name](*arguments, **options)
print(json.dumps(answer))
"""
    if source:
        done = cast("Attacker", machine).run_python(script, source_ip=str(source))
    else:
        done = machine.run(f"runuser -u {user} -- python3 -", stdin=script)
    return cast(T, json.loads(done.stdout))
