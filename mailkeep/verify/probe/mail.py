"""Attacks of a stranger on port 25: relaying, spoofing, harvesting, smuggling."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from .config import ProbeConfig, unused_client_address
from .smtp_imap import HELO, LineClient, Reply, run_session

OUTSIDE = "probe@example.net"  # a reserved name (RFC 2606): nobody's mailbox
MAX_DOMAINS = 6  # that are attacked; all have the same configuration
MAX_POSTMASTERS = 90  # recipients of a session; below smtpd_recipient_limit
# Postfix slows down from the third error (smtpd_soft_error_limit), and hangs up at the sixth.
MAX_ERRORS = 3
SMUGGLED_ENDS = ("\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r\n", "\r.\r")
SMUGGLING_SECONDS = 3.0
"""A server that takes the message for ended answers once it has stored it."""
STILL_READING = (354, "the server waits for the rest of the message")


def try_relaying(config: ProbeConfig) -> list[Reply]:
    """Recipients elsewhere, in every notation that has fooled a server, from the public address and from loopback."""
    local, domain = OUTSIDE.split("@")
    own_domain, literal = config.domains[0], f"[{config.address}]"
    notations = (
        OUTSIDE,
        f"{local}%{domain}@{own_domain}",
        f"{domain}!{local}@{own_domain}",
        f"@{own_domain}:{OUTSIDE}",
        f'"{OUTSIDE}"@{own_domain}',
        f'"{local}%{domain}"@{own_domain}',
        f"{OUTSIDE}@{own_domain}",
        f"{local}%{domain}@{literal}",
        f"{local}@[192.0.2.1]",
    )
    sessions: list[tuple[str, str | None, Sequence[str]]]
    sessions = [(config.address, None, batch) for batch in _batches(notations)]
    sessions += [("127.0.0.1", "127.0.0.1", notations[:2]), (config.address, unused_client_address(), notations[:2])]
    if config.address6:
        sessions += [(config.address6, None, notations[:2]), ("::1", "::1", notations[:2])]
    replies = []
    for address, source, recipients in sessions:
        commands = ("MAIL FROM:<>", *(f"RCPT TO:<{recipient}>" for recipient in recipients))
        replies += run_session(address, source, commands)
    sender = config.accounts[0] if config.accounts else f"postmaster@{own_domain}"
    return replies + run_session(config.address, None, (f"MAIL FROM:<{sender}>", f"RCPT TO:<{OUTSIDE}>"))


def try_spoofed_senders(config: ProbeConfig) -> list[Reply]:
    """Own addresses as envelope sender of a client that has not logged in. Postfix refuses them at RCPT."""
    accepted_rcpt = find_accepted_rcpt(config)
    spoofed = [f"probe@{config.host}", f"root@sub.{config.host}", *config.accounts[:1]]
    for domain in config.domains[:MAX_DOMAINS]:
        spoofed += [f"postmaster@{domain}", f"probe@sub.{domain}"]
    transactions = []
    for batch in _batches(spoofed):
        commands = [command for sender in batch for command in (f"MAIL FROM:<{sender}>", accepted_rcpt, "RSET")]
        replies = run_session(config.address, unused_client_address(), commands)
        transactions += [_join_transaction(replies[at : at + 2]) for at in range(0, len(replies), 3)]
    return transactions


def find_accepted_rcpt(config: ProbeConfig) -> str:
    """A RCPT command that the server accepts, so that a refusal has another reason. Raises RuntimeError."""
    command = f"RCPT TO:<postmaster@{config.host}>"
    reply = run_session(config.address, unused_client_address(), ("MAIL FROM:<>", command))[-1]
    if reply["code"] // 100 != 2:
        raise RuntimeError(f"{command} must be accepted, and is answered with: {reply['code']} {reply['text']}")
    return command


def _join_transaction(replies: list[Reply]) -> Reply:
    """The reply to MAIL and RCPT together: the first refusal, if there is any."""
    refused = [reply for reply in replies if reply["code"] // 100 != 2]
    return (refused or replies)[0] | {"command": " ".join(reply["command"] for reply in replies)}


def try_unknown_recipients(config: ProbeConfig) -> list[Reply]:
    """Recipients that do not exist; among them a Linux account of the host."""
    account = "mailkeep-probe"
    recipients = [f"nobody-at-all@{config.host}", f"{account}@{config.host}", f"{account}@localhost"]
    recipients += [f"{account}@{domain}" for domain in config.domains if domain not in config.catch_all][:MAX_DOMAINS]
    replies = []
    for batch in _batches(recipients):
        commands = ("MAIL FROM:<>", *(f"RCPT TO:<{recipient}>" for recipient in batch))
        replies += run_session(config.address, unused_client_address(), commands)[1:]
    return replies


def try_postmasters(config: ProbeConfig) -> list[Reply]:
    domains = [config.host, *config.domains[:MAX_POSTMASTERS]]
    commands = ("MAIL FROM:<>", *(f"RCPT TO:<postmaster@{domain}>" for domain in domains))
    return run_session(config.address, unused_client_address(), commands)[1:]


def try_address_queries(config: ProbeConfig) -> list[Reply]:
    """Commands that would tell which addresses exist."""
    commands = ("VRFY postmaster", "EXPN postmaster", f"ETRN {config.domains[0]}")
    return run_session(config.address, unused_client_address(), commands)


def try_without_helo(config: ProbeConfig) -> list[Reply]:
    with LineClient(config.address, 25, unused_client_address()) as client:
        client.smtp()
        code, text = client.smtp("MAIL FROM:<>")
    return [{"command": "MAIL before HELO", "code": code, "text": text}]


def try_smuggling(config: ProbeConfig) -> list[Reply]:
    """Messages that end too early for a server that takes another end than <CR><LF>.<CR><LF> (CVE-2023-51764)."""
    accepted_rcpt = find_accepted_rcpt(config)
    with ThreadPoolExecutor(len(SMUGGLED_ENDS)) as pool:
        return list(pool.map(lambda end: _smuggle_message(config, accepted_rcpt, end), SMUGGLED_ENDS))


def _smuggle_message(config: ProbeConfig, accepted_rcpt: str, end: str) -> Reply:
    with LineClient(config.address, 25, unused_client_address()) as client:
        client.greet()
        for command in ("MAIL FROM:<>", accepted_rcpt, "DATA"):
            client.smtp(command)
        client.send(
            "Subject: this server accepts smuggled mail\r\n\r\n`mailkeep verify` sent this message; see its output."
            f"{end}RSET\r\nQUIT\r\n"
        )
        client.socket.settimeout(SMUGGLING_SECONDS)
        try:
            code, text = client.smtp()
        except TimeoutError:
            code, text = STILL_READING
    return {"command": f"a message that ends in {end!r}", "code": code, "text": text}


def try_early_commands(config: ProbeConfig) -> Reply:
    """Commands sent before the server has announced PIPELINING (RFC 2920), as spam software does to save time."""
    accepted_rcpt = find_accepted_rcpt(config)
    with LineClient(config.address, 25, unused_client_address()) as client:
        client.smtp()
        client.send(f"EHLO {HELO}\r\nMAIL FROM:<>\r\n{accepted_rcpt}\r\nDATA\r\n")
        replies = [client.smtp() for _ in range(4)]
    code, text = next((reply for reply in replies if reply[0] // 100 != 2), replies[-1])
    return {"command": "EHLO, MAIL, RCPT, DATA in one packet", "code": code, "text": text}


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[at : at + MAX_ERRORS] for at in range(0, len(items), MAX_ERRORS))
