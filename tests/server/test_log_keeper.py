"""The mail services' lines are kept within bounds, whatever the journal loses."""

import gzip
import json
import os
from pathlib import Path

import pytest

from mailkeep_server import log_keeper
from mailkeep_server.log_keeper import MATCHES, LogKeeper

MAX_BYTES = 90_000


def encode_entry(number: int, unit: str = "postfix.service", message: object = None, **fields: str) -> bytes:
    entry = {
        "__CURSOR": f"s={number}",
        "__REALTIME_TIMESTAMP": str(1_790_000_000_000_000 + number),
        "MESSAGE": f"{number}: {os.urandom(40).hex()}" if message is None else message,
        "SYSLOG_IDENTIFIER": "postfix/smtpd",
        "_PID": "7",
        "_SYSTEMD_UNIT": unit,
    }
    return json.dumps(entry | fields).encode() + b"\n"


def read_kept(directory: Path, name: str) -> list[str]:
    """All lines, oldest first."""
    archives = sorted(directory.glob(f"{name}-*.log.gz"), key=lambda path: path.stat().st_mtime_ns)
    texts = [gzip.decompress(path.read_bytes()).decode() for path in archives]
    return "".join([*texts, (directory / f"{name}.log").read_text()]).splitlines()


def test_each_service_has_its_own_file(tmp_path: Path) -> None:
    keeper = LogKeeper(tmp_path, MAX_BYTES)
    keeper.read_entries(
        [
            encode_entry(1, message="connect from unknown"),
            encode_entry(2, "dovecot.service", "two\nlines", SYSLOG_IDENTIFIER="dovecot"),
            encode_entry(3, "session-1.scope", [104, 105, 255], SYSLOG_IDENTIFIER="sudo"),
            b"no JSON\n",
            b"[]\n",
            encode_entry(4, message="disconnect"),
        ]
    )
    assert read_kept(tmp_path, "postfix") == [
        "2026-09-21T14:13:20.000001+00:00 postfix/smtpd[7]: connect from unknown",
        "2026-09-21T14:13:20.000004+00:00 postfix/smtpd[7]: disconnect",
    ]
    assert read_kept(tmp_path, "dovecot") == ["2026-09-21T14:13:20.000002+00:00 dovecot[7]: two lines"]
    assert read_kept(tmp_path, "others") == ["2026-09-21T14:13:20.000003+00:00 sudo[7]: hi\ufffd"]


def test_what_is_done_to_the_queue_is_beside_postfix_s_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A freeze holds mail from the watch's unit, an operator deletes it from a session."""
    monkeypatch.setattr(log_keeper, "find_owner", lambda: "104")
    keeper, change = LogKeeper(tmp_path, MAX_BYTES), {"SYSLOG_IDENTIFIER": "postfix/postsuper"}
    assert keeper.build_command()[-3:] == ["+", "_UID=104", "SYSLOG_IDENTIFIER=postfix/postsuper"]
    keeper.read_entries(
        [
            encode_entry(1, "mailkeep-watch.service", "A1B2C3: placed on hold", **change, _UID="104"),
            encode_entry(2, "session-1.scope", "A1B2C3: removed", **change, _UID="104"),
            encode_entry(3, "opendkim.service", "D4E5F6: removed", **change, _UID="108"),
        ]
    )
    assert [line.split("]: ")[1] for line in read_kept(tmp_path, "postfix")] == [
        "A1B2C3: placed on hold",
        "A1B2C3: removed",
    ]


@pytest.mark.slow
def test_a_flood_of_a_service_stays_in_bounds_and_leaves_the_others_alone(tmp_path: Path) -> None:
    keeper = LogKeeper(tmp_path, MAX_BYTES)
    keeper.read_entries([encode_entry(0, message="the message of an intruder")])
    keeper.read_entries(encode_entry(number, "dovecot.service") for number in range(1, 5000))

    assert len(read_kept(tmp_path, "postfix")) == 1
    kept = read_kept(tmp_path, "dovecot")
    assert "]: 4999: " in kept[-1]
    numbers = [int(line.split("]: ")[1].split(":")[0]) for line in kept]
    assert numbers == list(range(numbers[0], 5000))
    sizes = [path.stat().st_size for path in tmp_path.iterdir() if path.name.startswith("dovecot")]
    assert MAX_BYTES // 6 < sum(sizes) <= MAX_BYTES // 3 + 200


def test_a_new_start_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    assert "--since=-1h" in LogKeeper(tmp_path, MAX_BYTES).build_command()
    LogKeeper(tmp_path, MAX_BYTES).read_entries([encode_entry(1)])
    keeper = LogKeeper(tmp_path, MAX_BYTES)
    assert "--after-cursor=s=1" in keeper.build_command()
    keeper.read_entries([encode_entry(2)])
    assert len(read_kept(tmp_path, "postfix")) == 2


def test_a_program_of_another_user_is_not_kept_for_its_name() -> None:
    identifiers = [match for match in MATCHES if match.startswith("SYSLOG_IDENTIFIER=")]
    others = MATCHES.index("+")
    assert MATCHES[others + 1 :] == ("_UID=0", *identifiers)
    assert all(match.startswith("_SYSTEMD_UNIT=") for match in MATCHES[:others])
