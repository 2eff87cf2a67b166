"""Who a message is from: judged on port 25, written into the message, and refused or sorted where it is forged."""

import json
import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email import policy
from email.message import EmailMessage, Message

import dkim
import pytest
import yaml
from clients import IMAPS, SMTP, deliver_message, read_mailbox, run_on
from test_mail import ANNA, BEN, HOST, MailServer, deploy_site

from mailkeep.inventory.dkim_keys import DkimKey, generate_dkim_pem
from mailkeep.lab import Attacker, Internet, Lab, poll
from mailkeep.lab.site import Site
from mailkeep.verify.verification import verify_inventory
from mailkeep_server.common import paths

HONEST, STRICT, WARY, LIST = "honest.test", "strict.test", "wary.test", "lists.test"
SELECTOR = "s"
KEYS = {domain: DkimKey(domain, SELECTOR, generate_dkim_pem()) for domain in (STRICT, LIST)}
ZONE = f"""\
{HONEST}. MX 10 mx.outside.test.
{HONEST}. TXT "v=spf1 a:mx.outside.test -all"
_dmarc.{HONEST}. TXT "v=DMARC1; p=reject"
{STRICT}. MX 10 mx.outside.test.
_dmarc.{STRICT}. TXT "v=DMARC1; p=reject"
{WARY}. MX 10 mx.outside.test.
_dmarc.{WARY}. TXT "v=DMARC1; p=quarantine"
"""
SERVICE = "mailkeep-inbound.service"
SOCKET = "mailkeep-inbound.socket"
DROP_INS = f"/run/systemd/system/{SERVICE}.d"
IDLE_SOON = """\
import sys
sys.path.insert(0, "/usr/lib/mailkeep")
from mailkeep_server.__main__ import main
from mailkeep_server.common import milter_server
milter_server.MAX_IDLE = 2.0
sys.exit(main(["inbound"]))
"""
CONNECT_OFTEN = f"""\
import socket
for _ in range(100):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("{paths.INBOUND_MILTER_SOCKET}")
"""
MAY_REPEAT = ("dovecot.service", "postfix.service")
"""Killed between storing a message and saying so, they get it once more (RFC 1047)."""


def format_key(key: DkimKey) -> str:
    """A string of a TXT record has at most 255 bytes."""
    text = f"v=DKIM1; k=rsa; p={key.public}"
    strings = " ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250))
    return f"{key.selector}._domainkey.{key.domain}. TXT {strings}\n"


@pytest.fixture(scope="module")
def mail_server(
    lab: Lab, internet: Internet, attacker: Attacker, built_site: Site, built_image: str
) -> Iterator[MailServer]:
    """It trusts an address of the attacker's and the seals of a list."""
    internet.publish(ZONE + "".join(map(format_key, KEYS.values())), "inbound")
    server = lab.boot_server("inbound", hostname=HOST, image=built_image)
    try:
        site = built_site.copy_for(server)
        settings = yaml.safe_load(site.settings_file.read_text())
        settings["inbound"] = {
            "trusted": [str(attacker.sources[0])],
            "trusted_sealers": [LIST],
            "refused_attachments": ["programs"],
        }
        site.settings_file.write_text(yaml.safe_dump(settings))
        yield MailServer(deploy_site(site), internet)
    finally:
        server.remove()
        internet.publish("", "inbound")


def compose(author: str, *headers: str, text: str = "Hello.") -> tuple[str, bytes]:
    """A subject of its own, and the message."""
    subject = f"inbound {secrets.token_hex(6)}"
    lines = [*headers, f"From: {author}", f"To: {ANNA}", f"Subject: {subject}", "", text, ""]
    return subject, "\r\n".join(lines).encode()


def sign(data: bytes, domain: str, form: bytes = b"relaxed") -> bytes:
    key = KEYS[domain]
    signature = dkim.sign(data, SELECTOR.encode(), domain.encode(), key.private_pem, canonicalize=(form, form))
    return bytes(signature) + data


def seal(data: bytes, results: str) -> bytes:
    data = f"Authentication-Results: {LIST}; {results}\r\n".encode() + data
    lines = dkim.ARC(data).sign(SELECTOR.encode(), LIST.encode(), KEYS[LIST].private_pem, LIST.encode())
    return b"".join(lines) + data


def send(mail_server: MailServer, sender: str, data: bytes) -> str:
    reply = mail_server.outside.send(sender, ANNA, mail_server.ip, data)
    return f"{reply.code} {reply.text}"


def deliver(mail_server: MailServer, sender: str, subject: str, data: bytes, folder: str = "INBOX") -> Message:
    answer = send(mail_server, sender, data)
    assert answer.startswith("250"), answer
    return mail_server.wait_in_mailbox(subject, ANNA, folder)


def read_results(message: Message) -> str:
    """Our header, which is the first, on one line."""
    return re.sub(r"\s+", " ", (message.get_all("Authentication-Results") or [""])[0])


def test_the_result_is_in_each_message_and_no_other_says_it(mail_server: MailServer) -> None:
    claims = [
        f"Authentication-Results: {HOST}; dmarc=pass header.from=bank.test",
        f'AUTHENTICATION-RESULTS: (x) "{HOST.upper()}" 1; dmarc=pass',
        f"Authentication-Results:\r\n\t{HOST}\r\n\t;spf=pass",
        "Authentication-Results: mx.elsewhere.test; spf=pass",
        f"Authentication-Results : {HOST}; spf=pass",
        f"authentication-results:{HOST}",
        "X-Mailkeep-Junk: yes",
    ]
    subject, data = compose(f"A <a@{HONEST}>", *claims)
    message = deliver(mail_server, f"a@{HONEST}", subject, data)
    results = message.get_all("Authentication-Results") or []
    assert len(results) == 2, results
    assert read_results(message) == (
        f"{HOST}; spf=pass smtp.mailfrom={HONEST}; dkim=none; dmarc=pass header.from={HONEST} policy.dmarc=reject"
    )
    assert "mx.elsewhere.test" in results[1]
    assert "X-Mailkeep-Junk" not in message
    log = mail_server.server.run(f"journalctl -u {SERVICE} -o cat --grep 'author={HONEST}'").stdout
    assert f"author={HONEST} spf=pass dkim=none dmarc=pass policy=reject arc=none action=accept" in log


def test_a_client_with_ipv6_is_known_by_its_address(mail_server: MailServer) -> None:
    subject, data = compose(f"A <a@{HONEST}>")
    reply = mail_server.outside.send(f"a@{HONEST}", ANNA, mail_server.site.server.ip6, data)
    assert reply.code == 250, reply.text
    assert "spf=pass" in read_results(mail_server.wait_in_mailbox(subject, ANNA))


def test_an_account_writes_no_results_in_our_name_either(mail_server: MailServer) -> None:
    subject = f"inbound {secrets.token_hex(6)}"
    headers = f"Authentication-Results: {HOST}; dmarc=pass", "X-Mailkeep-Junk: yes"
    assert mail_server.submit_message(subject, *headers, recipient=BEN).startswith("250")
    message = mail_server.wait_in_mailbox(subject, BEN)
    assert (message["Authentication-Results"], message["X-Mailkeep-Junk"]) == (None, None)


def test_a_forged_author_is_refused_as_its_domain_asks(mail_server: MailServer) -> None:
    answer = send(mail_server, f"x@{HONEST}", compose(f"ceo@{STRICT}")[1])
    assert answer.startswith(f"550 5.7.1 {STRICT} asks to refuse mail"), answer
    assert "postmaster@mail.example.test" in answer


def test_a_suspicious_one_is_in_junk(mail_server: MailServer) -> None:
    subject, data = compose(f"ceo@{WARY}")
    message = deliver(mail_server, f"x@{HONEST}", subject, data, "Junk")
    assert message["X-Mailkeep-Junk"] == "yes"
    assert str(message["X-Mailkeep-Junk-Reason"]).startswith("neither SPF nor DKIM")
    assert "dmarc=fail" in read_results(message)


def test_a_program_is_refused_and_another_attachment_comes_in(mail_server: MailServer) -> None:
    for name in ("invoice.exe", "invoice.pdf"):
        subject, _ = compose(f"a@{HONEST}")
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = f"a@{HONEST}", ANNA, subject
        message.set_content("Hello.")
        message.add_attachment(b"MZ", maintype="application", subtype="octet-stream", filename=name)
        data = message.as_bytes(policy=policy.SMTP)
        if name.endswith("exe"):
            assert send(mail_server, f"a@{HONEST}", data).startswith("552 5.7.1 Attachments of the kind .exe")
        else:
            deliver(mail_server, f"a@{HONEST}", subject, data)


def test_only_named_sources_write_as_our_domains(mail_server: MailServer, attacker: Attacker) -> None:
    refusal = send(mail_server, f"x@{HONEST}", compose(ANNA)[1])
    assert refusal.startswith("550 5.7.1 From: shows example.test, a domain of this server"), refusal
    for source, code in ((attacker.sources[0], "250"), (attacker.sources[1], "554")):
        arguments = (mail_server.ip, SMTP, ANNA, [ANNA], compose(ANNA)[1].decode())
        answer = run_on(attacker, deliver_message, *arguments, source=source)
        assert answer.startswith(code), answer


@pytest.mark.parametrize("form", [b"simple", b"relaxed"])
def test_a_signature_is_verified_as_the_bytes_came(mail_server: MailServer, form: bytes) -> None:
    """Postfix passes headers and text on as they are: folded, with blanks at ends of lines, in eight bits."""
    headers = ["X-Folded:   a\r\n\tb  \r\n  c", "Mime-Version: 1.0", "Content-Type: text/plain; charset=utf-8"]
    text = "Grüße \t \r\n.\r\n..\r\n \r\n\r\n" + "x" * 900 + "\r\n" * 3
    subject, data = compose(f"ceo@{STRICT}", *headers, text=text.replace("\r\n.", "\r\n-."))
    message = deliver(mail_server, f"x@{HONEST}", subject, sign(data, STRICT, form))
    assert f"dkim=pass header.d={STRICT} header.s={SELECTOR}" in read_results(message)
    assert f"dmarc=pass header.from={STRICT}" in read_results(message)


def test_what_a_trusted_list_has_changed_comes_in(mail_server: MailServer) -> None:
    subject, data = compose(f"ceo@{STRICT}", text="Hello.\r\n-- \r\nthe list's footer")
    sealed = seal(data, f"dmarc=pass header.from={STRICT}")
    message = deliver(mail_server, f"bounces@{HONEST}", subject, sealed)
    assert f"arc=pass header.d={LIST}" in read_results(message)
    forged = seal(compose(f"ceo@{STRICT}")[1], f"dmarc=fail header.from={STRICT}")
    assert send(mail_server, f"bounces@{HONEST}", forged).startswith("550 5.7.1 ")


def test_a_dns_that_does_not_answer_defers(mail_server: MailServer) -> None:
    """The resolver is there for Postfix, and gives no answer about one domain."""
    subject, data = compose(f"ceo@{STRICT}")
    data = sign(data, STRICT)
    unbound = "/etc/unbound/unbound.conf.d/silent.conf"
    mail_server.server.write(unbound, f'server:\n  local-zone: "_dmarc.{STRICT}" always_refuse\n')
    mail_server.server.run("systemctl restart unbound")
    try:
        answer = send(mail_server, f"x@{HONEST}", data)
        assert answer.startswith("451 4.7.0 The DNS does not tell now"), answer
    finally:
        mail_server.server.run(f"rm {unbound}; systemctl restart unbound")
    deliver(mail_server, f"x@{HONEST}", subject, data)


def test_mail_waits_while_the_milter_is_down_or_hangs(mail_server: MailServer) -> None:
    subject, data = compose(f"a@{HONEST}")
    mail_server.server.run("systemctl stop mailkeep-inbound.socket mailkeep-inbound.service")
    try:
        assert re.match(r"45[14] 4\.", send(mail_server, f"a@{HONEST}", data))
    finally:
        mail_server.server.run("systemctl start mailkeep-inbound.socket mailkeep-inbound.service")
    mail_server.server.run(f"systemctl kill --signal=STOP {SERVICE}")
    try:
        assert re.match(r"45[14] 4\.", send(mail_server, f"a@{HONEST}", data))
    finally:
        mail_server.server.run(f"systemctl kill --signal=CONT {SERVICE}")
    deliver(mail_server, f"a@{HONEST}", subject, data)


@contextmanager
def other_program(mail_server: MailServer, command: str) -> Iterator[None]:
    """A context in which the service's next start runs another program."""
    server = mail_server.server
    server.run(f"mkdir -p {DROP_INS}")
    server.write(f"{DROP_INS}/lab.conf", f"[Service]\nExecStart=\nExecStart={command}\n")
    server.run(f"systemctl daemon-reload && systemctl stop {SERVICE}")
    try:
        yield
    finally:
        server.run(f"rm -r {DROP_INS} && systemctl daemon-reload")


def is_ended(mail_server: MailServer) -> bool:
    return mail_server.server.run(f"systemctl is-active {SERVICE}", check=False).stdout == "inactive\n"


def read_sensor(mail_server: MailServer, name: str) -> tuple[float, list[str]]:
    """When the watch looked last, and the troubles that it saw."""
    report = json.loads(mail_server.server.run(f"cat {paths.SENSOR_REPORTS}").stdout)[name]
    return report["at"], report["troubles"]


def test_the_milter_ends_when_idle_and_the_next_mail_starts_it(mail_server: MailServer) -> None:
    subject, data = compose(f"a@{HONEST}")
    mail_server.server.write("/run/idle_soon.py", IDLE_SOON)
    with other_program(mail_server, "/usr/bin/python3 -IB /run/idle_soon.py"):
        mail_server.server.run(f"systemctl start {SERVICE}")
        poll(lambda: is_ended(mail_server), 60, "it does not end")
        ended = time.time()
        # The watch asks the others meanwhile, and does not start it; nor does a deploy.
        poll(lambda: read_sensor(mail_server, "inbound")[0] > ended, 60, "the watch does not look")
        assert read_sensor(mail_server, "unit")[1] == []
        assert mail_server.site.deploy().changed == []
        assert is_ended(mail_server)
        outcomes = {outcome.check: outcome.observed for outcome in verify_inventory(mail_server.site.inventory)}
        assert outcomes["services_run_and_start_at_boot"] == outcomes["services_have_their_sandboxes"] == ""
        poll(lambda: is_ended(mail_server), 60, "it does not end")
        deliver(mail_server, f"a@{HONEST}", subject, data)


def test_a_milter_that_cannot_start_is_told_and_tried_until_it_can(mail_server: MailServer) -> None:
    subject, data = compose(f"a@{HONEST}")
    with other_program(mail_server, "/usr/bin/false"):
        assert re.match(r"45[14] 4\.", send(mail_server, f"a@{HONEST}", data))
        poll(lambda: f"{SERVICE} is down" in str(read_sensor(mail_server, "unit")[1]), 20, "the watch does not tell")
        for _ in range(5):
            mail_server.server.run("python3 -", stdin=CONNECT_OFTEN)
        outcomes = {outcome.check: outcome.observed for outcome in verify_inventory(mail_server.site.inventory)}
        assert (
            f"{SERVICE}: does not answer at {paths.INBOUND_MILTER_SOCKET}" in outcomes["services_run_and_start_at_boot"]
        )
        assert mail_server.server.run(f"systemctl is-active {SOCKET}").stdout == "active\n"
    poll(lambda: send(mail_server, f"a@{HONEST}", data).startswith("250"), 20, "it does not come back")
    assert mail_server.wait_in_mailbox(subject, ANNA)


@pytest.mark.parametrize("service", [SERVICE, "mailkeep-guard.service", "unbound.service", *MAY_REPEAT])
def test_nothing_is_lost_or_comes_twice_when_a_service_is_killed(mail_server: MailServer, service: str) -> None:
    messages = dict(compose(f"a@{HONEST}") for _ in range(24))

    def insist(data: bytes) -> None:
        # Whoever gets no answer tries again, as every mail server does.
        poll(lambda: send(mail_server, f"a@{HONEST}", data).startswith("250"), 180, "never accepted")

    with ThreadPoolExecutor(6) as pool:
        sending = [pool.submit(insist, data) for data in messages.values()]
        for _ in range(3):
            poll(lambda: kill_service(mail_server, service), 20, "it does not come back")
        for future in sending:
            future.result()

    def count_copies() -> dict[str, int]:
        mail = b"".join(read_mailbox(mail_server.ip, IMAPS, ANNA, mail_server.site.passphrases[ANNA]))
        return {subject: mail.count(f"Subject: {subject}".encode()) for subject in messages}

    poll(lambda: has_ended(mail_server, service), 30, "mail stays in the queue")
    copies = count_copies()
    assert min(copies.values()) == 1, copies
    assert max(copies.values()) == 1 or service in MAY_REPEAT, copies


def has_ended(mail_server: MailServer, service: str) -> bool:
    """The queue is empty, and the service is there. What waits for Dovecot is tried at once."""
    script = f"systemctl is-active --quiet {service} && postqueue -f && postqueue -j"
    result = mail_server.server.run(script, check=False)
    return (result.returncode, result.stdout) == (0, "")


def kill_service(mail_server: MailServer, service: str) -> bool:
    script = f"systemctl is-active --quiet {service} && systemctl kill --signal=KILL {service}"
    return mail_server.server.run(script, check=False).returncode == 0


def test_the_kernel_keeps_a_crowd_for_port_25_while_all_processes_are_busy(mail_server: MailServer) -> None:
    """It says nothing to those for whom it has no room. bench/inbound.py shows a crowd served."""
    listeners = [line.split() for line in mail_server.server.run("ss -Hltn 'sport = :25'").stdout.splitlines()]
    assert [listener[2] for listener in listeners] == ["1000"] * len(listeners) != []


def test_a_large_message_takes_little_memory(mail_server: MailServer) -> None:
    subject, data = compose(f"ceo@{STRICT}", text=("x" * 76 + "\r\n") * 290_000)
    deliver(mail_server, f"x@{HONEST}", subject, sign(data, STRICT))
    memory = mail_server.server.run(f"grep VmHWM /proc/$(systemctl show -p MainPID --value {SERVICE})/status").stdout
    assert int(memory.split()[1]) < 60_000  # KiB
