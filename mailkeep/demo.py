"""`make demo`: the whole product once, in containers: build, verify, one message out, one message in."""

import imaplib
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.utils import make_msgid
from ipaddress import IPv4Address
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mailkeep.dns import formats, records
from mailkeep.drills import in_lab as drills
from mailkeep.drills import report
from mailkeep.errors import UserError
from mailkeep.lab import Internet, Server, poll
from mailkeep.lab.demo_server import WORKING_COPY, Stopwatch, start_demo_server
from mailkeep.lab.site import DeployResult, Site
from mailkeep.verify.verification import verify_and_report

ACCOUNT = "anna@example.test"
STRANGER = "bob@outside.test"

out = Console(soft_wrap=True, highlight=False, emoji=False)


def run() -> None:
    """UserError says which stage failed and why."""
    watch = Stopwatch(out)
    lab, internet, site, deployed = start_demo_server(watch)
    server = site.server
    with watch.stage("verify: attack it"):
        if not verify_and_report(WORKING_COPY):
            raise UserError("The demonstration's server did not withstand; see above.")
    with watch.stage("send a message out, receive one back"):
        subject = make_msgid(domain="example.test")
        _send(site, server.ip, subject)
        came = internet.wait_for(lambda mail: mail.message["Subject"] == subject)
        if "DKIM-Signature" not in came.message:
            raise UserError("The message left without a DKIM signature.")
        _answer(internet, server, subject)
        poll(lambda: _found(site, server.ip, subject), 30, "the answer is not in the mailbox")
    with watch.stage(f"replay an incident, with the password of {drills.STOLEN}"):
        [result] = report.run_drills(drills.create_setup(lab, site, internet), ["A"], report.PICTURES / "demo", out)
    _summary(site, deployed, watch)
    if result.misses:
        raise UserError("The drill let too much through; see above.")


def _trusting(site: Site) -> ssl.SSLContext:
    """Trusts the server's own certificate and no other, and checks its name, as a careful mail program does."""
    return ssl.create_default_context(cadata=site.secrets.tls.certificate.decode())


def _send(site: Site, server: IPv4Address, subject: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ACCOUNT, STRANGER, subject
    message.set_content("Hello from a server that was not there a minute ago.\n")
    with _Submission(str(server), site.settings.host.name, _trusting(site)) as client:
        client.login(ACCOUNT, site.passphrases[ACCOUNT])
        client.send_message(message)


def _answer(internet: Internet, server: Server, subject: str) -> None:
    answer = EmailMessage()
    answer["From"], answer["To"], answer["Subject"] = STRANGER, ACCOUNT, f"Re: {subject}"
    answer.set_content("Hello back.\n")
    reply = internet.send(STRANGER, ACCOUNT, server.ip, answer)
    if reply.code != 250:
        raise UserError(f"The server refused mail from outside: {reply.code} {reply.text}")


def _found(site: Site, server: IPv4Address, subject: str) -> bool:
    with _Mailbox(str(server), site.settings.host.name, _trusting(site)) as client:
        client.login(ACCOUNT, site.passphrases[ACCOUNT])
        client.select(readonly=True)
        _, found = client.search(None, "SUBJECT", f'"{subject}"')
        return bool(found[0])


class _Submission(smtplib.SMTP_SSL):
    """Connects to an address and checks the certificate for a name."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        self._name = name
        super().__init__(address, 465, context=context, timeout=30)

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        plain = smtplib.SMTP._get_socket(self, host, port, timeout)  # type: ignore[attr-defined]
        return self.context.wrap_socket(plain, server_hostname=self._name)


class _Mailbox(imaplib.IMAP4_SSL):
    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        self._name = name
        super().__init__(address, 993, ssl_context=context, timeout=30)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        plain = imaplib.IMAP4._create_socket(self, timeout)  # type: ignore[attr-defined]
        wrapped: ssl.SSLSocket = self.ssl_context.wrap_socket(plain, server_hostname=self._name)
        return wrapped


def _summary(site: Site, deployed: DeployResult, watch: Stopwatch) -> None:
    declared = site.settings
    out.rule("[bold]The server runs")
    for address, passphrase in site.passphrases.items():
        out.print(f"  log in     {address}  {passphrase}", markup=False)
    out.print(
        f"  frozen     {drills.STOLEN}, by the drill; on the server, `mailkeepctl thaw {drills.STOLEN}`", markup=False
    )
    out.print(f"  IMAP       {site.server.ip}:993 (TLS)    submission {site.server.ip}:465 (TLS), :587 (STARTTLS)")
    out.print(f"  SSH        ssh -F {_short(site.server.ssh_config)} mail")
    out.rule("[bold]DNS records to publish")
    listed = records.own_zone_records(declared, site.secrets)
    required = [record for record in listed if record.need == "required"]
    out.print(formats.format_zone_file([*required, *records.reverse_records(declared)]), markup=False, end="")
    more = f"mailkeep dns {_short(WORKING_COPY)}"
    out.print(f"and {len(listed) - len(required)} that are recommended or optional: {more}", markup=False)
    out.rule("[bold]Stages")
    table = Table.grid(padding=(0, 2))
    for name, seconds in watch.stages:
        table.add_row(f"{seconds:6.1f} s", name)
    out.print(table)
    changed = len(deployed.changed)
    out.print(f"\n[bold]{changed} changes[/]" + (" (run it again: 0)" if changed else ": the server is as declared"))


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    try:
        run()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
