"""`mailkeepctl bans`: who is banned, why and until when; and lifting a ban."""

import argparse
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mailkeep_server.common.fail2ban_socket import list_jails
from mailkeep_server.common.wording import count_noun, describe_error, printable_text
from mailkeep_server.operator import ban_list
from mailkeep_server.operator.ban_list import REASONS, Ban, SetElement
from mailkeep_server.operator.errors import CtlError

MAX_SHOWN = 40
ERRORS = (OSError, RuntimeError, ValueError, subprocess.TimeoutExpired)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="?", default="", help="an address or a network; default: all bans")
    parser.add_argument("--lift", action="store_true", help="lift the bans of this address")
    parser.add_argument("--jail", default="", help="only this jail; needed to lift a ban of a jail of your own")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run_bans(options: argparse.Namespace) -> None:
    try:
        address = ban_list.parse_address(options.address) if options.address else ""
    except ValueError:
        raise CtlError(
            f"{options.address!r} is no address and no network, such as 192.0.2.7 or 2001:db8::/64."
        ) from None
    if options.lift and not address:
        raise CtlError("Say which address: `mailkeepctl bans 192.0.2.7 --lift`.")
    bans = [ban for ban in _read_bans() if not options.jail or ban.jail == options.jail]
    if address:
        bans = [ban for ban in bans if ban_list.covers(ban.target, address)]
    if options.lift:
        lift_address(address, bans, options.jail, as_json=options.json)
        return
    elements, fault = _read_elements()
    if options.json:
        print(json.dumps([_to_json(ban, elements) for ban in bans], indent=2))
        return
    for line in describe_bans(bans, elements, address):
        print(line)
    if fault:
        raise CtlError(f"The firewall could not be asked: {fault}.")


def _read_bans() -> list[Ban]:
    try:
        return ban_list.read_bans()
    except ERRORS as error:
        raise CtlError(
            f"fail2ban does not answer ({describe_error(error)}): `systemctl status fail2ban` says why. "
            "While it is stopped, nobody is banned."
        ) from None


def _read_elements() -> tuple[list[SetElement], str]:
    try:
        return ban_list.read_elements(), ""
    except ERRORS as error:
        return [], describe_error(error)


def _to_json(ban: Ban, elements: list[SetElement]) -> dict[str, object]:
    in_firewall = bool(ban_list.find_ban_elements(elements, ban.target, [ban.jail]))
    return asdict(ban) | {"reason": ban.reason, "is_ours": ban.is_ours, "in_firewall": in_firewall}


def describe_bans(bans: list[Ban], elements: list[SetElement], address: str) -> Iterator[str]:
    """Those that end last come last: a ban of weeks is at the end, where the eye is."""
    if len(bans) > MAX_SHOWN:
        yield f"{len(bans) - MAX_SHOWN} more end earlier; --json has all."
    for ban in bans[-MAX_SHOWN:]:
        until = "for ever" if ban.until is None else f"until {_format_time(ban.until)}"
        yield printable_text(
            f"{ban.target:24} {until:24} {ban.jail}: {ban.reason}, since {_format_time(ban.since)}"
            + _describe_firewall(ban, elements)
        )
    if address:
        yield from _describe_blocks(elements, address)
        yield from _describe_leftovers(bans, elements, address)
    subject = f"{count_noun(len(bans), 'ban')} of {address}" if address else count_noun(len(bans), "ban")
    yield f"{subject}. `mailkeepctl bans ADDRESS --lift` lifts those of an address."


def _describe_firewall(ban: Ban, elements: list[SetElement]) -> str:
    """Only of jails whose sets are known: an operator's own may use another firewall."""
    if not ban.is_ours or not elements or ban_list.find_ban_elements(elements, ban.target, [ban.jail]):
        return ""
    return "; NOT in the firewall: `systemctl restart fail2ban` puts it there"


def _describe_blocks(elements: list[SetElement], address: str) -> Iterator[str]:
    for element in ban_list.find_blocks(elements, address):
        yield f"{element.text:24} for ever                 firewall.block in mail.yml: change it there, and deploy"


def _describe_leftovers(bans: list[Ban], elements: list[SetElement], address: str) -> Iterator[str]:
    if not bans:
        for element in ban_list.find_ban_elements(elements, address, REASONS):
            yield f"{element.text:24} is still in the firewall's {element.set_name}, and fail2ban knows nothing of it"


@dataclass(frozen=True)
class LiftReport:
    """`others` are bans by jails that Mailkeep has not made. `leftovers` were in the firewall alone; `blocks` are
    entries of `firewall.block` in mail.yml. `remaining` were lifted, and came again at once."""

    lifted: list[Ban]
    others: list[Ban]
    leftovers: list[str]
    blocks: list[str]
    remaining: list[Ban]


def lift_address(address: str, bans: list[Ban], jail: str, *, as_json: bool) -> None:
    """Bans by jails that Mailkeep has not made are lifted only if their jail is named. Raises CtlError if the address
    is banned afterwards all the same."""
    try:
        if jail and jail not in list_jails():
            raise CtlError(f"fail2ban has no jail {jail}. It has: {', '.join(list_jails())}.")
        report = _lift(address, bans, jail)
    except ERRORS as error:
        raise CtlError(f"Not all bans of {address} were lifted: {describe_error(error)}.") from None
    print(json.dumps(asdict(report), indent=2) if as_json else "\n".join(_describe_lift(report, address)))
    if report.remaining:
        bans_left = ", ".join(f"{ban.target} by {ban.jail}" for ban in report.remaining)
        raise CtlError(f"Banned again meanwhile: {bans_left}.")


def _lift(address: str, bans: list[Ban], jail: str) -> LiftReport:
    lifted = [ban for ban in bans if ban.is_ours or ban.jail == jail]
    leftovers = ban_list.lift_bans(lifted, address, [jail] if jail else [*REASONS])
    targets = {(ban.jail, ban.target) for ban in lifted}
    return LiftReport(
        lifted=lifted,
        others=[ban for ban in bans if ban not in lifted],
        leftovers=leftovers,
        blocks=[element.text for element in ban_list.find_blocks(ban_list.read_elements(), address)],
        remaining=[ban for ban in ban_list.read_bans() if (ban.jail, ban.target) in targets],
    )


def _describe_lift(report: LiftReport, address: str) -> Iterator[str]:
    for ban in report.lifted:
        yield f"Lifted: {ban.target}, banned by {ban.jail}."
    for text in report.leftovers:
        yield f"Lifted: {text} of the firewall, which fail2ban had forgotten."
    if not report.lifted and not report.leftovers:
        yield f"No ban of Mailkeep's closes the server to {address}."
    for ban in report.others:
        yield f"Not lifted: {ban.target}, banned by your own jail {ban.jail}. `--jail {ban.jail}` lifts it."
    for text in report.blocks:
        yield f"Not lifted: {text} is in firewall.block of mail.yml. Change it there, and deploy."


def _format_time(seconds: float) -> str:
    day = datetime.fromtimestamp(seconds, UTC)
    return f"{day:%H:%M} UTC" if abs(seconds - time.time()) < 43_200 else f"{day:%Y-%m-%d %H:%M} UTC"
