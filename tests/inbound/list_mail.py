"""Honest mail that others have passed on: by lists, which rewrite it as Mailman does, and by forwarders."""

from __future__ import annotations

import email
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

from inbound_samples import (
    BANK,
    BANK_CLIENT,
    LIST,
    LIST_CLIENT,
    OURS,
    STRANGER,
    SampleDns,
    build_zone,
    compose,
    seal,
    sign,
)

POST, BOUNCES = f"talk@{LIST}", f"talk-bounces@{LIST}"
FOOTER = f"\n_______________________________________________\ntalk mailing list\nhttps://{LIST}/talk\n"
FORMS = [(b"relaxed", b"relaxed"), (b"simple", b"simple"), (b"relaxed", b"simple")]
AUTHORS = [
    f"CEO <ceo@{BANK}>",
    "shop@shop.example",
    f"Anna <anna@{OURS}>",
    f'"M\xc3\xbcller, Anna" <anna@{BANK}>',
    "x@quiet.example",
]


@dataclass(frozen=True)
class PassedMail:
    """A message as the last server brings it. `trusted_sealer` is one that the operator must trust for it."""

    name: str
    data: bytes
    client: str
    sender: str
    trusted_sealer: str = ""
    is_named_forwarder: bool = False


def build_bodies() -> Iterator[tuple[str, list[str], str]]:
    """Name, headers and text."""
    yield "plain", ["Content-Type: text/plain; charset=utf-8"], "Hello.\r\n"
    yield (
        "8bit",
        ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit"],
        "Grüße\r\n",
    )
    yield (
        "base64",
        ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: base64"],
        "SGVsbG8=\r\n",
    )
    parts = MIMEMultipart("alternative")
    parts.attach(MIMEText("Hello.\n"))
    parts.attach(MIMEText("<p>Hello.</p>\n", "html"))
    text = parts.as_string().partition("\n\n")[2].replace("\n", "\r\n")
    yield "html", ["MIME-Version: 1.0", f'Content-Type: multipart/alternative; boundary="{parts.get_boundary()}"'], text
    yield "blanks", [], "a  b \t \r\n \r\n\r\n\r\n"
    yield "nothing", [], ""


def build_originals() -> Iterator[tuple[str, str, bytes]]:
    """Name, author's domain, and the message as its author's server has signed it."""
    folded = "References: <1@x.example>\r\n\t<2@x.example>\r\n  <3@x.example>"
    for author in AUTHORS:
        domain = author.rpartition("@")[2].rstrip(">")
        for body_name, headers, body in build_bodies():
            for form in FORMS:
                data = compose(author, "Message-ID: <1@x.example>", folded, *headers, body=body)
                if domain != "quiet.example":
                    data = sign(data, domain, form)
                yield ", ".join([author, body_name, b"/".join(form).decode()]), domain, data


def _rewrite(data: bytes, *, munge: bool, footer: bool) -> bytes:
    """As Mailman 3 does, with the same library: parsed, changed, written anew."""
    message = email.message_from_bytes(data)
    subject = message["Subject"]
    del message["Subject"]
    message["Subject"] = f"[talk] {subject}"
    message["List-Id"] = f"<talk.{LIST}>"
    message["List-Unsubscribe"] = f"<mailto:talk-leave@{LIST}>"
    message["Precedence"] = "list"
    message["Sender"] = BOUNCES
    if munge:
        author = message["From"]
        del message["From"]
        message["From"] = f"An author via talk <{POST}>"
        message["Reply-To"] = author
        del message["DKIM-Signature"]
    if footer:
        _add_footer(message)
    return message.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _add_footer(message: Message) -> None:
    if message.is_multipart() or message.get("Content-Transfer-Encoding") == "base64":
        inner = MIMEText(FOOTER)
        if message.is_multipart():
            message.attach(inner)
        return
    text = str(message.get_payload()) + FOOTER
    message.set_payload(text.encode("utf-8", "surrogateescape").decode("ascii", "surrogateescape"))


def pass_on() -> Iterator[PassedMail]:
    """Every original by every way that a receiver can judge."""
    for name, domain, data in build_originals():
        received = b"Received: from a by b; Sun, 29 Nov 2026 20:00:00 +0000\r\n" + data
        yield PassedMail(f"direct, {name}", data, BANK_CLIENT if domain == BANK else STRANGER, f"x@{domain}")
        yield PassedMail(f"plain forward, {name}", received, STRANGER, f"x@{domain}")
        yield PassedMail(f"forward with SRS, {name}", received, STRANGER, f"SRS0=ab=cd={domain}=x@quiet.example")
        yield PassedMail(f"list that changes nothing, {name}", b"List-Id: <talk>\r\n" + received, LIST_CLIENT, BOUNCES)
        munged = sign(_rewrite(data, munge=True, footer=True), LIST)
        yield PassedMail(f"list that writes as itself, {name}", munged, LIST_CLIENT, BOUNCES)
        changed = _rewrite(data, munge=False, footer=True)
        results = f"dkim=pass header.d={domain}; dmarc=pass header.from={domain}"
        yield PassedMail(f"list that seals, {name}", seal(changed, LIST, results), LIST_CLIENT, BOUNCES, LIST)
        yield PassedMail(
            f"sealed twice, {name}",
            seal(seal(changed, LIST, results), LIST, f"arc=pass; {results}"),
            STRANGER,
            BOUNCES,
            LIST,
        )
        yield PassedMail(f"named forwarder that rewrites, {name}", changed, STRANGER, BOUNCES, is_named_forwarder=True)


def make_dns() -> SampleDns:
    return SampleDns(build_zone())
