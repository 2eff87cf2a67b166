"""`alert-test`: one letter by each way, and for mail what became of it, as JSON on standard output."""

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from mailkeep_server.watch import channels, config
from mailkeep_server.watch.alert_queue import Letter
from mailkeep_server.watch.config import Config

WAIT = 30.0  # seconds until mail must have been delivered


@dataclass(frozen=True)
class TestResult:
    """`channel` is `mail` or `webhook`; `recipient` an administrator, or the webhook's format; `answer` that of the
    mail server or webhook, or the reason for which there is none. `mailkeep.operate.alert_test` reads it."""

    channel: str
    recipient: str
    arrived: bool
    answer: str


def main(_: list[str]) -> int:
    settings, now = config.load(), time.time()
    text = "This is a test of the alerts of your mail server. It works.\n"
    letter = Letter(int(now * 1000), now, f"[{settings.host}] A test of the alerts", text, urgent=False)
    results = _mail(letter, settings)
    if settings.webhook:
        results.append(_webhook(letter, settings))
    json.dump([asdict(result) for result in results], sys.stdout)
    return 0


def _webhook(letter: Letter, settings: Config) -> TestResult:
    kind = settings.webhook.format if settings.webhook else ""
    try:
        return TestResult("webhook", kind, True, channels.send("webhook", letter, settings))
    except channels.NotSentError as error:
        return TestResult("webhook", kind, False, str(error))


def _mail(letter: Letter, settings: Config) -> list[TestResult]:
    try:
        said = channels.send("mail", letter, settings)
    except channels.NotSentError as error:
        return [TestResult("mail", admin, False, str(error)) for admin in settings.admins]
    match = re.search(r"queued as (\w+)", said)
    if not match:
        return [TestResult("mail", admin, False, f"accepted, but not queued: {said}") for admin in settings.admins]
    return _fates(match[1], letter.at, settings)


def _fates(queue_id: str, since: float, settings: Config) -> list[TestResult]:
    """What Postfix's log says of each delivery. An alias may have led the mail elsewhere: `orig_to` names it."""
    fates: dict[str, TestResult] = {}
    deadline = time.monotonic() + WAIT
    while True:
        log = _log(queue_id, since)
        for line in log:
            if found := re.search(r" to=<([^>]*)>,(?: orig_to=<([^>]*)>,)? .*status=(\w+) (.*)", line):
                to = found[2] or found[1]
                fates[to] = TestResult("mail", to, found[3] == "sent", f"{found[3]} {found[4]}")
        if any(line.endswith(f"{queue_id}: removed") for line in log) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    late = f"accepted as {queue_id}, and not delivered within {WAIT:.0f} s; `postqueue -p` shows it"
    missing = [admin for admin in settings.admins if admin not in fates]
    return [*fates.values(), *(TestResult("mail", admin, False, late) for admin in missing)]


def _log(queue_id: str, since: float) -> list[str]:
    command = ["journalctl", "--unit=postfix.service", "--output=cat", f"--since=@{int(since)}", f"--grep={queue_id}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.splitlines()
