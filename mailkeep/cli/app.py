"""The `mailkeep` command: one short function a command; the work is done elsewhere.

Exit codes: 0 done (`plan`: nothing to do), 1 an error that the message explains, 2 `plan`: there are changes (and, as
for every command, arguments that make no sense), 130 interrupted.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from getpass import getuser
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailkeep.dns import formats, records
from mailkeep.dns import report as dns_report
from mailkeep.dns.records import Record
from mailkeep.errors import UserError
from mailkeep.inventory import hosts, passwords, secrets
from mailkeep.settings import edit_accounts, models
from mailkeep.settings.models import Settings

if TYPE_CHECKING:
    from mailkeep.dns.blocklists import BlocklistEntry

ROOT = Path(__file__).resolve().parents[2]

app = typer.Typer(
    name="mailkeep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Build, verify and rebuild a hardened Debian mail server.\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 `plan` found changes or the arguments make no sense, "
    "130 interrupted.",
    epilog="A first server: `mailkeep init home --host mail.example.org --address 203.0.113.25 "
    "--admin you@example.org`, then `mailkeep deploy home`.",
)
account = typer.Typer(
    no_args_is_help=True,
    help="Add, change, list and remove mail accounts in mail.yml.",
    epilog="Example: `mailkeep account add home anna@example.org --generate`, then `mailkeep deploy home`.",
)
app.add_typer(account, name="account")
dkim = typer.Typer(no_args_is_help=True, help="Replace DKIM keys.", epilog="Example: `mailkeep dkim rotate home`.")
app.add_typer(dkim, name="dkim")

out = Console(soft_wrap=True, highlight=False, emoji=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="An inventory: inventories/NAME, or the path of one.")]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The account's address, such as anna@example.org.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
Resolver = Annotated[
    str,
    typer.Option(
        envvar="MAILKEEP_RESOLVER",
        metavar="ADDRESS",
        help="The resolver to ask. Default: this machine's. Authoritative servers are asked besides.",
    ),
]
Adopt = Annotated[bool, typer.Option("--adopt", help="Take over a mail server that Mailkeep did not set up.")]


def main() -> NoReturn:
    """Runs the command; what a user did wrong is a message, never a traceback."""
    sys.stdin = sys.stdin or io.StringIO()  # None where it was closed (`<&-`)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal without UTF-8 cannot show ends nothing
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:  # a full disk, a name too long: wherever it happened, it says what to do
        print(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error, file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mailkeep {version('mailkeep')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `mailkeep` itself."""


def _open(name: str) -> tuple[Path, Settings]:
    """The inventory's directory and its valid settings."""
    directory = hosts.find(name)
    return directory, models.load(directory / hosts.SETTINGS)


@app.command(
    epilog="Example: `mailkeep init home --host mail.example.org --address 203.0.113.25 --admin you@example.org`"
)
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: makes inventories/NAME.")],
    host: Annotated[str, typer.Option(help="The server's fully qualified name, such as mail.example.org.")],
    address: Annotated[list[str], typer.Option(help="A public address of the server; repeat for IPv4 and IPv6.")],
    admin: Annotated[list[str], typer.Option(help="Where reports and alarms go; repeat for several.")],
    domain: Annotated[list[str] | None, typer.Option(help="A mail domain. Default: the host name's.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="A network of yours that is never banned.")] = None,
    account: Annotated[str | None, typer.Option(help="The first account. Default: the admin, or postmaster.")] = None,
    ssh_host: Annotated[str | None, typer.Option(help="[USER@]HOST for SSH. Default: the host name.")] = None,
) -> None:
    """Make a new inventory: commented settings, keys, a first account. Overwrites nothing."""
    from mailkeep.inventory.create import init as make

    made = make(
        Path(hosts.FOLDER) / name,
        host=host,
        addresses=address,
        admin=admin,
        domains=domain or (),
        networks=network or (),
        account=account,
        ssh_host=ssh_host,
    )
    with _seen(name, made.address):
        out.print(f"Made {made.directory}/ with")
        for line in made.made:
            out.print(f"  {line}", markup=False)
        out.print(
            f"\nThe first account, shown once and kept nowhere:\n  {made.address}\n  {made.passphrase}\n", markup=False
        )
    for line in made.next_steps:
        out.print(line, markup=False)


@app.command(epilog="Example: `mailkeep check home`")
def check(name: Name) -> None:
    """Check mail.yml and the vault without touching the host."""
    directory, declared = _open(name)
    secrets.load(declared, directory)
    names = ", ".join(hosts.hosts(directory))
    counted = f"{_count(len(declared.accounts), 'account')}, {_count(len(declared.domains), 'domain')}"
    out.print(f"{directory / hosts.SETTINGS}: good. {counted}, for {names}.", markup=False)
    for entry in secrets.unused(declared, directory):
        out.print(f"note: the vault has {entry}, which mail.yml has no use for", markup=False)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


@app.command(epilog="Example: `mailkeep plan home`")
def plan(name: Name, as_json: Json = False, adopt: Adopt = False) -> None:
    """Say what a deploy would change, with diffs; touch nothing. Exit 0: nothing, 2: changes, 1: an error."""
    from mailkeep.host.plan import plan as look

    directory, declared = _open(name)
    secrets.load(declared, directory)
    _refuse_nobody()
    raise typer.Exit(look(directory, json=as_json, adopt=adopt))


@app.command(
    epilog="Example: `mailkeep deploy home`. The same by pyinfra: `pyinfra inventories/home/inventory.py deploy.py`"
)
def deploy(
    name: Name,
    as_json: Json = False,
    adopt: Adopt = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Neither verify the server afterwards nor look at its DNS records.")
    ] = False,
    resolver: Resolver = "",
) -> None:
    """Make the host what mail.yml says, verify it, and look at its DNS records. A rerun changes nothing."""
    from mailkeep.host.plan import explain

    directory, declared = _open(name)
    keys = secrets.load(declared, directory)
    if resolver:
        from mailkeep.dns import client

        client.make_resolver(resolver)  # refuses what is none, before anything is changed
    hosts.hosts(directory)  # what is wrong there is told before anything connects
    _refuse_nobody()
    options = [*(["--json"] if as_json else []), *(["--data", "adopt=true"] if adopt else [])]
    stdout = subprocess.PIPE if as_json else None
    done = subprocess.run(pyinfra(directory, *options), cwd=ROOT, check=False, text=True, stdout=stdout)
    print(done.stdout or "", end="")
    if done.returncode:
        explain(directory, json=as_json and not done.stdout)
        raise typer.Exit(done.returncode)
    if not no_verify and not as_json:
        verify(name)
        dns_report.print_reminder(declared, keys, resolver, f"mailkeep dns {name} --check")


def _refuse_nobody() -> None:
    """A user without a name gets nowhere by SSH, and pyinfra would say so in a traceback."""
    try:
        getuser()
    except (KeyError, OSError):
        raise UserError(
            f"The user {os.getuid()} who runs this has no name here, which SSH wants. Run it as another, or set USER."
        ) from None


def pyinfra(directory: Path, *options: str) -> list[str]:
    """The pyinfra command that deploys this inventory; it works as well without `mailkeep`."""
    program = Path(sys.executable).parent / "pyinfra"
    return [str(program), str(directory.resolve() / hosts.HOSTS), "deploy.py", "-y", *options]


@app.command(epilog="Example: `mailkeep verify home`")
def verify(name: Name, as_json: Json = False) -> None:
    """Attack the running server in every way that we know, and see it withstand. Exit 1: something gave."""
    from mailkeep.verify.verification import verify_and_report

    directory, _ = _open(name)
    if not verify_and_report(directory, as_json=as_json):
        raise typer.Exit(1)


@app.command(epilog="Example: `mailkeep render home /tmp/mail.example.org`")
def render(name: Name, target: Annotated[Path, typer.Argument(metavar="DIR", help="A directory to make.")]) -> None:
    """Write every file that a host would get below DIR, to look at. Keys among them: keep DIR private."""
    from mailkeep.host.render import render as write

    _open(name)
    written = write(hosts.find(name), target)
    out.print(f"{len(written)} files below {target}/", markup=False)


@app.command(epilog="Example, after a new domain in mail.yml: `mailkeep keys home`")
def keys(
    name: Name,
    reencrypt: Annotated[bool, typer.Option("--reencrypt", help="Encrypt anew, for who recipients.txt names.")] = False,
) -> None:
    """Make the keys that mail.yml needs and the vault lacks: DKIM, TLS with a self-signed certificate."""
    directory, declared = _open(name)
    made = secrets.generate(declared, directory, date.today())
    for line in made or ["Nothing is missing."]:
        out.print(line, markup=False)
    if reencrypt:
        secrets.vault(directory).reencrypt()
        out.print("The vault is encrypted for all who are in recipients.txt.")


@app.command(epilog="Example: `mailkeep tls home --certificate fullchain.pem --key privkey.pem`")
def tls(
    name: Name,
    certificate: Annotated[Path, typer.Option(help="The chain, PEM, the server's own certificate first.")],
    key: Annotated[Path, typer.Option(help="Its private key, PEM, without a passphrase.")],
) -> None:
    """Take over a certificate and its key, for `tls: mode: files`."""
    directory, declared = _open(name)
    for line in secrets.import_tls(declared, directory, certificate, key):
        out.print(line, markup=False)


@app.command(epilog="Example: `mailkeep acme home`, then `mailkeep deploy home`")
def acme(name: Name) -> None:
    """Put what the DNS provider wants to know into the vault, for `challenge: dns-01`; asks, or reads standard input.

    A line NAME=value each, by the names that `lego dnshelp -c PROVIDER` lists."""
    directory, _ = _open(name)
    names = secrets.set_acme(directory, _ask_lines("NAME=value (nothing: that was all)"))
    out.print(f"In the vault: {', '.join(names)}.", markup=False)


@app.command(epilog="Example: `mailkeep relay home`")
def relay(name: Name) -> None:
    """Put the password of the relay host into the vault; asks for it, or reads it from standard input."""
    directory, _ = _open(name)
    secrets.set_relay_password(directory, _ask("Password of the relay host"))
    out.print("The password is in the vault.")


@app.command(epilog="Example: `mailkeep store home`")
def store(name: Name) -> None:
    """Put the password of the guard's shared store into the vault; asks for it, or reads it from standard input."""
    directory, _ = _open(name)
    secrets.set_store_password(directory, _ask("Password of the guard's store"))
    out.print("The password is in the vault.")


@app.command(epilog="Example: `mailkeep webhook home`, then `mailkeep deploy home` and `mailkeep alert-test home`")
def webhook(
    name: Name,
    token: Annotated[bool, typer.Option("--token", help="Ask for a token too (Authorization: Bearer).")] = False,
) -> None:
    """Put the URL of the alerts' webhook into the vault; asks for it, or reads it from standard input."""
    directory, _ = _open(name)
    secrets.set_webhook(directory, _ask("URL of the webhook"), _ask("Its token") if token else "")
    out.print("The URL is in the vault.")


@app.command("alert-test", epilog="Example: `mailkeep alert-test home`")
def alert_test(name: Name, as_json: Json = False) -> None:
    """Have the server send one alert by each way, and say which arrived. Exit 1: one did not."""
    from mailkeep.operate import alert_test

    directory, _ = _open(name)
    tests: list[alert_test.AlertTest] = []
    try:
        for test in alert_test.send_test_alerts(directory):
            tests.append(test)
            if not as_json:
                mark = "arrived" if test.arrived else "DID NOT ARRIVE"
                out.print(f"{test.host}: {test.channel} to {test.recipient}: {mark}: {test.answer}", markup=False)
    finally:  # one host's trouble does not hide what the others sent
        if as_json:
            print(json.dumps([asdict(test) for test in tests], indent=2))
    if not all(test.arrived for test in tests):
        raise typer.Exit(1)


@app.command(epilog="Examples: `mailkeep drill A`, `mailkeep drill all`, `mailkeep drill week`")
def drill(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="A to F, week, or all.")],
    as_json: Json = False,
    picture: Annotated[Path | None, typer.Option(help="Where to draw it, without .svg and .png.")] = None,
    without_guard: Annotated[
        bool, typer.Option("--without-guard", help="On a server whose Postfix does not ask the guard.")
    ] = False,
    live: Annotated[str | None, typer.Option("--inventory", help="A live server instead of the lab.")] = None,
    meant: Annotated[bool, typer.Option("--i-mean-it", help="Needed for a live server.")] = False,
    account: Annotated[str | None, typer.Option(help="There: an account to throw away.")] = None,
    to: Annotated[str | None, typer.Option(help="There: an address of yours elsewhere.")] = None,
) -> None:
    """Replay an incident against a built server, in the lab. Exit 1: more got out than may."""
    from mailkeep.drills import command, production
    from mailkeep.drills.in_lab import chosen

    wanted = chosen(names)
    if live is None:
        done = command.in_the_lab(wanted, picture, as_json, without_guard)
    else:
        directory, _ = _open(live)
        production.refuse(directory, wanted, meant, account, to)
        done = command.live(directory, wanted, account or "", to or "", _ask(f"Password of {account}"), as_json)
    if not done:
        raise typer.Exit(1)


def _directory(text: str) -> Path:
    if not text:
        raise typer.BadParameter("expected the name of a directory, such as octodns")
    return Path(text)


@app.command(
    "dns",
    epilog="Example: `mailkeep dns home`; for a web form: `mailkeep dns home --form`; for a zone file: "
    "`mailkeep dns home --zone`; whether the world sees them: `mailkeep dns home --check`",
)
def dns_records(
    name: Name,
    as_json: Json = False,
    zone: Annotated[bool, typer.Option("--zone", help="Print lines of a zone file.")] = False,
    form: Annotated[bool, typer.Option("--form", help="Print names and values as web forms want them.")] = False,
    octodns: Annotated[
        Path | None,
        typer.Option(parser=_directory, metavar="DIR", help="Write a file for each zone into DIR, for octoDNS."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="See what is published. Exit 1: something is wrong.")] = False,
    resolver: Resolver = "",
) -> None:
    """Print the DNS records to publish, most important first, each with its reason; or check those that are."""
    given = {"--check": check, "--zone": zone, "--form": form, "--octodns": octodns, "--json": as_json}
    chosen = [option for option, value in given.items() if value]
    if len(chosen) > 1 and chosen != ["--check", "--json"]:
        raise typer.BadParameter(f"{' and '.join(chosen)} are for different things: give one. (--check takes --json.)")
    directory, declared = _open(name)
    keys = secrets.load(declared, directory)
    if check:
        raise typer.Exit(dns_report.run_check(declared, keys, resolver, as_json=as_json))
    listed = records.own_zone_records(declared, keys)
    if zone:
        print(formats.format_zone_file(listed), end="")
    elif form:
        print(formats.format_web_form(listed), end="")
    elif octodns:
        _write_octodns(listed, octodns)
    elif as_json:
        print(json.dumps([record.asdict() for record in (*listed, *records.reverse_records(declared))], indent=2))
    else:
        _print_records(listed, records.third_party_records(declared, keys), declared)


def _write_octodns(listed: list[Record], target: Path) -> None:
    for file, text in formats.format_octodns(listed).items():
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / file).write_text(text)
        except OSError as error:
            raise UserError(f"{target / file}: {error.strerror}. Name a directory that you can write to.") from None
        out.print(target / file, markup=False)


def _print_records(listed: list[Record], elsewhere: list[Record], declared: Settings) -> None:
    """Each value on a line of its own, whole, so that it can be copied."""
    for record in listed:
        out.print(f"[bold]{record.name}[/]  {record.type}  [dim]{record.need}: {record.reason} ({record.source})[/]")
        out.print(f"  {record.value}\n", markup=False)
    out.print("[bold]At the hoster of the addresses[/] (reverse DNS):")
    for record in records.reverse_records(declared):
        out.print(f"  {record.name}  PTR  {record.value}  [dim]{record.reason} ({record.source})[/]")
    if elsewhere:
        out.print("\n[bold]Not yours to set[/]: ask whoever has these zones, or few will send reports there.")
    for record in elsewhere:
        out.print(f"  {record.name}  {record.type}  {record.value}  [dim]{record.reason} ({record.source})[/]")
    for text in records.list_instructions(declared):
        out.print(f"\n{text}", markup=False)


@app.command(epilog="Example: `mailkeep blocklists home`; ask from where you may: with --resolver, or on the server")
def blocklists(name: Name, as_json: Json = False, resolver: Resolver = "") -> None:
    """Ask the DNS blocklists about the addresses and domains. Exit 1: one lists something, or none told."""
    from mailkeep.dns import blocklists as lists
    from mailkeep.dns import client

    _, declared = _open(name)
    entries = lists.query_blocklists(declared, client.make_resolver(resolver))
    if as_json:
        print(json.dumps([entry.asdict() for entry in entries], indent=2))
    else:
        _print_entries(entries)
    if not any(entry.is_conclusive for entry in entries):
        raise UserError("No list has told anything. Ask from elsewhere, or another resolver: --resolver ADDRESS.")
    if any(entry.state == "listed" for entry in entries):
        raise typer.Exit(1)


def _print_entries(entries: list["BlocklistEntry"]) -> None:
    for entry in entries:
        style = {"listed": "bold red", "trusted": "bold green"}.get(entry.state, "")
        out.print(Text.assemble((f"{entry.state:8}", style), f"  {entry.subject}  {entry.list}"))
        for line in filter(None, (entry.answer, entry.delisting)):
            out.print(f"          {line}", markup=False)
    listed = len({entry.list for entry in entries if entry.state == "listed"})
    silent = len({entry.list for entry in entries if not entry.is_conclusive})
    out.print(f"On {_count(listed, 'blocklist')}." + (f" {_count(silent, 'list')} told nothing." if silent else ""))


@dkim.command(epilog="Example: `mailkeep dkim rotate home`, again and again, as it says")
def rotate(
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="Begin even if the keys are not a month old.")] = False,
    resolver: Resolver = "",
) -> None:
    """Replace the DKIM keys, a step at a time: publish, have them sign once seen, retire the former."""
    from mailkeep.dns import client
    from mailkeep.operate import dkim_rotation

    directory, declared = _open(name)
    secrets.load(declared, directory)

    def unseen(keys: list[secrets.DkimKey]) -> dict[secrets.DkimKey, str]:
        return dkim_rotation.unseen(keys, client.make_resolver(resolver))

    def since(keys: list[secrets.StoredDkim]) -> dict[secrets.StoredDkim, date]:
        return dkim_rotation.signing_since(keys, directory)

    for line in dkim_rotation.rotate(declared, directory, date.today(), unseen, since, now=now):
        out.print(line, markup=False)


@app.command("tls-roll", epilog="Example: `mailkeep tls-roll home`, again and again, as it says")
def tls_roll(
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="Begin even if the key is not a month old.")] = False,
    resolver: Resolver = "",
) -> None:
    """Replace the TLS key that certificates by ACME are for, a step at a time: publish, show once seen, retire."""
    from mailkeep.dns import client
    from mailkeep.operate import tls_key_rollover

    directory, declared = _open(name)
    secrets.load(declared, directory)

    def unseen(record: Record) -> tuple[list[str], int]:
        return tls_key_rollover.unseen(record, client.make_resolver(resolver))

    for line in tls_key_rollover.roll(declared, directory, datetime.now(UTC), unseen, tls_key_rollover.shown, now=now):
        out.print(line, markup=False)


@app.command(epilog="Example: `mailkeep schema > mail.schema.json`")
def schema() -> None:
    """Print the JSON Schema of mail.yml, for editors that complete it."""
    print(json.dumps(models.schema(), indent=2))


@account.command("list", epilog="Example: `mailkeep account list home`")
def list_accounts(name: Name, as_json: Json = False) -> None:
    """List the accounts of mail.yml."""
    _, declared = _open(name)
    listed = edit_accounts.listing(declared)
    if as_json:
        print(json.dumps([one._asdict() for one in listed], indent=2))
        return
    table = Table("address", "name", "quota", "sends as", "aliases")
    for one in listed:
        table.add_row(one.address, one.name, one.quota, "\n".join(one.send_as), "\n".join(one.aliases))
    out.print(table)


Generate = Annotated[bool, typer.Option("--generate", help="Make a passphrase and show it once.")]
Breaches = Annotated[
    bool, typer.Option("--check-breaches", help="Ask Have I Been Pwned; five digits of a hash leave this machine.")
]


@account.command("add", epilog="Example: `mailkeep account add home anna@example.org --quota 2G --generate`")
def add_account(
    name: Name,
    address: Address,
    person: Annotated[str, typer.Option("--name", help="The person's name.")] = "",
    quota: Annotated[str | None, typer.Option(help="The mailbox's size, such as 2G.")] = None,
    generate: Generate = False,
    check_breaches: Breaches = False,
) -> None:
    """Add an account. Asks for a password, or reads it from standard input; deploy to make it work."""
    directory, declared = _open(name)
    password = _new_password(declared, address, generate, check_breaches)
    edit_accounts.add(directory / hosts.SETTINGS, address, passwords.hash_password(password), person, quota)
    done = f"{address} is in mail.yml. `mailkeep deploy {name}` makes it work."
    _show_once(name, address, done, password if generate else "")


@account.command("passwd", epilog="Example: `mailkeep account passwd home anna@example.org`")
def change_password(name: Name, address: Address, generate: Generate = False, check_breaches: Breaches = False) -> None:
    """Give an account a new password; deploy to make it count."""
    directory, declared = _open(name)
    password = _new_password(declared, address, generate, check_breaches)
    edit_accounts.set_password(directory / hosts.SETTINGS, address, passwords.hash_password(password))
    done = f"{address} has a new password. `mailkeep deploy {name}` makes it count."
    _show_once(name, address, done, password if generate else "")


@account.command("remove", epilog="Example: `mailkeep account remove home anna@example.org`")
def remove_account(name: Name, address: Address) -> None:
    """Remove an account from mail.yml. Its mail stays on the server."""
    edit_accounts.remove(hosts.find(name) / hosts.SETTINGS, address)
    out.print(f"{address} is out of mail.yml. `mailkeep deploy {name}` ends its login; its mail stays.", markup=False)


@account.command("freeze", epilog="Example: `mailkeep account freeze home anna@example.org --why 'sends spam'`")
def freeze_account(
    name: Name,
    address: Address,
    why: Annotated[str, typer.Option(help="For whoever reads it later.")] = "frozen by hand",
) -> None:
    """At once, on the server: no mail, no login, sessions cut, queued mail held. Nobody else is affected."""
    from mailkeep.operate import account_freeze

    for host, said in account_freeze.freeze_account(hosts.find(name), address, why):
        out.print(f"{host}:\n{said}", markup=False)


@account.command("thaw", epilog="Example: `mailkeep account thaw home anna@example.org`")
def thaw_account(name: Name, address: Address) -> None:
    """On the server: it may send and log in again. Says what is still held. Give it a new password first."""
    from mailkeep.operate import account_freeze

    for host, said in account_freeze.thaw_account(hosts.find(name), address):
        out.print(f"{host}:\n{said}", markup=False)


def _new_password(declared: Settings, address: str, generate: bool, check_breaches: bool) -> str:
    """A password that passed the judge."""
    if generate:
        return passwords.generate()
    password = _ask(f"Password for {address}", confirm=True)
    passwords.judge(password, address=address, domains=(*declared.domains, declared.host.name))
    if check_breaches and (seen := passwords.breached(password)):
        raise UserError(f"The password was seen {seen} times in breaches; take another, or --generate one.")
    return password


def _show_once(name: str, address: str, done: str, passphrase: str) -> None:
    """What was done, and the `passphrase` if one was made: one that opens nothing would only confuse."""
    if not passphrase:
        out.print(done, markup=False)
        return
    with _seen(name, address):
        out.print(f"{done}\nIts passphrase, shown once and kept nowhere:\n  {passphrase}", markup=False)


@contextmanager
def _seen(name: str, address: str) -> Iterator[None]:
    """Around what shows an account's passphrase: one that nobody saw is told as that."""
    try:
        if sys.stdout is None:  # rich would print to nowhere
            raise BrokenPipeError
        yield
    except (OSError, SystemExit):  # which rich raises where nobody reads any more
        raise UserError(
            f"{address} has a passphrase that could not be shown: "
            f"`mailkeep account passwd {name} {address} --generate` makes another."
        ) from None


def _ask_lines(what: str) -> str:
    """What the user types until an empty line, unseen; or all of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.read()
    lines: list[str] = []
    while not lines or lines[-1]:
        lines.append(_ask(what, default=""))
    return "\n".join(lines)


def _ask(what: str, confirm: bool = False, default: str | None = None) -> str:
    """What the user types, unseen; or a line of standard input. Never an argument, which others on the machine see."""
    if sys.stdin.isatty():
        try:
            return str(typer.prompt(what, default, hide_input=True, confirmation_prompt=confirm, show_default=False))
        except typer.Abort:  # typer would exit with 1, as for an error
            raise typer.Exit(130) from None
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise UserError(f"{what}: standard input is empty; give it a line, or run this at a terminal.")
    return line
