"""`move COMMAND …`: the steps of a move, which `mailkeep move` runs over SSH on both machines.

Exit codes: 0 done; 1 a fault, which the last line of standard error names; 2 the step is not known.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from mailkeep_server.common import mailboxes
from mailkeep_server.common.commands import run
from mailkeep_server.common.wording import describe_error
from mailkeep_server.moving_house import new_machine, old_machine
from mailkeep_server.moving_house.record import MoveError, read_record


def main(arguments: list[str]) -> int:
    options = _build_parser().parse_args(arguments)
    try:
        output = COMMANDS[options.command](options)
    except (MoveError, OSError, RuntimeError, ValueError, LookupError) as error:
        print(describe_error(error), file=sys.stderr)
        return 1
    if output is not None:
        print(output)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="move")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="print, as JSON, how far this machine is")
    commands.add_parser("size", help="print the bytes of this machine's mail")
    stop = commands.add_parser("stop", help="stop the services of the old machine; print the stop's token")
    stop.add_argument("--resume-after", type=float, required=True, metavar="SECONDS")
    commands.add_parser("resume", help="start the services of the old machine again")
    send = commands.add_parser("send-mail", help="be the sending end of rsync")
    send.add_argument("options", nargs="*")
    receive = commands.add_parser("receive-mail", help="be the receiving end of rsync")
    receive.add_argument("--compare", action="store_true", help="change nothing; find what differs")
    commands.add_parser("result", help="print, as JSON, what the last receive-mail has come to")
    commands.add_parser("receive-files", help="take state and queue from standard input")
    room = commands.add_parser("check-room", help="is there room for the mail?")
    room.add_argument("bytes", type=int)
    commands.add_parser("check-mailboxes", help="is mail of the old machine here already?")
    commands.add_parser("open", help="let new connections in again")
    for name, text in (
        ("ready", "what is staged is all of this stop"),
        ("leave", "hand over: the old machine never starts its services by itself again"),
        ("place", "put all in place, and start the services of the new machine"),
    ):
        commands.add_parser(name, help=text).add_argument("token")
    for name in ("send-files", "place"):
        command = commands.choices.get(name) or commands.add_parser(name, help="write state and queue, as tar")
        command.add_argument("--kept", nargs="*", default=[], metavar="PATH", help="state that services make")
    return parser


def _read_mail_size() -> int:
    # It fails for a file that Dovecot has just removed, and counts all others.
    return int(run("du", "-sB1", mailboxes.ROOT, check=False, timeout=3600).split()[0])


COMMANDS: dict[str, Callable[[argparse.Namespace], object]] = {
    "status": lambda _: json.dumps(asdict(read_record())),
    "size": lambda _: _read_mail_size(),
    "stop": lambda options: old_machine.stop(options.resume_after),
    "resume": lambda _: old_machine.resume(),
    "leave": lambda options: old_machine.leave(options.token),
    "open": lambda _: old_machine.open_door(),
    "send-mail": lambda options: old_machine.send_mail(options.options),
    "send-files": lambda options: old_machine.send_files(options.kept),
    "receive-mail": lambda options: new_machine.receive_mail(compare=options.compare),
    "result": lambda _: new_machine.RESULT.read_text(),
    "receive-files": lambda _: new_machine.receive_files(),
    "check-room": lambda options: new_machine.check_room(options.bytes),
    "check-mailboxes": lambda _: new_machine.refuse_used_mailboxes(),
    "ready": lambda options: new_machine.confirm_ready(options.token),
    "place": lambda options: new_machine.place(options.token, options.kept),
}
"""What they return is printed."""
