"""`mailkeep un-adopt`: from a Mailkeep server back to what the machine had before the first deploy.

That deploy has saved it on the host (`mailkeep.host.adoption`). The program for the host looks first, and changes
nothing until the operator agrees.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from mailkeep.errors import UserError
from mailkeep.host import adoption
from mailkeep.host.remote import RemoteHost, UnreachableError, last_line
from mailkeep.host.snapshot import RUN
from mailkeep.host.ssh_connection import DEPLOY_TIMEOUT
from mailkeep.parts import server_package
from mailkeep.parts.model import Part
from mailkeep_server.common.paths import ADOPTED, ETC, GONE_BACK, KNOWN_ACCESS
from mailkeep_server.common.wording import count_noun

PROGRAM = Path(__file__).with_name("go_back.sh")
_STAYS = ("ssh.", "systemd-", "apt-", "logrotate.")
"""Units that also a machine without Mailkeep needs: never stopped."""


@dataclass(frozen=True, slots=True)
class WayBack:
    """`saved` is the directory on the host; empty: there is none, for the reason in `obstacle`, or it is `done`
    already.

    `restored` and `removed` count files, `queue` and `mail` messages. `packages` are installed again, `lost` cannot be
    brought back. `starts` are the units that run again, or would. `others` are packages that came with Mailkeep,
    `versions` those that are of another version now. `failed` has what another run may bring back.
    """

    saved: str = ""
    obstacle: str = ""
    done: bool = False
    restored: int = 0
    removed: int = 0
    queue: int = 0
    mail: int = 0
    packages: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnAdoption:
    """The way back of one host."""

    remote: RemoteHost
    parts: tuple[Part, ...] = field(repr=False)

    def look(self) -> WayBack:
        """What it would do; nothing is changed. UserError if there is no way back."""
        return self._run("look")

    def go(self) -> WayBack:
        """UserError if the program could not begin or ended early; then another run goes on."""
        return self._run("go")

    def _run(self, mode: str) -> WayBack:
        try:
            # By standard input: the list of paths may be longer than an argument can be.
            program = build_program(self.parts, mode).encode()
            done = self.remote.connect().run("sh -s", stdin=program, timeout=DEPLOY_TIMEOUT)
        except UnreachableError as error:
            raise UserError(f"{self.remote.name}: {error}. {error.remedy}") from None
        way = parse_answer(done.stdout.splitlines())
        if done.rc:
            again = "" if mode == "look" else " Run this again once that is mended: it goes on."
            raise UserError(f"{self.remote.name}: {last_line(done, 'sh').rstrip('.')}.{again}")
        if way.obstacle:
            raise UserError(f"{self.remote.name}: {way.obstacle}")
        return way


def build_program(parts: Iterable[Part], mode: str) -> str:
    """The shell program for the host. `mode`: `look` changes nothing, `go` goes back."""
    parts = tuple(parts)
    units = {unit.name: unit for part in parts for unit in part.units}
    words: Mapping[str, Iterable[str]] = {
        "paths": sorted({path for part in parts for path in (*(file.path for file in part.files), *part.absent)}),
        "trees": adoption.TREES,
        "directories": sorted({directory.path for part in parts for directory in part.directories}),
        "trees_of_ours": (ETC, server_package.DIRECTORY),
        "units": units,
        "stop": [name for name, unit in units.items() if unit.running and not name.startswith(_STAYS)],
        "packages": sorted({package for part in parts for package in part.packages}),
    }
    variables = {
        "mode": mode,
        "adopted": ADOPTED,
        "gone_back": GONE_BACK,
        "known_access": KNOWN_ACCESS,
        "run": RUN,
        "packages_list": adoption.REMOVED_PACKAGES,
        **{name: " ".join(names) for name, names in words.items()},
    }
    header = "\n".join(f"{name}={quote(value)}" for name, value in variables.items())
    # A function: the shell has read it to its end before a command can take the rest from standard input.
    return f"{header}\ngo_back() {{\n{PROGRAM.read_text()}\n}}\ngo_back < /dev/null\n"


def parse_answer(lines: Iterable[str]) -> WayBack:
    """The program's lines `KEY VALUE`."""
    values: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        values.setdefault(key, []).append(value.strip())

    def split(key: str) -> tuple[str, ...]:
        return tuple(word for value in values.get(key, ()) for word in value.split())

    restored, removed = map(int, (*split("files"), "0", "0")[:2])
    return WayBack(
        saved=values.get("saved", [""])[0],
        obstacle=_describe_obstacle(values["nothing"][0]) if "nothing" in values else "",
        done="done" in values,
        restored=restored,
        removed=removed,
        queue=int(values.get("queue", ["0"])[0]),
        mail=int(values.get("mail", ["0"])[0]),
        packages=split("packages"),
        starts=(*split("starts"), *split("started")),
        lost=tuple(values.get("lost", ())),
        versions=tuple(values.get("version", ())),
        others=split("others"),
        failed=split("failed"),
    )


def _describe_obstacle(value: str) -> str:
    if value == "saved":
        return (
            "there is no way back: a version of Mailkeep built this server that did not save what it replaced, or "
            f"none has. Look below {adoption.BACKUPS} on the host."
        )
    return f"there is no way back: {value}, in which the first deploy saved what it replaced, is gone."


def describe_before(name: str, way: WayBack) -> Iterator[str]:
    """What will happen, before the operator agrees."""
    yield f"{name}: back to what it was before Mailkeep, from {way.saved} on the host:"
    yield "  Mailkeep's services end, and no mail is served by it from then on"
    yield f"  files: {way.restored} put back, {way.removed} of Mailkeep's removed"
    if way.packages:
        yield f"  packages that come back: {', '.join(way.packages)}"
    if way.starts:
        yield f"  services that run again: {', '.join(way.starts)}"
    yield from (f"  cannot come back: {_describe_lost(lost)}" for lost in way.lost)
    yield f"  stays: mail in /var/vmail ({count_noun(way.mail, 'message')}), which the former server does not read"
    if way.queue:
        yield (
            f"  stays: {count_noun(way.queue, 'message')} in Postfix's queue. `postqueue -f` sends them, if Postfix "
            "runs again; else wait until they have left"
        )


def describe_after(name: str, way: WayBack) -> Iterator[str]:
    """What came back, and what did not."""
    if way.done:
        yield f"{name}: it has gone back already; nothing to do."
        return
    files = count_noun(way.restored, "file")
    yield f"{name}: {files} put back. Services that run again: {', '.join(way.starts) or 'none'}."
    yield from (f"  did not come back: {_describe_lost(lost)}" for lost in way.lost)
    for line in way.versions:
        package, before, now = (*line.split(), "", "")[:3]
        yield f"  {package} was of version {before}, and is of {now} now"
    if way.failed:
        yield f"  failed: {', '.join(way.failed)}. See `journalctl -b` on the host, then run this again."
    if way.others:
        yield f"  came with Mailkeep, and may be removed: apt-get remove {' '.join(way.others)}"
    yield f"  stays: mail in /var/vmail ({count_noun(way.mail, 'message')}), state in /var/lib/mailkeep*, system users"
    yield f"  stays: {way.saved}, with a copy of /etc/mailkeep. Kernel settings of Mailkeep hold until a reboot"


def _describe_lost(line: str) -> str:
    kind, _, value = line.partition(" ")
    if kind == "package":
        return f"the package {value}: APT has it no more"
    return f"the firewall's {line}: restart the program that made it"
