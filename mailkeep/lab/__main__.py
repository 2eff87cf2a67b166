"""`python -m mailkeep.lab`: a lab by hand. MAILKEEP_LAB names it (default: mailkeep)."""

from __future__ import annotations

import sys

import typer

from mailkeep.errors import UserError
from mailkeep.lab import DEMO_NETWORK, STATE, Lab, images

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command()
def up(name: str = "mail", hostname: str = "mail.example.test") -> None:
    """Boot a server and the outside world, or find them running; print how to reach them."""
    lab = Lab(network=DEMO_NETWORK)
    internet = lab.internet(fresh=False)
    server = lab.server(name, hostname=hostname, fresh=False)
    internet.resolve_for(server)
    status()


@app.command()
def down() -> None:
    """Remove the lab: its containers, network, baked images and keys."""
    Lab().destroy()


@app.command()
def image() -> None:
    """Make the images that labs boot from, unless they are there."""
    typer.echo(images.base(STATE))
    typer.echo(images.internet(STATE))


@app.command()
def status() -> None:
    """List the lab's machines and how to reach them."""
    for machine in Lab().machines():
        typer.echo(f"{machine.name:10} {machine.ip!s:15} ssh -F {machine.ssh_config} {machine.name}")


if __name__ == "__main__":
    try:
        app()
    except UserError as error:
        typer.echo(error, err=True)
        sys.exit(1)
