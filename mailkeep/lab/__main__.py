"""`python -m mailkeep.lab`: start and remove a lab by hand. MAILKEEP_LAB is its name (default: mailkeep)."""

from __future__ import annotations

import sys

import typer

from mailkeep.errors import UserError
from mailkeep.lab.addresses import DEMO_NETWORK
from mailkeep.lab.images import base_image, internet_image
from mailkeep.lab.lab import STATE, Lab

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command("up")
def start_lab(name: str = "mail", hostname: str = "mail.example.test") -> None:
    """Boot a server and the outside world, unless they run; print how to reach them."""
    lab = Lab(network=DEMO_NETWORK)
    internet = lab.boot_internet(fresh=False)
    server = lab.boot_server(name, hostname=hostname, fresh=False)
    internet.resolve_for(server)
    print_status()


@app.command("down")
def remove_lab() -> None:
    """Remove the lab: its containers, network, baked images and keys."""
    Lab().destroy()


@app.command("image")
def build_images() -> None:
    """Build the images that labs boot from, unless they exist."""
    typer.echo(base_image(STATE))
    typer.echo(internet_image(STATE))


@app.command("status")
def print_status() -> None:
    """List the lab's machines and how to reach them."""
    for machine in Lab().list_machines():
        typer.echo(f"{machine.name:10} {machine.ip!s:15} ssh -F {machine.ssh_config} {machine.name}")


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        typer.echo(error, err=True)
        sys.exit(1)
