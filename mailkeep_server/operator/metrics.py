"""`mailkeepctl metrics`: figures in Prometheus' text format, to print or for node_exporter's textfile collector.

https://prometheus.io/docs/instrumenting/exposition_formats/ has the format. What cannot be read is missing, and
`mailkeep_looked_at` says so.
"""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mailkeep_server.common import backup_status, unix_http
from mailkeep_server.common.certificates import CertificateError, read_certificate
from mailkeep_server.common.fail2ban_socket import ask_fail2ban, list_jails
from mailkeep_server.operator.findings import HARM, collect_findings
from mailkeep_server.watch.config import WatchConfig
from mailkeep_server.watch.mail_flow import QueueSensor, count_files
from mailkeep_server.watch.sensors import DiskSensor, measure_disk

ERRORS = (OSError, ValueError, RuntimeError, CertificateError, subprocess.TimeoutExpired)
ANSWER_TIMEOUT = 5.0  # seconds
QUEUES = (*QueueSensor.QUEUES, "hold")
NAMES = {
    "mailkeep_queue_messages": "Messages in Postfix's queue",
    "mailkeep_bans": "Banned addresses and networks",
    "mailkeep_disk_used_ratio": "Used part of a disk, without root's reserve",
    "mailkeep_disk_inodes_used_ratio": "Used part of a disk's inodes",
    "mailkeep_certificate_end_timestamp_seconds": "When the certificate ends",
    "mailkeep_backup_last_success_timestamp_seconds": "When the last backup was made; 0: never",
    "mailkeep_backup_last_proof_timestamp_seconds": "When a backup was last proven by a restore; 0: never",
    "mailkeep_findings": "What is wrong now, as mailkeepctl status says",
    "mailkeep_sensors_not_looked_at": "Sensors that could not look",
    "mailkeep_looked_at": "Whether the figures of this kind could be read",
}
"""All gauges, each with its HELP."""


class Sample(NamedTuple):
    name: str
    label: str
    """Such as `queue`; empty: the sample has none."""
    value_of_label: str
    value: float


Reader = Callable[[WatchConfig], Iterator[Sample]]
"""Raises one of ERRORS if it cannot read."""


def format_metrics(config: WatchConfig) -> str:
    """All figures, those of the guard included."""
    samples, guard = list[Sample](), ""
    for what, read in READERS.items():
        is_read = True
        try:
            samples += list(read(config))
        except ERRORS:
            is_read = False
        samples.append(Sample("mailkeep_looked_at", "what", what, is_read))
    try:
        guard = unix_http.get_body(config.control_socket, "/metrics", ANSWER_TIMEOUT).decode()
    except ERRORS:
        guard = ""
    samples.append(Sample("mailkeep_looked_at", "what", "guard", bool(guard)))
    return guard + "".join(_format_metric(name, samples) for name in NAMES)


def _format_metric(name: str, samples: list[Sample]) -> str:
    lines = [_format_sample(sample) for sample in samples if sample.name == name]
    return f"# HELP {name} {NAMES[name]}\n# TYPE {name} gauge\n{''.join(lines)}" if lines else ""


def _format_sample(sample: Sample) -> str:
    escaped = sample.value_of_label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    labels = f'{{{sample.label}="{escaped}"}}' if sample.label else ""
    return f"{sample.name}{labels} {float(sample.value):.15g}\n"


def _read_queue(_: WatchConfig) -> Iterator[Sample]:
    for queue in QUEUES:
        number = count_files(QueueSensor.SPOOL / queue, QueueSensor.MAX_COUNTED)
        yield Sample("mailkeep_queue_messages", "queue", queue, number)


def _read_bans(_: WatchConfig) -> Iterator[Sample]:
    for jail in list_jails(timeout=ANSWER_TIMEOUT):
        banned = ask_fail2ban("get", jail, "banip", timeout=ANSWER_TIMEOUT)
        yield Sample("mailkeep_bans", "jail", jail, len(banned))


def _read_disks(_: WatchConfig) -> Iterator[Sample]:
    disks: dict[str, tuple[str, float, float]] = {}
    for path in reversed(DiskSensor.DIRECTORIES):
        if Path(path).exists():
            device, space, inodes = measure_disk(path)
            disks[device] = path, space, inodes
    for path, space, inodes in disks.values():
        yield Sample("mailkeep_disk_used_ratio", "path", path, space / 100)
        yield Sample("mailkeep_disk_inodes_used_ratio", "path", path, inodes / 100)


def _read_certificate(config: WatchConfig) -> Iterator[Sample]:
    end = read_certificate(Path(config.certificate_file).read_text(), ANSWER_TIMEOUT).not_after
    yield Sample("mailkeep_certificate_end_timestamp_seconds", "", "", end)


def _read_backups(config: WatchConfig) -> Iterator[Sample]:
    status = backup_status.load_status()
    for name in config.backup.targets if config.backup else ():
        target = status.of(name)
        yield Sample("mailkeep_backup_last_success_timestamp_seconds", "target", name, target.succeeded)
        yield Sample("mailkeep_backup_last_proof_timestamp_seconds", "target", name, target.proved)


def _read_findings(config: WatchConfig) -> Iterator[Sample]:
    findings = collect_findings(config)
    counts = Counter(finding.harm for finding in findings.wrong)
    for harm, name in HARM.items():
        yield Sample("mailkeep_findings", "harm", name, counts[harm])
    yield Sample("mailkeep_sensors_not_looked_at", "", "", len(findings.not_looked_at))


READERS: dict[str, Reader] = {
    "queue": _read_queue,
    "bans": _read_bans,
    "disks": _read_disks,
    "certificate": _read_certificate,
    "backups": _read_backups,
    "findings": _read_findings,
}
