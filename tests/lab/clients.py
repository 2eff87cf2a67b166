"""SMTP, IMAP and HTTPS clients, honest or not, that return the server's answer.

Most functions return the last answer as text: "250 2.0.0 Ok: queued" or "OK". If the connection is refused, dropped
or cut, they return "dropped: " and the reason. Standard library only, because `run_on` runs the same functions on
another machine of the lab.
"""

import base64
import imaplib
import json
import os
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

SMTP, IMAP, SUBMISSIONS, SUBMISSION, IMAPS, SIEVE = 25, 143, 465, 587, 993, 4190
OUTSIDE = "x@outside.test"
STRANGER = "stranger@outside.test"
TIMEOUT = 12.0  # seconds


def tls_context(version: str = "", ciphers: str = "") -> ssl.SSLContext:
    """A context that accepts any certificate: these clients do not test certificates.

    `version` is a name in ssl.TLSVersion; the client speaks that version alone. `ciphers` are OpenSSL's names, weak
    ones included.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # old versions are the point
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if ciphers:
        context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    return context


def is_accepted(answer: str) -> bool:
    return answer.startswith(("2", "OK"))


def catch_answer(act: Callable[[], str]) -> str:
    """The result of `act`; or, if it raises, the answer or the broken connection that it raised for."""
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


def open_smtp(
    host: str,
    port: int = SMTP,
    *,
    tls: bool = True,
    helo: str = "mx.outside.test",
    context: ssl.SSLContext | None = None,
) -> smtplib.SMTP:
    """A connection after EHLO, encrypted if the port starts with TLS or offers STARTTLS.

    With `tls=False` the client does not use STARTTLS.
    """
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


def send_commands(connection: smtplib.SMTP, *commands: str, insist: bool = False) -> str:
    """The answer to the last of these commands; unless `insist` is set, to the first that is refused."""
    answer = ""
    for command in commands:
        code, text = connection.docmd(command)
        answer = f"{code} {text.decode(errors='replace')}"
        if code >= 400 and not insist:
            break
    return answer


def auth_plain(user: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode()


def envelope_commands(sender: str, *recipients: str) -> list[str]:
    return [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)]


def talk_smtp(
    host: str,
    port: int,
    commands: Iterable[str],
    *,
    login: tuple[str, str] | None = None,
    helo: str = "mx.outside.test",
    insist: bool = False,
) -> str:
    """The answer to these commands in a new connection, as `send_commands` returns it.

    `login` is a user and a password to log in with first.
    """

    def hold_session() -> str:
        with open_smtp(host, port, helo=helo) as connection:
            return send_commands(connection, *([auth_plain(*login)] if login else []), *commands, insist=insist)

    return catch_answer(hold_session)


def deliver_message(
    host: str,
    port: int,
    sender: str,
    recipients: list[str],
    data: str,
    *,
    login: tuple[str, str] | None = None,
    helo: str = "mx.outside.test",
) -> str:
    """Send one message byte for byte: `data` has its own line ends, CR LF."""

    def hold_session() -> str:
        with open_smtp(host, port, helo=helo) as connection:
            commands = [auth_plain(*login)] if login else []
            answer = send_commands(connection, *commands, *envelope_commands(sender, *recipients), "DATA")
            if not answer.startswith("354"):
                return answer
            connection.send(data.encode() + b".\r\n")
            code, text = connection.getreply()
            return f"{code} {text.decode(errors='replace')}"

    return catch_answer(hold_session)


def deliver_chunks(
    host: str, port: int, sender: str, recipients: list[str], data: str, *, login: tuple[str, str] | None = None
) -> str:
    """Send one message byte for byte by BDAT (RFC 3030), whose length says where it ends."""

    def hold_session() -> str:
        with open_smtp(host, port) as connection:
            commands = [auth_plain(*login)] if login else []
            answer = send_commands(connection, *commands, *envelope_commands(sender, *recipients))
            if not is_accepted(answer):
                return answer
            connection.send(b"BDAT %d LAST\r\n" % len(data.encode()) + data.encode())
            code, text = connection.getreply()
            return f"{code} {text.decode(errors='replace')}"

    return catch_answer(hold_session)


def greet_as(host: str, port: int, name: str, commands: Iterable[str], login: tuple[str, str] | None = None) -> str:
    """The answer to these commands after EHLO with this name, whatever bytes it has; or to EHLO, if it is refused."""

    def hold_session() -> str:
        with open_smtp(host, port) as connection:
            connection.send(f"EHLO {name}\r\n".encode())
            code, text = connection.getreply()
            if code != 250:
                return f"{code} {text.decode(errors='replace')}"
            return send_commands(connection, *([auth_plain(*login)] if login else []), *commands)

    return catch_answer(hold_session)


def compose_message(sender: str, recipient: str, subject: str, *headers: str) -> str:
    lines = [*headers, f"From: {sender}", f"To: {recipient}", f"Subject: {subject}", "", "Hello.", ""]
    return "\r\n".join(lines)


def send_raw(host: str, port: int, *pieces: str) -> str:
    """Send each piece whole, however many commands are in it, and read one answer for it.

    An empty piece reads one answer more. Returns the answer to the last piece, or to the first that is refused.
    """

    def hold_session() -> str:
        with socket.create_connection((host, port), TIMEOUT) as connection, connection.makefile("rb") as replies:
            answer = read_reply(replies)
            for piece in pieces:
                connection.sendall(piece.encode())
                answer = read_reply(replies)
                if answer[:1] not in ("2", "3"):
                    break
            return answer or "dropped: closed"

    return catch_answer(hold_session)


def read_reply(replies: Any) -> str:
    line = replies.readline()
    while line[3:4] == b"-":
        line = replies.readline()
    return line.decode(errors="replace").strip()


def connect_often(host: str, port: int, times: int, at_once: bool) -> str:
    """Connect `times` times and return the last answer; with `at_once`, all connections stay open."""

    def hold_session() -> str:
        staying: list[smtplib.SMTP] = []
        answer = ""
        for _ in range(times):
            connection = open_smtp(host, port, tls=False)
            answer = send_commands(connection, "NOOP")
            if at_once:
                staying.append(connection)
            else:
                connection.quit()
        return answer

    return catch_answer(hold_session)


# --- IMAP


def open_imap(
    host: str, port: int = IMAPS, *, tls: bool = True, context: ssl.SSLContext | None = None
) -> imaplib.IMAP4:
    """A connection: over TLS on port 993, else after STARTTLS unless `tls` is False."""
    context = context or tls_context()
    if port == IMAPS:
        return imaplib.IMAP4_SSL(host, port, ssl_context=context, timeout=TIMEOUT)
    connection = imaplib.IMAP4(host, port, timeout=TIMEOUT)
    if tls:
        connection.starttls(context)
    return connection


def read_mailbox(host: str, port: int, user: str, password: str, folder: str = "INBOX") -> list[bytes]:
    """All messages in a folder, oldest first."""
    with open_imap(host, port) as mailbox:
        mailbox.login(user, password)
        mailbox.select(folder, readonly=True)
        numbers = mailbox.search(None, "ALL")[1][0].split()
        return [cast(bytes, mailbox.fetch(number, "(BODY.PEEK[])")[1][0][1]) for number in numbers]


def list_subjects(host: str, user: str, password: str) -> list[str]:
    """The subjects of all messages in the inbox."""
    messages = read_mailbox(host, IMAPS, user, password)
    lines = [line for message in messages for line in message.decode(errors="replace").splitlines()]
    return [line.partition(": ")[2] for line in lines if line.startswith("Subject: ")]


def idle_for_message(host: str, user: str, password: str, seconds: float) -> str:
    """Rest in IDLE (RFC 2177) until a message comes, which is sent meanwhile, and then so long without a word.

    "OK …" if the connection is still open then.
    """

    def hold_session() -> str:
        with open_imap(host) as mailbox:
            mailbox.login(user, password)
            mailbox.select("INBOX", readonly=True)
            mailbox.send(b"x IDLE\r\n")
            _read_until(mailbox, b"+ ")
            message = compose_message(STRANGER, user, "while idle")
            if not is_accepted(answer := deliver_message(host, SMTP, STRANGER, [user], message)):
                return answer
            _read_until(mailbox, b"* ")
            time.sleep(seconds)
            mailbox.send(b"DONE\r\n")
            return _read_until(mailbox, b"x ")[2:].decode().strip()

    return catch_answer(hold_session)


def _read_until(mailbox: imaplib.IMAP4, beginning: bytes) -> bytes:
    while not (line := mailbox.readline()).startswith(beginning):
        if not line:
            raise EOFError
    return line


# --- HTTPS


def request_https(host: str, name: str | None, request: str) -> str:
    """The whole answer to this request; empty if the server closes the connection.

    `name` is the server's name in the TLS handshake (SNI, RFC 6066 section 3); with None the client speaks no TLS.
    """
    with socket.create_connection((host, 443), TIMEOUT) as plain:
        try:
            connection = plain if name is None else tls_context().wrap_socket(plain, server_hostname=name or None)
            connection.sendall(request.encode())
            with connection.makefile("rb") as stream:
                return cast(bytes, stream.read()).decode(errors="replace")
        except (ssl.SSLError, ConnectionError):
            return ""


# --- any protocol


def append_messages(host: str, user: str, password: str, times: int) -> str:
    """Put so many messages of a few bytes into the mailbox; the answer to the last, or to the first refused."""
    return _in_mailbox(host, user, password, (lambda at: at.append("INBOX", "", "", b"a\r\n") for _ in range(times)))


def make_folders(host: str, user: str, password: str, times: int) -> str:
    new = range(start := time.monotonic_ns(), start + times)
    return _in_mailbox(host, user, password, (lambda at, name=name: at.create(f"folder-{name}") for name in new))


def _in_mailbox(host: str, user: str, password: str, acts: Iterable[Callable[[imaplib.IMAP4], tuple[str, Any]]]) -> str:
    def hold_session() -> str:
        answer = ""
        with open_imap(host) as mailbox:
            mailbox.login(user, password)
            for act in acts:
                code, text = act(mailbox)
                answer = f"{code} {text!r}"
                if code != "OK":
                    break
        return answer

    return catch_answer(hold_session)


# --- ManageSieve (RFC 5804)


class SieveClient:
    """A connection, after STARTTLS unless `tls` is False. Each command returns its answer, which begins with OK, NO or
    BYE: the last line, or `all` lines."""

    def __init__(self, host: str, *, tls: bool = True, context: ssl.SSLContext | None = None) -> None:
        self.connection = socket.create_connection((host, SIEVE), TIMEOUT)
        self.lines = self.connection.makefile("rb")
        try:
            self.greeting = self.read_answer()
            if tls:
                if not is_accepted(answer := self.command("STARTTLS")):
                    raise ConnectionError(answer)
                self.connection = (context or tls_context()).wrap_socket(self.connection)
                self.lines = self.connection.makefile("rb")
                self.greeting = self.read_answer()
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> "SieveClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def read_answer(self) -> list[str]:
        lines: list[str] = []
        while not lines or not lines[-1].startswith(("OK", "NO", "BYE")):
            if not (line := self.lines.readline()):
                raise ConnectionError(f"closed after {lines}")
            lines.append(line.decode().rstrip())
            if lines[-1].endswith("}"):  # a literal: the text of an error has several lines
                size = int(lines[-1].rpartition("{")[2].rstrip("+}"))
                lines[-1] += self.lines.read(size).decode() + self.lines.readline().decode().rstrip()
        return lines

    def command(self, command: str, literal: str | None = None) -> str:
        data = literal.encode() if literal is not None else b""
        ending = f" {{{len(data)}+}}\r\n".encode() + data + b"\r\n" if literal is not None else b"\r\n"
        self.connection.sendall(command.encode() + ending)
        return self.read_answer()[-1]

    def log_in(self, user: str, password: str) -> str:
        response = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
        return self.command(f'AUTHENTICATE "PLAIN" "{response}"')

    def activate(self, name: str, script: str) -> str:
        """Installs a script and makes it the active one."""
        answer = self.command(f'PUTSCRIPT "{name}"', script)
        return self.command(f'SETACTIVE "{name}"') if is_accepted(answer) else answer


def install_script(host: str, user: str, password: str, script: str, name: str = "rules") -> str:
    """As a mail program does it; an empty script takes the active one away."""

    def hold_session() -> str:
        with SieveClient(host) as client:
            if not is_accepted(answer := client.log_in(user, password)):
                return answer
            return client.activate(name, script) if script else client.command('SETACTIVE ""')

    return catch_answer(hold_session)


def log_in(host: str, port: int, user: str, password: str, *, tls: bool = True) -> str:
    """Try a password once; "235 …" or "OK" if it is right."""

    def hold_session() -> str:
        if port == SIEVE:
            with SieveClient(host, tls=tls) as client:
                return client.log_in(user, password)
        if port not in (IMAP, IMAPS):
            with open_smtp(host, port, tls=tls) as connection:
                return send_commands(connection, auth_plain(user, password))
        with open_imap(host, port, tls=tls) as mailbox:
            return str(mailbox.login(user, password)[0])

    return catch_answer(hold_session)


def shake_hands(host: str, port: int, version: str, ciphers: str) -> str:
    """The TLS version that the server agrees on with a client of this version and these ciphers: "OK TLSv1.2"."""
    context = tls_context(version, ciphers)

    def hold_session() -> str:
        if port == SIEVE:
            with SieveClient(host, context=context) as client:
                return f"OK {client.connection.version()}"  # type: ignore[attr-defined]
        if port in (IMAP, IMAPS):
            with open_imap(host, port, context=context) as connection:
                return f"OK {connection.sock.version()}"
        with open_smtp(host, port, context=context) as connection:
            return f"OK {connection.sock.version()}"

    return catch_answer(hold_session)


def open_ports(host: str, first: int = 1, last: int = 65535, *, wait: float = 0.5, width: int = 16384) -> list[int]:
    """The TCP ports that accept a connection within `wait` seconds, tried `width` at a time."""
    max_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_descriptors, max_descriptors))
    width = min(width, max_descriptors - 64)
    ports = range(first, last + 1)
    return [
        port
        for start in range(0, len(ports), width)
        for port in find_open_ports(host, ports[start : start + width], wait)
    ]


def find_open_ports(host: str, ports: Iterable[int], wait: float) -> list[int]:
    open_now, pending, poll = [], {}, select.poll()
    for port in ports:
        knock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        knock.setblocking(False)
        knock.connect_ex((host, port))
        pending[knock.fileno()] = port, knock
        poll.register(knock, select.POLLOUT)
    deadline = time.monotonic() + wait
    while pending and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            port, knock = pending.pop(descriptor)
            poll.unregister(descriptor)
            if not knock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                open_now.append(port)
            knock.close()
    for _, knock in pending.values():
        knock.close()
    return open_now


def ask_over_udp(host: str, port: int) -> str:
    """`OK` if a program answers on this UDP port within a second."""

    def hold_session() -> str:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.settimeout(1)
            connection.connect((host, port))
            connection.send(b"?")
            connection.recv(9)
        return "OK"

    return catch_answer(hold_session)


def send_after_proxy_header(host: str, port: int, claimed: str) -> str:
    """The greeting of a server to a client that claims another address for itself (PROXY protocol, version 1)."""

    def hold_session() -> str:
        with socket.create_connection((host, port), 3) as connection:
            connection.sendall(f"PROXY TCP4 {claimed} {host} 50000 25\r\n".encode())
            greeting = connection.recv(4096)
            return greeting.decode().strip() if greeting else "dropped: closed"

    return catch_answer(hold_session)


def await_greeting(host: str, port: int, seconds: float = 1) -> str:
    """`OK` if the server says anything within so many seconds."""

    def hold_session() -> str:
        with socket.create_connection((host, port), seconds) as connection:
            return "OK" if connection.recv(4096) else "dropped: closed"

    return catch_answer(hold_session)


def try_once(host: str, door: str, source: str) -> str:
    """Fail once at this door: a wrong password, an unknown SSH key, or commands before the answer to EHLO."""
    if door == "ssh":
        options = [f"-o{option}" for option in ("BatchMode=yes", "StrictHostKeyChecking=no", "ConnectTimeout=10")]
        command = ["ssh", "-b", source, *options, f"root@{host}", "true"]
        answer = ""
        while "Permission denied" not in answer:  # a busy sshd turns clients away before they can try
            answer = subprocess.run(command, capture_output=True, check=False, text=True, timeout=TIMEOUT).stderr
        return answer
    if door == "early":
        return send_raw(host, SMTP, "EHLO mx.outside.test\r\nMAIL FROM:<>\r\n")
    password = f"wrong {os.urandom(4).hex()}"
    return log_in(
        host,
        {"imap": IMAP, "imaps": IMAPS, "submission": SUBMISSION, "sieve": SIEVE}[door],
        "anna@example.test",
        password,
    )


def try_again(host: str, door: str, source: str, times: int) -> list[str]:
    """The answers to so many tries at once."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: try_once(host, door, source), range(times)))


def besiege_port(host: str, port: int, door: str, source: str, times: int, timeout: float) -> dict[str, Any]:
    """Fail so many times at once, then wait up to `timeout` seconds until the server greets no new connection.

    Returns the answers to the `tries`, the answer to a connection made `after` them, and the answer on a connection
    that was opened `before` them.
    """
    with socket.create_connection((host, port), TIMEOUT) as waiting:
        waiting.recv(4096)
        tries = try_again(host, door, source, times)
        deadline = time.monotonic() + timeout
        while is_accepted(after := await_greeting(host, port, 5)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return {"tries": tries, "after": after, "before": catch_answer(lambda: prod_connection(waiting))}


def prod_connection(waiting: socket.socket) -> str:
    """Send commands that every server answers: it may say that the protocol is wrong, or hang up."""
    waiting.settimeout(2)
    waiting.sendall(b"a NOOP\r\n" * 3)
    waiting.recv(99)
    return "OK"


def reach_socket(path: str) -> str:
    """`OK` if a program may connect to this Unix socket."""

    def hold_session() -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
        return "OK"

    return catch_answer(hold_session)


def run_on(
    machine: "Container",
    function: Callable[..., T],
    *arguments: Any,
    source: object = "",
    user: str = "root",
    times: int = 1,
    **options: Any,
) -> T:
    """Call a function of this module `times` times on another machine of the lab; the last result.

    It connects from the machine's address `source` (an attacker has many), or runs as its Linux user `user`.
    """
    call = json.dumps([function.__name__, arguments, options])
    script = f"""{Path(__file__).read_text()}
name, arguments, options = json.loads({call!r})
for _ in range({times}):
    answer = globals()[name](*arguments, **options)
print(json.dumps(answer))
"""
    if source:
        process = cast("Attacker", machine).run_python(script, source_ip=str(source))
    else:
        process = machine.run(f"runuser -u {user} -- python3 -", stdin=script)
    return cast(T, json.loads(process.stdout))
