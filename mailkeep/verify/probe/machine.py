"""What runs on the machine, what listens, what the firewall lets in, what fills up."""

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from .config import ProbeConfig
from .linux_account import run

PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,ConditionResult,ConditionTimestampMonotonic,Result"
JOURNAL_SIZE = "ec387f577b844b8fa948f33cad9a75e6"  # systemd's SD_MESSAGE_JOURNAL_USAGE
DIRECTORIES = ("/", "/var", "/var/log", "/var/spool/postfix", "/var/vmail")


def units(given: ProbeConfig) -> dict[str, Any]:
    """`systemctl show` of each unit, and the names of all that have failed."""
    shown = run("systemctl", "show", f"--property={PROPERTIES}", *given.units)
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    failed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    return {"shown": blocks, "failed": [line.split()[0] for line in failed.splitlines()]}


def replaced() -> list[list[str]]:
    """(unit, file) of what services still run although it was replaced on the disk, by an upgrade mostly."""
    found = {
        (unit, path)
        for process in Path("/proc").glob("[0-9]*")
        for unit in [_unit(process)]
        if unit
        for path in _gone(process)
    }
    return sorted(map(list, found))


def _unit(process: Path) -> str | None:
    """The system service that it belongs to."""
    try:
        match = re.search(r"/system\.slice/(?:.*/)?([^/]+\.service)", (process / "cgroup").read_text())
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return None
    return match[1] if match else None


def _gone(process: Path) -> list[str]:
    """Deleted files whose code it has mapped."""
    try:
        maps = (process / "maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return re.findall(r"^\S+ ..x. .* (/(?:usr|lib|bin|sbin|opt)\S*) \(deleted\)$", maps, re.MULTILINE)


def listeners() -> list[dict[str, Any]]:
    """Every TCP and UDP socket that waits for strangers, with its process where the kernel tells."""
    return [_listener(line.split()) for line in run("ss", "-H", "-lntup").splitlines()]


def _listener(words: list[str]) -> dict[str, Any]:
    address, _, port = words[4].rpartition(":")
    process = re.search(r'"([^"]+)"', words[6]) if len(words) > 6 else None
    return {
        "protocol": words[0],
        "address": address.strip("[]").partition("%")[0],
        "port": int(port),
        "process": process[1] if process else "",
    }


def firewall() -> dict[str, Any]:
    """nft's chains and rules, and our sets of blocked networks."""
    listed = json.loads(run("nft", "-j", "-t", "list", "ruleset"))["nftables"]
    return {
        "chains": [item["chain"] for item in listed if "chain" in item],
        "rules": [item["rule"] for item in listed if "rule" in item],
        "blocked": [element for name in ("blocked4", "blocked6") for element in _elements(name)],
    }


def _elements(name: str) -> list[Any]:
    done = subprocess.run(
        ["nft", "-j", "list", "set", "inet", "mailkeep", name], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return []
    return [element for item in json.loads(done.stdout)["nftables"] for element in item.get("set", {}).get("elem", ())]


def disks() -> list[dict[str, Any]]:
    """Used share of space and inodes, in per cent, for each file system that mail or logs are on."""
    seen = {os.stat(path).st_dev: path for path in reversed(DIRECTORIES) if Path(path).exists()}  # noqa: PTH116
    return [_usage(path) for path in seen.values()]


def _usage(path: str) -> dict[str, Any]:
    stat = os.statvfs(path)
    used = stat.f_blocks - stat.f_bfree
    return {
        "path": path,
        "space": round(100 * used / (used + stat.f_bavail)) if stat.f_blocks else 0,
        "inodes": round(100 * (stat.f_files - stat.f_ffree) / stat.f_files) if stat.f_files else 0,
    }


def journal() -> dict[str, int | None]:
    """Bytes: what the logs take, and the cap that the running journald has told of."""
    files = Path("/var/log/journal").rglob("*.journal*")
    match = ("-o", "json", "-n", "1", f"MESSAGE_ID={JOURNAL_SIZE}", "JOURNAL_NAME=System Journal")
    told = run("journalctl", *match).strip()
    return {
        "used": sum(file.stat().st_blocks * 512 for file in files),
        "cap": int(json.loads(told)["MAX_USE"]) if told else None,
    }


def queue() -> dict[str, int]:
    """Messages by queue (active, deferred, hold …)."""
    counts: dict[str, int] = {}
    for line in run("postqueue", "-j", timeout=60).splitlines():
        name = json.loads(line)["queue_name"]
        counts[name] = counts.get(name, 0) + 1
    return counts


def clock() -> dict[str, Any]:
    shown = run("systemctl", "show", "--property=ActiveState,ConditionResult", "systemd-timesyncd.service")
    return {
        "synchronised": Path("/run/systemd/timesync/synchronized").exists(),
        "can": "ConditionResult=no" not in shown,
        "service": dict(line.split("=", 1) for line in shown.splitlines()),
    }


def upgrades() -> dict[str, Any]:
    """APT's configuration as it is in force, what dpkg holds to be broken, and whether a reboot is due."""
    dump = dict(re.findall(r'^(\S+) "(.*)";$', run("apt-config", "dump"), re.MULTILINE))
    origins = re.findall(r'^Unattended-Upgrade::Origins-Pattern:: "(.*)";$', run("apt-config", "dump"), re.MULTILINE)
    required = Path("/run/reboot-required")
    return {
        "periodic": {
            key: dump.get(f"APT::Periodic::{key}", "") for key in ("Update-Package-Lists", "Unattended-Upgrade")
        },
        "origins": origins,
        "broken": run("dpkg", "--audit").strip(),
        "reboot_days": (time.time() - required.stat().st_mtime) / 86400 if required.exists() else None,
    }


def outbound(given: ProbeConfig) -> dict[str, Any]:
    """Whether mail gets out: Postfix's own client connects to where it would."""
    if not given.outbound_target:
        return {"tried": "", "connected": False, "said": ""}
    command = ["posttls-finger", "-c", "-T", "5", "-t", "5", *given.outbound_target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        said = "no answer within 10 seconds"
    return {
        "tried": given.outbound_target[-1],
        "connected": "Connected to" in said or "TLS connection established" in said,
        "said": said.strip()[-400:],
    }


def senders(given: ProbeConfig) -> dict[str, Any]:
    """What the submission services ask of a sender, and who owns which address by their map."""
    services = ("submission", "submissions")
    rules = run("postconf", "-x", "-P", *(f"{service}/inet/smtpd_sender_restrictions" for service in services))
    maps = run("postconf", "-x", "-h", "smtpd_sender_login_maps").replace(",", " ").split()
    overridden = run("postconf", "-x", "-P").count("smtpd_sender_login_maps")
    spoofs = [f"{name}@{domain}" for domain in (*given.domains, given.host) for name in ("", "mailkeep-probe", "root")]
    keys = "".join(f"{key}\n" for key in (*given.accounts, *spoofs))
    owners: dict[str, str] = {}
    for table in maps:
        # postmap exits 1 when it finds nothing for any key, or for good reason and with a message.
        done = subprocess.run(["postmap", "-q", "-", table], input=keys, capture_output=True, text=True, check=False)
        if done.stderr:
            raise RuntimeError(f"postmap -q - {table}: {done.stderr.strip()}")
        owners |= dict(line.split("\t", 1) for line in done.stdout.splitlines())
    return {"rules": rules.splitlines(), "owners": owners, "overridden": overridden, "spoofs": spoofs}


def passdbs() -> list[str]:
    """Dovecot's password and user databases by driver, which is their name where they have no `driver` of their own."""
    blocks = re.findall(
        r"^(passdb|userdb) (\S+) \{\n((?: .*\n)*)", run("doveconf", "-n", "passdb", "userdb"), re.MULTILINE
    )
    drivers = [(kind, re.search(r"^  driver = (\S+)", body, re.MULTILINE), name) for kind, name, body in blocks]
    return [f"{kind} {driver[1] if driver else name}" for kind, driver, name in drivers]
