"""Units, processes, listeners, disks, clock and configuration of the running machine."""

import json
import os
import pwd
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from mailkeep_server.common import iptables_rules, mailboxes, nft_ruleset, packet_path
from mailkeep_server.common.own_addresses import find_packet_destinations
from mailkeep_server.common.relay_login import find_relay_fault

from .commands import run_command
from .config import ProbeConfig

PROPERTIES = "Id,LoadState,ActiveState,SubState,UnitFileState,ConditionResult,ConditionTimestampMonotonic,Result"
JOURNAL_USAGE = "ec387f577b844b8fa948f33cad9a75e6"  # systemd's SD_MESSAGE_JOURNAL_USAGE
DIRECTORIES = ("/", "/var", "/var/log", "/var/spool/postfix", "/var/vmail")
OUTBOUND_TIMEOUT = 10.0
NO_IPV6 = "inet_protocols: disabling IPv6"  # a warning of each program of Postfix, if the kernel has none
MAX_MAILBOXES = 10  # that are named
MAILBOX_SECONDS = 5.0  # some 10,000 mailboxes; the watch looks at all of them, one after another


def read_units(config: ProbeConfig) -> dict[str, Any]:
    """`properties` of each unit of Mailkeep, and the names of all `failed` units of systemd."""
    blocks = run_command("systemctl", "show", f"--property={PROPERTIES}", *config.units).strip().split("\n\n")
    failed = run_command("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    return {
        "properties": [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks],
        "failed": [line.split()[0] for line in failed.splitlines()],
    }


def find_replaced_files() -> list[list[str]]:
    """(unit, file) for each program or library that a service still runs although it was deleted, as by an upgrade."""
    replaced = {
        (unit, path)
        for process in Path("/proc").glob("[0-9]*")
        for unit in [_unit_of(process)]
        if unit
        for path in _deleted_code_of(process)
    }
    return sorted(map(list, replaced))


def _unit_of(process: Path) -> str | None:
    """The system service of a process."""
    try:
        match = re.search(r"/system\.slice/(?:.*/)?([^/]+\.service)", (process / "cgroup").read_text())
    except (FileNotFoundError, ProcessLookupError):  # the process has ended
        return None
    return match[1] if match else None


def _deleted_code_of(process: Path) -> list[str]:
    """Deleted files whose code the process has mapped."""
    try:
        maps = (process / "maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return re.findall(r"^\S+ ..x. .* (/(?:usr|lib|bin|sbin|opt)\S*) \(deleted\)$", maps, re.MULTILINE)


def list_listeners() -> list[dict[str, Any]]:
    """Every listening TCP and UDP socket, with the name of its process if the kernel knows it."""
    return [_parse_listener(line.split()) for line in run_command("ss", "-H", "-lntup").splitlines()]


def _parse_listener(columns: list[str]) -> dict[str, Any]:
    address, _, port = columns[4].rpartition(":")
    process = re.search(r'"([^"]+)"', columns[6]) if len(columns) > 6 else None
    return {
        "protocol": columns[0],
        "address": address.strip("[]").partition("%")[0],
        "port": int(port),
        "process": process[1] if process else "",
    }


def read_firewall(config: ProbeConfig) -> dict[str, Any]:
    """nft's chains and rules, and the elements of Mailkeep's sets of networks (`blocked`, `may_send`).

    `changes` are lines of Mailkeep's table that mail.yml does not declare, or that are missing. `passing` are rules in
    fail2ban's table that let packets pass. `foreign` are other firewalls' chains, with the ports that they close for
    certain, and those that they may close.
    """
    text = run_command("nft", "-j", "-t", "list", "ruleset")
    ruleset = nft_ruleset.parse_ruleset(text)
    addresses = find_packet_destinations(config.addresses)
    explained = iptables_rules.add_legacy(iptables_rules.explain_modules(ruleset), iptables_rules.read_legacy())
    foreign = packet_path.find_foreign_chains(explained, addresses, config.open_ports, packet_path.find_interface())
    return {
        "chains": ruleset.chains,
        "rules": ruleset.rules,
        "blocked": [element for name in ("blocked4", "blocked6") for element in _read_set(name)],
        "may_send": [element for name in ("may_send4", "may_send6") for element in _read_set(name)],
        "changes": _compare_with_declared(config.firewall_rules),
        "passing": nft_ruleset.list_passing_rules(ruleset),
        "foreign": [{"name": str(chain), "closed": chain.closed, "doubtful": chain.doubtful} for chain in foreign],
    }


def _compare_with_declared(rules: str) -> list[str]:
    """nft itself says how it lists the declared rules: in a network namespace of their own, where they do nothing."""
    list_table = "nft -s -t list table inet mailkeep"
    declared = run_command("unshare", "--net", "sh", "-euc", f"nft -f -; {list_table}", stdin=rules)
    done = subprocess.run(list_table.split(), capture_output=True, text=True, check=False)
    return nft_ruleset.compare_table(declared, done.stdout)


def _read_set(name: str) -> list[Any]:
    """The elements of a set of the table `mailkeep`; none when there is no such set."""
    command = ["nft", "-j", "list", "set", "inet", "mailkeep", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return []
    return [element for item in json.loads(done.stdout)["nftables"] for element in item.get("set", {}).get("elem", ())]


def read_disk_usage() -> list[dict[str, Any]]:
    """Used space and inodes in per cent, for each file system that holds mail or logs."""
    devices = {os.stat(path).st_dev: path for path in reversed(DIRECTORIES) if Path(path).exists()}  # noqa: PTH116
    return [_usage_of(path) for path in devices.values()]


def _usage_of(path: str) -> dict[str, Any]:
    stat = os.statvfs(path)
    used = stat.f_blocks - stat.f_bfree
    return {
        "path": path,
        "space": round(100 * used / (used + stat.f_bavail)) if stat.f_blocks else 0,
        "inodes": round(100 * (stat.f_files - stat.f_ffree) / stat.f_files) if stat.f_files else 0,
    }


def read_journal_size() -> dict[str, int | None]:
    """Bytes: `used` by the journal's files, and the `cap` that the running journald has logged."""
    files = Path("/var/log/journal").rglob("*.journal*")
    match = ("-o", "json", "-n", "1", f"MESSAGE_ID={JOURNAL_USAGE}", "JOURNAL_NAME=System Journal")
    message = run_command("journalctl", *match).strip()
    return {
        "used": sum(file.stat().st_blocks * 512 for file in files),
        "cap": int(json.loads(message)["MAX_USE"]) if message else None,
    }


def count_queued_messages() -> dict[str, int]:
    """Messages by queue (active, deferred, hold …)."""
    counts: dict[str, int] = {}
    for line in run_command("postqueue", "-j", timeout=60).splitlines():
        name = json.loads(line)["queue_name"]
        counts[name] = counts.get(name, 0) + 1
    return counts


def find_unwritable_mailboxes(config: ProbeConfig) -> dict[str, Any]:
    """`faults`: a sentence for each mailbox that delivery cannot write, up to MAX_MAILBOXES of them. `unseen`: for how
    many mailboxes MAILBOX_SECONDS did not suffice."""
    uid = pwd.getpwnam(mailboxes.USER).pw_uid
    deadline = time.monotonic() + MAILBOX_SECONDS
    faults: dict[str, str] = {}
    for number, account in enumerate(config.mailboxes):
        if len(faults) >= MAX_MAILBOXES:
            break
        if time.monotonic() > deadline:
            return {"faults": list(faults.values()), "unseen": len(config.mailboxes) - number}
        for path in mailboxes.walk_mailboxes([account]):
            if fault := mailboxes.find_fault(path, uid):
                faults.setdefault(mailboxes.find_home(path), fault)
    return {"faults": list(faults.values()), "unseen": 0}


def examine_clock() -> dict[str, bool]:
    """Whether the clock is synchronised, and whether this machine can set it at all."""
    properties = run_command("systemctl", "show", "--property=ConditionResult", "systemd-timesyncd.service")
    return {
        "synchronised": Path("/run/systemd/timesync/synchronized").exists(),
        "settable": "ConditionResult=no" not in properties,
    }


def examine_upgrades() -> dict[str, Any]:
    """APT's effective configuration, packages that dpkg calls broken, and the days since a reboot is due."""
    dump = run_command("apt-config", "dump")
    options = dict(re.findall(r'^(\S+) "(.*)";$', dump, re.MULTILINE))
    required = Path("/run/reboot-required")
    periodic = ("Update-Package-Lists", "Unattended-Upgrade")
    return {
        "periodic": {name: options.get(f"APT::Periodic::{name}", "") for name in periodic},
        "origins": re.findall(r'^Unattended-Upgrade::Origins-Pattern:: "(.*)";$', dump, re.MULTILINE),
        "broken": run_command("dpkg", "--audit").strip(),
        "reboot_days": (time.time() - required.stat().st_mtime) / 86400 if required.exists() else None,
    }


def try_outbound(config: ProbeConfig) -> dict[str, str]:
    """The relay host or a correspondent's domain as `target`, empty if there is neither; and the `fault`, if any."""
    if config.relay:
        host, port = config.relay
        fault = find_relay_fault(host, int(port), config.relay_password_file, config.host, OUTBOUND_TIMEOUT)
        return {"target": f"{host}:{port}", "fault": fault and f"{host} {fault}"}
    domain = config.outbound_domain
    return {"target": domain, "fault": domain and _find_exchanger_fault(domain)}


def _find_exchanger_fault(domain: str) -> str:
    """Why Postfix's own client reaches no mail server of a domain; empty if it does."""
    command = ["posttls-finger", "-c", "-T", "5", "-t", "5", domain]
    try:
        done = subprocess.run(
            command,
            user="postfix",  # the firewall stops all others
            group="postfix",
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            timeout=OUTBOUND_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {OUTBOUND_TIMEOUT:.0f} seconds"
    output = done.stdout + done.stderr
    is_connected = "Connected to" in output or "TLS connection established" in output
    return "" if is_connected else output.strip()[-400:] or "no answer"


def examine_login_map(config: ProbeConfig) -> dict[str, Any]:
    """The sender restrictions of the submission services, and the owners of addresses by Postfix's login map.

    `overrides` counts login maps in master.cf; `spoofs` are addresses that no account may own.
    """
    services = ("submission", "submissions")
    rules = run_command("postconf", "-x", "-P", *(f"{service}/inet/smtpd_sender_restrictions" for service in services))
    maps = run_command("postconf", "-x", "-h", "smtpd_sender_login_maps").replace(",", " ").split()
    overrides = run_command("postconf", "-x", "-P").count("smtpd_sender_login_maps")
    local_parts = ("", "mailkeep-probe", "root")
    spoofs = [f"{local}@{domain}" for domain in (*config.domains, config.host) for local in local_parts]
    keys = "".join(f"{key}\n" for key in (*config.accounts, *spoofs))
    owners: dict[str, str] = {}
    for table in maps:
        # postmap(1) exits 1 when no key has an entry, which is fine, and when it fails, with a message.
        done = subprocess.run(["postmap", "-q", "-", table], input=keys, capture_output=True, text=True, check=False)
        errors = [line for line in done.stderr.splitlines() if NO_IPV6 not in line]
        if errors:
            raise RuntimeError(f"postmap -q - {table}: {'; '.join(errors)}")
        owners |= dict(line.split("\t", 1) for line in done.stdout.splitlines())
    return {"rules": rules.splitlines(), "owners": owners, "overrides": overrides, "spoofs": spoofs}


def list_password_databases() -> list[str]:
    """Dovecot's passdbs and userdbs as "passdb DRIVER PATH", in the order in which Dovecot asks them."""
    output = run_command("doveconf", "-n", "passdb", "userdb")
    blocks = re.findall(r"^(passdb|userdb) (\S+) \{\n((?: .*\n)*)", output, re.MULTILINE)
    return [f"{kind} {_describe_database(name, body)}" for kind, name, body in blocks]


def _describe_database(name: str, body: str) -> str:
    """Without a `driver`, a database's name is its driver."""
    driver = re.search(r"^  driver = (\S+)", body, re.MULTILINE)
    path = re.search(r"^  (?:passwd_file_path|lua_file) = (\S+)", body, re.MULTILINE)
    return f"{driver[1] if driver else name} {path[1] if path else ''}".strip()
