"""Who a message is from: judged on port 25, written into the message, and refused or sorted where it is forged."""

import re
import secrets
from collections.abc import Iterator
from email.message import Message

import pytest
import yaml
from test_mail import ANNA, HOST, MailServer, deploy_site

from mailkeep.lab import Attacker, Internet, Lab
from mailkeep.lab.site import Site

ZONE = """\
honest.test. MX 10 mx.outside.test.
honest.test. TXT "v=spf1 a:mx.outside.test -all"
_dmarc.honest.test. TXT "v=DMARC1; p=reject"
strict.test. MX 10 mx.outside.test.
_dmarc.strict.test. TXT "v=DMARC1; p=reject"
wary.test. MX 10 mx.outside.test.
_dmarc.wary.test. TXT "v=DMARC1; p=quarantine"
"""


@pytest.fixture(scope="module")
def mail_server(
    lab: Lab, internet: Internet, attacker: Attacker, built_site: Site, built_image: str
) -> Iterator[MailServer]:
    internet.publish(ZONE, "inbound")
    server = lab.boot_server("inbound", hostname=HOST, image=built_image)
    try:
        site = built_site.copy_for(server)
        settings = yaml.safe_load(site.settings_file.read_text())
        settings["inbound"] = {"trusted": [str(attacker.sources[0])], "trusted_sealers": ["lists.test"]}
        site.settings_file.write_text(yaml.safe_dump(settings))
        yield MailServer(deploy_site(site), internet)
    finally:
        server.remove()
        internet.publish("", "inbound")


def compose(author: str, *headers: str) -> tuple[str, bytes]:
    """A subject of its own, and the message."""
    subject = f"inbound {secrets.token_hex(6)}"
    lines = [*headers, f"From: {author}", f"To: {ANNA}", f"Subject: {subject}", "", "Hello.", ""]
    return subject, "\r\n".join(lines).encode()


def send(mail_server: MailServer, sender: str, data: bytes) -> str:
    reply = mail_server.outside.send(sender, ANNA, mail_server.ip, data)
    return f"{reply.code} {reply.text}"


def deliver(mail_server: MailServer, sender: str, author: str, *headers: str) -> Message:
    subject, data = compose(author, *headers)
    answer = send(mail_server, sender, data)
    assert answer.startswith("250"), answer
    return mail_server.wait_in_mailbox(subject, ANNA)


def test_the_result_is_in_each_message_and_no_other_says_it(mail_server: MailServer) -> None:
    claims = [
        f"Authentication-Results: {HOST}; dmarc=pass header.from=bank.test",
        f'AUTHENTICATION-RESULTS: (x) "{HOST.upper()}" 1; dmarc=pass',
        f"Authentication-Results:\r\n\t{HOST}\r\n\t;spf=pass",
        "Authentication-Results: mx.elsewhere.test; spf=pass",
        "X-Mailkeep-Junk: yes: a stranger says so",
    ]
    message = deliver(mail_server, "a@honest.test", "A <a@honest.test>", *claims)
    results = message.get_all("Authentication-Results") or []
    print(message.as_string()[:1500])
    assert len(results) == 2
    assert re.sub(r"\s+", " ", results[0]) == (
        f"{HOST}; spf=pass smtp.mailfrom=honest.test; dkim=none; dmarc=pass header.from=honest.test policy.dmarc=reject"
    )
    assert "mx.elsewhere.test" in results[1]
    assert "X-Mailkeep-Junk" not in message
    log = mail_server.server.run("journalctl -u mailkeep-inbound -o cat -n 5").stdout
    print(log)
    assert "author=honest.test spf=pass dkim=none dmarc=pass policy=reject arc=none action=accept" in log


def test_a_forged_author_is_refused_as_its_domain_asks(mail_server: MailServer) -> None:
    answer = send(mail_server, "x@honest.test", compose("ceo@strict.test")[1])
    assert answer.startswith("550 5.7.1 strict.test asks to refuse mail"), answer
    answer = send(mail_server, "x@honest.test", compose(ANNA)[1])
    assert answer.startswith("550 5.7.1 From: shows example.test, a domain of this server"), answer


def test_a_suspicious_one_is_in_junk(mail_server: MailServer) -> None:
    subject, data = compose("ceo@wary.test")
    assert send(mail_server, "x@honest.test", data).startswith("250")
    message = mail_server.wait_in_mailbox(subject, ANNA, folder="Junk")
    assert message["X-Mailkeep-Junk"].startswith("yes: neither SPF nor DKIM")
