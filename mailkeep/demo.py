"""`make demo`: the whole product once, in containers: build, verify, a message out, a message in, a drill."""

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
from mailkeep.drills import in_lab, report
from mailkeep.errors import UserError
from mailkeep.lab import Internet, Server, poll
from mailkeep.lab.demo_server import WORKING_COPY, Stopwatch, start_demo_server
from mailkeep.lab.site import DeployResult, Site
from mailkeep.verify.verification import verify_and_report

ACCOUNT = "anna@example.test"
OUTSIDER = "bob@outside.test"
DELIVERY_TIMEOUT = 30  # seconds
CONNECT_TIMEOUT = 30  # seconds

out = Console(soft_wrap=True, highlight=False, emoji=False)


def run() -> None:
    """UserError says which stage failed, and why."""
    stopwatch = Stopwatch(out)
    lab, internet, site, deployed = start_demo_server(stopwatch)
    server = site.server
    with stopwatch.stage("verify: attack it"):
        if not verify_and_report(WORKING_COPY):
            raise UserError("The demonstration's server did not withstand; see above.")
    with stopwatch.stage("send a message out, receive one back"):
        subject = make_msgid(domain="example.test")
        _send_message(site, server.ip, subject)
        received = internet.wait_for(lambda mail: mail.message["Subject"] == subject)
        if "DKIM-Signature" not in received.message:
            raise UserError("The message left without a DKIM signature.")
        _send_answer(internet, server, subject)
        poll(lambda: _is_in_mailbox(site, server.ip, subject), DELIVERY_TIMEOUT, "the answer is not in the mailbox")
    with stopwatch.stage(f"replay an incident, with the password of {in_lab.STOLEN}"):
        setup = in_lab.create_setup(lab, site, internet)
        [result] = report.run_drills(setup, ["A"], report.PICTURES / "demo", out)
    _print_summary(site, deployed, stopwatch)
    if result.misses:
        raise UserError("The drill let too much through; see above.")


def _tls_context(site: Site) -> ssl.SSLContext:
    """Trusts the server's own certificate and no other, and checks its name, as a careful mail program does."""
    return ssl.create_default_context(cadata=site.secrets.tls.certificate.decode())


def _send_message(site: Site, server: IPv4Address, subject: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ACCOUNT, OUTSIDER, subject
    message.set_content("Hello from a server that did not exist a minute ago.\n")
    with SubmissionClient(str(server), site.settings.host.name, _tls_context(site)) as client:
        client.login(ACCOUNT, site.passphrases[ACCOUNT])
        client.send_message(message)


def _send_answer(internet: Internet, server: Server, subject: str) -> None:
    answer = EmailMessage()
    answer["From"], answer["To"], answer["Subject"] = OUTSIDER, ACCOUNT, f"Re: {subject}"
    answer.set_content("Hello back.\n")
    reply = internet.send(OUTSIDER, ACCOUNT, server.ip, answer)
    if reply.code != 250:
        raise UserError(f"The server refused mail from outside: {reply.code} {reply.text}")


def _is_in_mailbox(site: Site, server: IPv4Address, subject: str) -> bool:
    with MailboxClient(str(server), site.settings.host.name, _tls_context(site)) as client:
        client.login(ACCOUNT, site.passphrases[ACCOUNT])
        client.select(readonly=True)
        _, [numbers] = client.search(None, "SUBJECT", f'"{subject}"')
        return bool(numbers)


class SubmissionClient(smtplib.SMTP_SSL):
    """Connects to an address, and checks the certificate for a name."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        self._name = name
        super().__init__(address, 465, context=context, timeout=CONNECT_TIMEOUT)

    def _get_socket(self, host: str, port: int, timeout: float) -> ssl.SSLSocket:
        connection = smtplib.SMTP._get_socket(self, host, port, timeout)  # type: ignore[attr-defined]
        return self.context.wrap_socket(connection, server_hostname=self._name)


class MailboxClient(imaplib.IMAP4_SSL):
    """As SubmissionClient, for IMAP."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext) -> None:
        self._name = name
        super().__init__(address, 993, ssl_context=context, timeout=CONNECT_TIMEOUT)

    def _create_socket(self, timeout: float | None) -> ssl.SSLSocket:
        connection = imaplib.IMAP4._create_socket(self, timeout)  # type: ignore[attr-defined]
        wrapped: ssl.SSLSocket = self.ssl_context.wrap_socket(connection, server_hostname=self._name)
        return wrapped


def _print_summary(site: Site, deployed: DeployResult, stopwatch: Stopwatch) -> None:
    out.rule("[bold]The server runs")
    for address, passphrase in site.passphrases.items():
        out.print(f"  log in     {address}  {passphrase}", markup=False)
    thaw = f"`mailkeepctl thaw {in_lab.STOLEN}` on the server thaws it"
    out.print(f"  frozen     {in_lab.STOLEN}, by the drill; {thaw}", markup=False)
    out.print(f"  IMAP       {site.server.ip}:993 (TLS)    submission {site.server.ip}:465 (TLS), :587 (STARTTLS)")
    out.print(f"  SSH        ssh -F {_shorten(site.server.ssh_config)} mail")
    out.rule("[bold]DNS records to publish")
    _print_required_records(site)
    out.rule("[bold]Stages")
    table = Table.grid(padding=(0, 2))
    for name, seconds in stopwatch.stages:
        table.add_row(f"{seconds:6.1f} s", name)
    out.print(table)
    changes = len(deployed.changed)
    out.print(f"\n[bold]{changes} changes[/]" + (" (run it again: 0)" if changes else ": the server is as declared"))


def _print_required_records(site: Site) -> None:
    own_records = records.own_zone_records(site.settings, site.secrets)
    required = [record for record in own_records if record.need == "required"]
    out.print(formats.format_zone_file([*required, *records.reverse_records(site.settings)]), markup=False, end="")
    command = f"`mailkeep dns {_shorten(WORKING_COPY)}`"
    others = len(own_records) - len(required)
    out.print(f"{command} prints these and {others} that are recommended or optional.", markup=False)


def _shorten(path: Path) -> Path:
    """Relative to the working directory, if the path is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    try:
        run()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
