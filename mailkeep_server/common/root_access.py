"""Who and what can become root on this machine, and what was added to the configuration of its services, beside what
packages installed. Each finding has a stable name, by which mail.yml can accept it.

A deploy records what is there (`record`); `mailkeep verify` compares. Whoever is root already can change the record,
too: it shows a door that was left open, not an intruder who hides.
"""

import base64
import grp
import hashlib
import json
import pwd
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mailkeep_server.common.files import atomic_write
from mailkeep_server.common.paths import KNOWN_ACCESS

COMMAND_TIMEOUT = 20.0  # seconds
FIND_TIMEOUT = 10  # seconds; on a large disk, the programs found until then, and INCOMPLETE
RECORD_FIND_TIMEOUT = 60  # seconds; only the first deploy records
TIMED_OUT = 124  # timeout(1), EXIT STATUS
INCOMPLETE = "incomplete:setuid"
"""A finding, in the record, too: the search for setuid programs was cut off."""
MAX_TEXT = 160  # characters of a finding's text
ROOT_GROUPS = ("sudo", "wheel", "admin", "docker", "lxd", "incus-admin", "libvirt", "disk", "shadow")
"""Groups whose members can become root: by sudo(8), or by what the group may write or start."""
SYSTEMD_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system")
JOBS = (
    *("/etc/crontab", "/etc/anacrontab", "/etc/rc.local", "/etc/ld.so.preload"),
    *(f"/etc/cron.{name}/*" for name in ("d", "hourly", "daily", "weekly", "monthly", "yearly")),
    *("/var/spool/cron/crontabs/*", "/var/spool/cron/atjobs/*", "/etc/logrotate.d/*", "/etc/apt/apt.conf.d/*"),
    *("/etc/udev/rules.d/*", "/etc/systemd/system-generators/*", "/etc/update-motd.d/*", "/etc/dhcp/dhclient-*.d/*"),
    *("/etc/network/if-*.d/*", "/etc/NetworkManager/dispatcher.d/*", "/etc/networkd-dispatcher/*.d/*"),
)
"""Files by which something runs as root, or as another user, without anybody logging in."""
SUDO = ("/etc/sudoers", "/etc/sudoers.d/*")
PAM = ("/etc/pam.d/*",)
SHOWN_KINDS = ("sudo", "setuid")
"""Of these, the text has no secret, although others than root may be kept from reading the file."""
HIDDEN_TEXT = "its content is not shown: not everybody may read it"
SETTINGS = (
    *("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*", "/etc/unbound/unbound.conf.d/*", "/etc/sysctl.d/*"),
    *(f"/etc/fail2ban/{name}.d/*" for name in ("fail2ban", "jail", "filter", "action")),
    *("/etc/fail2ban/*.local", "/etc/systemd/journald.conf.d/*", "/etc/needrestart/conf.d/*"),
)
"""Configuration that services read beside what Mailkeep writes."""
PROGRAM_DIRECTORIES = ("/usr", "/opt", "/etc", "/root", "/home", "/tmp", "/var/tmp", "/var/lib", "/srv", "/dev/shm")  # noqa: S108
CONTAINER_DIRECTORIES = tuple(
    f"/var/lib/{name}" for name in ("containerd", "containers", "docker", "incus", "lxc", "lxd", "rancher")
)
"""The files in them run in containers, and may be millions."""
DEFAULT_KEY_FILES = {".ssh/authorized_keys", ".ssh/authorized_keys2"}  # sshd_config(5), AuthorizedKeysFile
KEY = re.compile(r"(?:^|\s)((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w@.-]+) (AAAA[\w+/]+=*)(?:\s+(.*))?$")


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is `KIND:WHAT`, for a file with `@` and the begin of its digest. `path` is empty unless it is a file."""

    name: str
    text: str
    path: str = ""


def main(arguments: list[str]) -> int:
    """`record` writes the names of all findings, unless they were recorded before; without arguments they are
    printed."""
    if arguments == ["record"]:
        record = Path(KNOWN_ACCESS)
        if not record.exists():
            names = sorted(finding.name for finding in find_root_access(RECORD_FIND_TIMEOUT))
            atomic_write(record, json.dumps(names, indent=1) + "\n", 0o600)
        return 0
    for finding in find_root_access():
        print(f"{finding.name}  {finding.text}")
    return 0


def compare_with_record() -> dict[str, object]:
    """Whether there is a record, and all findings that it lacks; also that it is incomplete itself."""
    try:
        known = set(json.loads(Path(KNOWN_ACCESS).read_text()))
    except FileNotFoundError:
        return {"recorded": False, "findings": []}
    findings = [finding for finding in find_root_access() if finding.name not in known]
    if INCOMPLETE in known:
        text = "the record of the first deploy lacks some setuid programs: one that is named here may be old"
        findings.append(Finding(INCOMPLETE, text))
    return {"recorded": True, "findings": [asdict(finding) for finding in findings]}


def find_root_access(find_timeout: float = FIND_TIMEOUT) -> list[Finding]:
    """All that is here beside what packages installed, without duplicates, by name."""
    files = [*_list_files("job", JOBS), *_list_files("sudo", SUDO), *_list_files("pam", PAM)]
    files += [*_list_files("setting", SETTINGS), *_list_unit_files(), *_list_setuid_programs(find_timeout)]
    findings = [*_list_accounts(), *_list_members(), *_list_ssh_access(), *_leave_out_packaged(files)]
    return sorted({finding.name: finding for finding in findings}.values(), key=lambda finding: finding.name)


def _list_accounts() -> Iterator[Finding]:
    for entry in pwd.getpwall():
        if entry.pw_uid == 0 and entry.pw_name != "root":
            yield Finding(f"uid0:{entry.pw_name}", "a second account with the rights of root")


def _list_members() -> Iterator[Finding]:
    for group, user in _root_members():
        yield Finding(f"group:{group}:{user}", f"a member of {group} can become root")


def _root_members() -> Iterator[tuple[str, str]]:
    users = pwd.getpwall()
    for entry in grp.getgrall():
        if entry.gr_name in ROOT_GROUPS:
            members = {*entry.gr_mem, *(user.pw_name for user in users if user.pw_gid == entry.gr_gid)}
            yield from ((entry.gr_name, user) for user in sorted(members - {"root"}))


# --- SSH --------------------------------------------------------------------------------------------------------------


def _list_ssh_access() -> Iterator[Finding]:
    """The keys of everybody who can become root, in whichever files sshd looks for that user's keys."""
    roots = [entry for entry in pwd.getpwall() if entry.pw_uid == 0]
    members = {user for _, user in _root_members()}
    for entry in (*roots, *(entry for entry in pwd.getpwall() if entry.pw_name in members and entry.pw_uid)):
        options = read_sshd_options(f"user={entry.pw_name},host=localhost,addr=127.0.0.1")
        files = options.get("authorizedkeysfile", "").split()
        if not {*files} <= DEFAULT_KEY_FILES:
            yield Finding(f"sshd:authorizedkeysfile:{' '.join(files)}", f"where sshd looks for {entry.pw_name}'s keys")
        for option in ("authorizedkeyscommand", "trustedusercakeys"):
            if (value := options.get(option, "none")) != "none":
                yield Finding(f"sshd:{option}:{value}", f"says which keys log in as {entry.pw_name}")
        for file in files:
            yield from _list_keys(entry, file)


def read_sshd_options(connection: str) -> dict[str, str]:
    """What sshd would apply to a connection (sshd(8), -C), by option in lower case; empty without sshd."""
    try:
        output = _run("sshd", "-T", "-C", connection)
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in output.splitlines() if " " in line)


def _list_keys(entry: pwd.struct_passwd, file: str) -> Iterator[Finding]:
    tokens = {"%%": "%", "%h": entry.pw_dir, "%u": entry.pw_name, "%U": str(entry.pw_uid)}
    path = Path(entry.pw_dir) / re.sub(r"%[%huU]", lambda match: tokens[match[0]], file)
    for line in _read_text(path).splitlines():
        match = KEY.search(line.strip())
        if match and not line.lstrip().startswith("#"):
            digest = base64.b64encode(hashlib.sha256(_decode_key(match[2])).digest()).decode().rstrip("=")
            kind = "ca-key" if "cert-authority" in line else "key"
            yield Finding(
                f"{kind}:{entry.pw_name}:SHA256:{digest}", _shorten(f"{match[1]} {match[3] or ''}, in {path}")
            )


def _decode_key(text: str) -> bytes:
    """A key that was cut off when it was copied is no base64: then its text stands for it."""
    try:
        return base64.b64decode(text + "==")
    except ValueError:
        return text.encode()


# --- files ------------------------------------------------------------------------------------------------------------


def _list_files(kind: str, patterns: Iterable[str]) -> Iterator[Finding]:
    for pattern in patterns:
        for path in sorted(Path("/").glob(pattern.removeprefix("/"))):
            # cron, sudo and their kind skip names with a dot at the begin, and directories.
            if path.is_file() and not path.name.startswith(".") and path.name != "README":
                yield _describe_file(kind, path)


def _list_unit_files() -> Iterator[Finding]:
    """Units that run as root, and drop-ins of all units. A link to a packaged unit only enables it."""
    for directory in map(Path, SYSTEMD_DIRECTORIES):
        for path in sorted(directory.glob("*.service")):
            text = _read_text(path)
            is_link = path.is_symlink() and str(path.resolve()).startswith(("/usr/lib/", "/lib/", "/dev/null"))
            if not is_link and not re.search(r"^User=(?!root$|0$)", text, re.MULTILINE):
                yield _describe_file("unit", path, " ".join(re.findall(r"^Exec\w+=.*", text, re.MULTILINE)))
        yield from (_describe_file("drop-in", path) for path in sorted(directory.glob("*.d/*.conf")) if path.is_file())


def _list_setuid_programs(find_timeout: float) -> Iterator[Finding]:
    directories = [directory for directory in PROGRAM_DIRECTORIES if Path(directory).is_dir()]
    pruned = [test for path in CONTAINER_DIRECTORIES for test in ("-path", path, "-prune", "-o")]
    tests = (*pruned, "-type", "f", "-perm", "-4000", "-user", "0", "-print")
    done = _run_any(
        "timeout", str(find_timeout), "find", *directories, "-xdev", *tests, timeout=find_timeout + COMMAND_TIMEOUT
    )
    if done.returncode == TIMED_OUT:
        yield Finding(INCOMPLETE, f"the search for setuid programs did not end within {find_timeout} seconds")
    yield from (_describe_file("setuid", Path(line), "runs as root") for line in done.stdout.splitlines())


def _describe_file(kind: str, path: Path, text: str = "") -> Finding:
    """Crontabs, settings of APT and fail2ban's actions may have passwords, and `verify` prints to a terminal."""
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError:
        content, mode = b"", stat.S_IROTH
    digest = hashlib.sha256(content).hexdigest()[:8]
    lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
    meaningful = [line for line in lines if line and not line.startswith("#")]
    text = _shorten(text or "; ".join(meaningful[:3]))
    is_shown = mode & stat.S_IROTH or kind in SHOWN_KINDS
    return Finding(f"{kind}:{path}@{digest}", text if is_shown else HIDDEN_TEXT, str(path))


def _leave_out_packaged(findings: list[Finding]) -> list[Finding]:
    """Without the files of packages that are as the package installed them."""
    paths = sorted({finding.path for finding in findings if finding.path})
    lines = _run("dpkg-query", "--search", *paths).splitlines() if paths else []
    packaged = {line.rpartition(": ")[2] for line in lines if not line.startswith("diversion ")}
    configuration = dict(re.findall(r"^ (/\S+) ([0-9a-f]{32})", _run("dpkg-query", "-W", "-f=${Conffiles}\n"), re.M))
    return [finding for finding in findings if not _is_as_packaged(finding.path, packaged, configuration)]


def _is_as_packaged(path: str, packaged: set[str], configuration: dict[str, str]) -> bool:
    if path not in packaged:
        return False
    digest = configuration.get(path)
    return digest is None or digest == hashlib.md5(Path(path).read_bytes(), usedforsecurity=False).hexdigest()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace") if stat.S_ISREG(path.stat().st_mode) else ""
    except OSError:
        return ""


def _shorten(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT]


def _run(*command: str) -> str:
    """Standard output, whatever the exit code: dpkg-query and find use theirs to say that something was not found."""
    return _run_any(*command, timeout=COMMAND_TIMEOUT).stdout


def _run_any(*command: str, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout)
