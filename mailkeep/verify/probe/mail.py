"""Attacks on port 25, each as a stranger: relaying, spoofing, harvesting, smuggling."""

from collections.abc import Iterator, Sequence

from .config import ProbeConfig, unused_client_address
from .smtp_imap import HELO, LineClient, Reply, smtp

OUTSIDE = "probe@example.net"  # RFC 2606: nobody's mailbox
MOST = 6  # domains that are attacked; all have the same configuration


def relay(given: ProbeConfig) -> list[Reply]:
    """Mail to elsewhere, written in every way that has fooled a server, from the public address and from loopback."""
    local, domain = OUTSIDE.split("@")
    ours, here = given.domains[0], f"[{given.address}]"
    forms = (
        OUTSIDE,
        f"{local}%{domain}@{ours}",
        f"{domain}!{local}@{ours}",
        f"@{ours}:{OUTSIDE}",
        f'"{OUTSIDE}"@{ours}',
        f'"{local}%{domain}"@{ours}',
        f"{OUTSIDE}@{ours}",
        f"{local}%{domain}@{here}",
        f"{local}@[192.0.2.1]",
    )
    # Three at a time: Postfix slows down from the third error (smtpd_soft_error_limit), and hangs up at the sixth.
    sessions: list[tuple[str, str | None, Sequence[str]]]
    sessions = [(given.address, None, batch) for batch in _batches(forms)]
    sessions += [("127.0.0.1", "127.0.0.1", forms[:2]), (given.address, unused_client_address(), forms[:2])]
    if given.address6:
        sessions += [(given.address6, None, forms[:2]), ("::1", "::1", forms[:2])]
    said = []
    for address, source, recipients in sessions:
        said += smtp(address, source, ("MAIL FROM:<>", *(f"RCPT TO:<{recipient}>" for recipient in recipients)))
    sender = given.accounts[0] if given.accounts else f"postmaster@{ours}"
    return said + smtp(given.address, None, (f"MAIL FROM:<{sender}>", f"RCPT TO:<{OUTSIDE}>"))


def senders(given: ProbeConfig) -> list[Reply]:
    """Our own names as envelope sender of someone who has not logged in. The verdict comes at RCPT."""
    door = _open_door(given)
    spoofed = [f"probe@{given.host}", f"root@sub.{given.host}", *given.accounts[:1]]
    for domain in given.domains[:MOST]:
        spoofed += [f"postmaster@{domain}", f"probe@sub.{domain}"]
    said = []
    for batch in _batches(spoofed):
        commands = [command for sender in batch for command in (f"MAIL FROM:<{sender}>", door, "RSET")]
        replies = smtp(given.address, unused_client_address(), commands)
        said += [_envelope(replies[at : at + 2]) for at in range(0, len(replies), 3)]
    return said


def _open_door(given: ProbeConfig) -> str:
    """The RCPT that is answered with yes, so that a no is about something else."""
    door = f"RCPT TO:<postmaster@{given.host}>"
    reply = smtp(given.address, unused_client_address(), ("MAIL FROM:<>", door))[-1]
    if reply["code"] // 100 != 2:
        raise RuntimeError(f"{door}, which must be possible, is answered with: {reply['code']} {reply['text']}")
    return door


def _envelope(replies: list[Reply]) -> Reply:
    """MAIL and RCPT as one: refused where either is."""
    refused = [reply for reply in replies if reply["code"] // 100 != 2]
    return (refused or replies)[0] | {"command": " ".join(reply["command"] for reply in replies)}


def unknown(given: ProbeConfig) -> list[Reply]:
    """Recipients that do not exist, a Linux account of the host among them."""
    nobody = "mailkeep-probe"
    recipients = [f"nobody-at-all@{given.host}", f"{nobody}@{given.host}", f"{nobody}@localhost"]
    recipients += [f"{nobody}@{domain}" for domain in given.domains if domain not in given.catch_all][:MOST]
    said = []
    for batch in _batches(recipients):
        commands = ("MAIL FROM:<>", *(f"RCPT TO:<{recipient}>" for recipient in batch))
        said += smtp(given.address, unused_client_address(), commands)[1:]
    return said


def postmaster(given: ProbeConfig) -> list[Reply]:
    names = [given.host, *given.domains[:90]]  # below smtpd_recipient_limit
    return smtp(
        given.address, unused_client_address(), ("MAIL FROM:<>", *(f"RCPT TO:<postmaster@{name}>" for name in names))
    )[1:]


def manners(given: ProbeConfig) -> dict[str, list[Reply]]:
    """What a client must not ask for, or must do first."""
    polite = smtp(
        given.address, unused_client_address(), ("VRFY postmaster", "EXPN postmaster", f"ETRN {given.domains[0]}")
    )
    with LineClient(given.address, 25, unused_client_address()) as talk:
        talk.smtp()
        code, text = talk.smtp("MAIL FROM:<>")
    return {"verify": polite, "helo": [{"command": "MAIL before HELO", "code": code, "text": text}]}


def smuggling(given: ProbeConfig) -> list[Reply]:
    """A message that ends too early for a server that takes a bare <LF> for the end of a line (CVE-2023-51764)."""
    door = _open_door(given)
    return [_smuggle(given, door, end) for end in ("\n.\n", "\n.\r\n", "\r\n.\n")]


def _smuggle(given: ProbeConfig, door: str, end: str) -> Reply:
    with LineClient(given.address, 25, unused_client_address()) as talk:
        talk.greet()
        for command in ("MAIL FROM:<>", door, "DATA"):
            talk.smtp(command)
        talk.send(
            "Subject: this server takes smuggled mail\r\n\r\n`mailkeep verify` sent it: see what it says."
            f"{end}RSET\r\n.\r\n"
        )
        code, text = talk.smtp()
    return {"command": f"a message that ends in {end!r}", "code": code, "text": text}


def pipelining(given: ProbeConfig) -> Reply:
    """Commands sent before the answer that allows it: how spam software saves time (RFC 2920)."""
    door = _open_door(given)
    with LineClient(given.address, 25, unused_client_address()) as talk:
        talk.smtp()
        talk.send(f"EHLO {HELO}\r\nMAIL FROM:<>\r\n{door}\r\nDATA\r\n")
        replies = [talk.smtp() for _ in range(4)]
    code, text = next((reply for reply in replies if reply[0] // 100 != 2), replies[-1])
    return {"command": "EHLO, MAIL, RCPT, DATA in one packet", "code": code, "text": text}


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[at : at + 3] for at in range(0, len(items), 3))
