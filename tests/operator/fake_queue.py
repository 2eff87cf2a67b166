"""Stand-ins for Postfix's programs over a directory: a file for each queued message, whose rows postqueue prints."""

import json
import os
from pathlib import Path

import pytest

PROGRAMS = {
    "postqueue": 'case "$1" in -j) cat "$ROWS"/* 2>/dev/null || true;; *) echo "$@" >>"$HERE/retried";; esac',
    "postcat": """
test "$1" != -hq || exec printf 'Subject: \\033[2Jred\\n'
test "$1" != -bhq || exec printf 'Subject: x\\n\\nthe body\\n'
shift
for id; do
    test -e "$ROWS/$id" || exit 1
    printf '*** ENVELOPE RECORDS deferred/%s ***\\n' "$id"
    printf 'named_attribute: sasl_username=%s\\n' "$(cat "$HERE/logins/$id")"
done""",
    "postsuper": """
test ! -e "$HERE/meanwhile" || { . "$HERE/meanwhile"; rm "$HERE/meanwhile"; }
while read -r id; do
    test -e "$ROWS/$id" || continue
    case "$1" in
        -h) sed -i 's/"queue_name": "[a-z]*"/"queue_name": "hold"/' "$ROWS/$id";;
        -H) sed -i 's/"queue_name": "[a-z]*"/"queue_name": "deferred"/' "$ROWS/$id";;
        -d) rm "$ROWS/$id";;
    esac
done""",
}


class FakeQueue:
    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory, self.rows = directory, directory / "rows"
        for name in ("rows", "logins", "bin"):
            (directory / name).mkdir()
        for name, script in PROGRAMS.items():
            file = directory / "bin" / name
            file.write_text(f"#!/bin/sh\nHERE={directory} ROWS={self.rows}\n{script}\n")
            file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")

    def add_message(
        self,
        queue_id: str,
        sender: str,
        *recipients: str,
        login: str = "",
        queue: str = "deferred",
        reason: str = "",
        arrived: int = 1,
    ) -> None:
        (self.directory / "logins" / queue_id).write_text(login)
        people = [{"address": address} | ({"delay_reason": reason} if reason else {}) for address in recipients]
        row = {"queue_id": queue_id, "queue_name": queue, "sender": sender, "message_size": 1000}
        (self.rows / queue_id).write_text(json.dumps(row | {"arrival_time": arrived, "recipients": people}) + "\n")

    def change_before_next_command(self, script: str) -> None:
        """What happens between an operator's look at the queue and postsuper's work."""
        (self.directory / "meanwhile").write_text(script)

    def list_queues(self) -> dict[str, str]:
        """By queue ID, the message's queue."""
        rows = (json.loads(file.read_text()) for file in sorted(self.rows.iterdir()))
        return {row["queue_id"]: row["queue_name"] for row in rows}
