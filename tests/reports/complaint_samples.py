"""Complaints in the shapes in which feedback loops send them, with documentation domains and addresses.

The shapes were learnt from RFC 5965 appendix B and public samples: the fields and their order, and how much of the
message is left. The values are made up.
"""

from dataclasses import dataclass

HOST, TO = "mail.example.org", "abuse@example.org"
ORIGINAL = (
    "Received: from mail.example.org (mail.example.org [203.0.113.25])\r\n\tby mx.example.net with ESMTPS id M63d;\r\n"
    "\tSat, 28 Nov 2026 14:00:00 +0000\r\nFrom: Anna <anna@example.org>\r\nTo: <undisclosed recipients>\r\n"
    "Subject: Earn money\r\nMIME-Version: 1.0\r\nContent-type: text/plain\r\nMessage-ID: {message_id}\r\n"
    "Date: Sat, 28 Nov 2026 13:59:00 +0000\r\n\r\nSpam Spam Spam\r\n"
)
TEXT = "This is an email abuse report for an email message received from IP 203.0.113.25."


@dataclass(frozen=True)
class ComplaintSample:
    message: bytes
    sender: str
    message_id: str


def format_results(sender: str, result: str = "pass", host: str = HOST) -> str:
    """As port 25 writes them."""
    return (
        f"Authentication-Results: {host};\r\n\tspf=pass smtp.mailfrom={sender};\r\n\tdkim=none;\r\n"
        f"\tdmarc={result} header.from={sender} policy.dmarc=reject\r\n"
    )


def compose_report(
    author: str,
    fields: str,
    original: str,
    *,
    results: str | None = None,
    kind: str = "message/rfc822",
    part_headers: str = "",
    boundary: str = '"part1_13d.2e68ed54_boundary"',
    subject: str = "FW: Earn money",
) -> bytes:
    """`author` is the whole From:, `fields` are those of the second part, and `original` is the third."""
    sender = author.rpartition("@")[2].rstrip(">")
    mark = boundary.strip('"')
    return (
        f"{format_results(sender) if results is None else results}"
        f"Received: from mx.{sender} (mx.{sender} [198.51.100.1])\r\n\tby {HOST} (Postfix) with ESMTPS id 4dGk\r\n"
        f"From: {author}\r\nTo: <{TO}>\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
        f"Content-Type: multipart/report; report-type=feedback-report;\r\n\tboundary={boundary}\r\n\r\n"
        f'--{mark}\r\nContent-Type: text/plain; charset="US-ASCII"\r\nContent-Language: en\r\n\r\n{TEXT}\r\n\r\n'
        f"--{mark}\r\nContent-Type: message/feedback-report\r\n{part_headers}\r\n{fields}\r\n"
        f"--{mark}\r\nContent-Type: {kind}\r\n{part_headers}\r\n{original}\r\n--{mark}--\r\n"
    ).encode("utf-8", "surrogateescape")


def compose_complaint(
    message_id: str = "<1@example.org>", sender: str = "example.net", kind: str = "abuse", results: str | None = None
) -> bytes:
    """RFC 5965 appendix B.1: no more than it must have."""
    fields = f"Feedback-Type: {kind}\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n"
    original = ORIGINAL.format(message_id=message_id)
    return compose_report(f"<abusedesk@{sender}>", fields, original, results=results)


def _compose_rfc() -> ComplaintSample:
    """Appendix B.2, with all fields, and a Message-ID without brackets."""
    fields = (
        "Feedback-Type: abuse\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n"
        "Original-Mail-From: <anna@example.org>\r\nOriginal-Rcpt-To: <user@example.com>\r\n"
        "Arrival-Date: Sat, 28 Nov 2026 14:00:00 EDT\r\nReporting-MTA: dns; mail.example.com\r\n"
        "Source-IP: 203.0.113.25\r\n"
        "Authentication-Results: mail.example.com;\r\n\tspf=fail smtp.mail=anna@example.org\r\n"
        "Reported-Domain: example.org\r\nReported-Uri: http://example.org/earn_money.html\r\n"
        "Reported-Uri: mailto:user@example.com\r\nRemoval-Recipient: user@example.com\r\n"
    )
    message_id = "8787KJKJ3K4J3K4J3K4J3.mail@example.org"
    message = compose_report("<abusedesk@example.com>", fields, ORIGINAL.format(message_id=message_id))
    return ComplaintSample(message, "example.com", message_id)


def _compose_yahoo() -> ComplaintSample:
    """The recipient is there; the loop has a domain of its own, below the provider's."""
    fields = (
        "Feedback-Type: abuse\r\nUser-Agent: Yahoo!-Mail-Feedback/2.0\r\nVersion: 0.1\r\n"
        "Original-Mail-From: <anna@example.org>\r\nOriginal-Rcpt-To: reader@example.net\r\n"
        "Received-Date: Sat, 28 Nov 2026 14:00:00 +0000\r\nReported-Domain: example.org\r\n"
        "Authentication-Results: authentication result string is not available\r\n\r\n"
    )
    message_id = "<b0f7.1@example.org>"
    message = compose_report(
        "Yahoo! Mail AntiSpam Feedback <feedback@arf.mail.example.net>",
        fields,
        ORIGINAL.format(message_id=message_id),
        part_headers="Content-Transfer-Encoding: 7bit\r\nContent-Disposition: inline\r\n",
        boundary='"----=_Part_471529770280.1574350476000"',
    )
    return ComplaintSample(message, "arf.mail.example.net", message_id)


def _compose_validity() -> ComplaintSample:
    """As Validity sends them for many providers: no quotes about the boundary, the type not first, 8bit, a digest in
    place of the recipient."""
    digest = "ca2b45ef141c63af66829a2f346c832b"
    fields = (
        f"Original-Rcpt-To: {digest}@email.example\r\nSource-Ip: 203.0.113.25\r\nFeedback-Type: abuse\r\n"
        "User-Agent: ReturnPathFBL/2.0\r\nOriginal-Mail-From: anna@example.org\r\nReported-Domain: example.org\r\n"
        "Source: Example\r\nAbuse-Type: complaint\r\n"
        "Subscription-Link: https://fbl.example.com/manage/subscriptions/1\r\nVersion: 1\r\n"
        "Arrival-Date: Sat, 28 Nov 2026 14:00:00 +0000\r\n"
    )
    message_id = "<01E8KFS3VKFKCRVBXZTHVRETJB@example.org>"
    message = compose_report(
        "Example FBL Service <feedbackloop@examplefbl.example.com>",
        fields,
        ORIGINAL.format(message_id=f"\r\n {message_id}"),
        part_headers="Content-Disposition: inline\r\nContent-Transfer-Encoding: 8bit\r\n",
        boundary="51dd9d1916ed201fb9b522f92e7f700c99a25c685db55dcef77566fbf626",
        subject="Example Abuse Report",
    )
    return ComplaintSample(message, "examplefbl.example.com", message_id)


def _compose_aol() -> ComplaintSample:
    """As AOL's SComp sent them, which others took over: all that names the reader is `redacted`."""
    fields = (
        "Feedback-Type: abuse\r\nUser-Agent: AOL SComp\r\nVersion: 0.1\r\n"
        "Received-Date: Sat, 28 Nov 2026 14:00:00 -0400 (EDT)\r\nSource-IP: 203.0.113.25\r\n"
        "Reported-Domain: example.org\r\nRedacted-Address: redacted\r\nRedacted-Address: redacted@\r\n\r\n"
    )
    message_id = "<20261128140000.4F1@example.org>"
    message = compose_report(
        "scomp@example.net",
        fields,
        ORIGINAL.format(message_id=message_id).replace("undisclosed recipients", "redacted@example.net"),
        boundary='"boundary-1138-29572-2659438-8578"',
        subject="Email Feedback Report for IP 203.0.113.25",
    )
    return ComplaintSample(message, "example.net", message_id)


def _compose_headers_only() -> ComplaintSample:
    """RFC 6650 section 4: the headers suffice."""
    fields = (
        "Feedback-Type: fraud\r\nUser-Agent: Mailserver-FBL/3.1\r\nVersion: 1\r\nSource-IP: 203.0.113.25\r\n"
        "Incidents: 1\r\n"
    )
    message_id = "<h.1@example.org>"
    headers = ORIGINAL.format(message_id=message_id).partition("\r\n\r\n")[0]
    message = compose_report("FBL <fbl@example.com>", fields, headers, kind="text/rfc822-headers; charset=us-ascii")
    return ComplaintSample(message, "example.com", message_id)


COMPLAINT_SAMPLES = {
    "RFC 5965": _compose_rfc(),
    "Yahoo": _compose_yahoo(),
    "Validity": _compose_validity(),
    "AOL": _compose_aol(),
    "headers only": _compose_headers_only(),
}
