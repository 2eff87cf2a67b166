"""`mailkeep plan`, `deploy`, `verify`, `render`: from an inventory to a server that withstands attacks."""

import os
import subprocess
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailkeep.cli.common import AsJson, Home, InventoryName, Resolver, open_inventory, out, print_notes
from mailkeep.errors import UserError
from mailkeep.inventory import hosts

if TYPE_CHECKING:
    from mailkeep.host.deployment import Options

commands = typer.Typer()

Adopt = Annotated[
    bool, typer.Option("--adopt", help="Take over a host with a mail server that Mailkeep did not set up.")
]
Full = Annotated[
    bool,
    typer.Option("--full", help="Print everything of each host. Default for a single host; of several, a line each."),
]


@commands.command("plan", epilog="Example: `mailkeep plan home`")
def plan_deploy(
    name: InventoryName, as_json: AsJson = False, adopt: Adopt = False, full: Full = False, home: Home = None
) -> None:
    """Show what a deploy would change, with diffs. Changes nothing.

    Exit code 0: no changes; 2: changes; 1: an error."""
    from mailkeep.host import plan as host_plan
    from mailkeep.inventory import secrets

    directory, settings = open_inventory(name, home)
    secrets.load_secrets(settings, directory)
    refuse_nameless_user()
    raise typer.Exit(host_plan.print_plan(directory, json=as_json, adopt=adopt, full=full))


@commands.command(
    "deploy",
    epilog="Example: `mailkeep deploy home`. In a clone of Mailkeep, pyinfra does the same: "
    "`pyinfra inventories/home/inventory.py deploy.py`.",
)
def deploy_inventory(
    name: InventoryName,
    as_json: AsJson = False,
    adopt: Adopt = False,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Skip the verification and the DNS check after the deploy.")
    ] = False,
    resolver: Resolver = "",
    full: Full = False,
    allow_older: Annotated[
        bool,
        typer.Option("--allow-older", help="Deploy this inventory although it undoes what a newer one has deployed."),
    ] = False,
    home: Home = None,
) -> None:
    """Make the host what mail.yml says, verify it, and check its DNS records. Safe to repeat."""
    from mailkeep.dns import report as dns_report
    from mailkeep.host.deployment import Options
    from mailkeep.inventory import secrets

    directory, settings = open_inventory(name, home)
    keys = secrets.load_secrets(settings, directory)
    print_notes(directory, settings)
    if resolver:
        from mailkeep.dns import client

        client.make_resolver(resolver)  # UserError for an invalid one, before anything is changed
    host_names = hosts.read_hosts(directory)  # UserError for an invalid inventory.py, before anything connects
    refuse_nameless_user()
    verify = not no_verify and not as_json
    options = Options(adopt=adopt, allow_older=allow_older)
    if len(host_names) > 1 and not full:
        from mailkeep.verify import rollout

        if not rollout.deploy_and_report(directory, options=options, verify=verify, as_json=as_json):
            raise typer.Exit(1)
    else:
        run_pyinfra(directory, options, as_json=as_json)
        if verify:
            verify_servers(name, full=full, home=home)
    if verify:
        dns_report.print_reminder(settings, keys, resolver, f"mailkeep dns {hosts.inventory_label(directory)} --check")


def run_pyinfra(directory: Path, options: "Options", *, as_json: bool) -> None:
    """Deploy by pyinfra's program, with all its output. Exits with its code when it fails."""
    from mailkeep.host import plan as host_plan

    data = [word for name in options.as_data() for word in ("--data", f"{name}=true")]
    words = [*(["--json"] if as_json else []), *data]
    stdout = subprocess.PIPE if as_json else None
    process = subprocess.run(hosts.pyinfra_command(directory, *words), check=False, text=True, stdout=stdout)
    print(process.stdout or "", end="")
    if process.returncode:
        host_plan.explain_failure(directory, json=as_json and not process.stdout)
        raise typer.Exit(process.returncode)


def refuse_nameless_user() -> None:
    """UserError for a user without a name: ssh refuses to run, and pyinfra would end in a traceback."""
    try:
        getuser()
    except (KeyError, OSError):
        raise UserError(
            f"The user with id {os.getuid()} has no name on this machine, and SSH needs one. "
            "Set USER, or run this as another user."
        ) from None


@commands.command("verify", epilog="Example: `mailkeep verify home`")
def verify_servers(name: InventoryName, as_json: AsJson = False, full: Full = False, home: Home = None) -> None:
    """Attack the running server, and report what it withstood. Exit code 1: a check failed."""
    from mailkeep.verify.verification import verify_and_report

    directory, _ = open_inventory(name, home)
    if not verify_and_report(directory, as_json=as_json, full=full):
        raise typer.Exit(1)


@commands.command("render", epilog="Example: `mailkeep render home /tmp/mail.example.org`")
def render_files(
    name: InventoryName,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    home: Home = None,
) -> None:
    """Write every file of a host below DIR, to read or compare. Private keys are among them: keep DIR private."""
    from mailkeep.host import render as host_render

    directory, _ = open_inventory(name, home)
    files = host_render.render_host_files(directory, target)
    out.print(f"Wrote {len(files)} files below {target}/.", markup=False)
