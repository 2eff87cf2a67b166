"""The rows of reports that the servers of an inventory have read, by their `mailkeepctl`."""

import json
from pathlib import Path
from shlex import join
from typing import Any

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost, for_each_host, last_line
from mailkeep.settings.models import Settings


def require_reports(settings: Settings) -> None:
    """UserError if reports arrive at another server."""
    if not settings.reads_reports:
        raise UserError(
            f"Reports about your mail go to {settings.report_address}, which is at another server: nothing here reads "
            "them. Remove dns.reports from mail.yml, or name an address of yours; then publish what `mailkeep dns` "
            "prints."
        )


def read_summaries(inventory: Path, days: int, domain: str = "") -> list[dict[str, Any]]:
    """One of each server, as `mailkeep_server.reports.summary` has it. Raises UserError after the last server if one
    did not answer."""

    def ask_host(host: RemoteHost) -> dict[str, Any]:
        arguments = ["mailkeepctl", "reports", "--json", f"--days={days}"]
        done = host.run_mailkeep(join([*arguments, f"--domain={domain}"] if domain else arguments))
        if done.rc == 2:  # of argparse: an unknown command
            raise UserError(f"its Mailkeep reads no reports yet: `mailkeep deploy {host.inventory_label}` upgrades it")
        if done.rc:
            raise UserError(last_line(done, "mailkeepctl"))
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary

    return list(for_each_host(inventory, ask_host))
