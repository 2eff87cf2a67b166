"""The spam filter asks what mail.yml says, and nobody else; and the copies that it learns from are bounded."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from mailkeep.parts import spam
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

LISTS = ["zen.spamhaus.org", "bl.spamcop.net"]
OPEN_RESOLVER, BLOCKED = "127.255.255.254", "127.255.255.255"


def read_conf(declared: dict[str, object], value: object) -> str:
    part = spam.build_part(Settings.model_validate(declared | {"spam": value}))
    return next(file.content for file in part.files if file.path == spam.CONF).decode()


def test_the_short_form_is_the_filter(declared: dict[str, object]) -> None:
    assert Settings.model_validate(declared | {"spam": "full"}).spam.filter == "full"


def test_no_list_is_asked_unless_the_operator_says_so(declared: dict[str, object]) -> None:
    assert "rbl {" not in read_conf(declared, "full")
    conf = read_conf(declared, {"filter": "full", "dnsbls": LISTS})
    assert re.findall(r'rbl = "(.+)";', conf) == LISTS


def test_nothing_is_fetched(declared: dict[str, object]) -> None:
    """A map of rspamd's that comes from its makers' server is given with its address."""
    conf = read_conf(declared, {"filter": "full", "dnsbls": LISTS})
    assert "://" not in conf
    assert "fuzzy_check" not in conf


@pytest.mark.parametrize(
    ("answer", "is_listing"),
    [
        *(((f"127.0.0.{number}"), True) for number in (2, 3, 9, 10, 11, 99, 100, 254)),
        *((answer, False) for answer in (OPEN_RESOLVER, BLOCKED, "127.255.255.252", "127.0.0.1", "127.0.0.255")),
        *((answer, False) for answer in ("203.0.113.9", "127.0.1.2", "127.0.0.20x")),
    ],
)
def test_only_a_listing_counts(declared: dict[str, object], answer: str, is_listing: bool) -> None:
    conf = read_conf(declared, {"filter": "full", "dnsbls": LISTS[:1]})
    (pattern,) = re.findall(r'"MAILKEEP_DNSBL_1" = \["/(.+)/"\]', conf)
    assert bool(re.search(pattern.replace(r"\\", "\\"), answer)) == is_listing


# --- what Dovecot's script leaves


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    for name in ("tmp", "new"):
        (tmp_path / name).mkdir()
    return tmp_path


def leave_copy(spool: Path, message: bytes, *, max_bytes: int = 1000, max_copies: int = 3) -> None:
    script = render_template("spam/learn", spool=spool, max_bytes=max_bytes, max_copies=max_copies)
    (spool / "learn").write_bytes(script)
    command = ["sh", str(spool / "learn"), "spam", "anna@example.org"]
    subprocess.run(command, input=message, check=True, timeout=20)


def test_a_copy_has_its_kind_its_account_and_its_beginning(spool: Path) -> None:
    leave_copy(spool, b"Subject: a\n\n" + b"x" * 100_000)
    (copy,) = (spool / "new").iterdir()
    assert copy.read_bytes() == b"spam anna@example.org\n" + (b"Subject: a\n\n" + b"x" * 100_000)[:1000]
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [*(spool / "tmp").iterdir()] == []


def test_copies_are_bounded(spool: Path) -> None:
    for number in range(5):
        leave_copy(spool, f"Subject: {number}\n\n".encode())
    assert len([*(spool / "new").iterdir()]) == 3


def test_training_is_backed_up(declared: dict[str, object]) -> None:
    assert spam.build_part(Settings.model_validate(declared | {"spam": "full"})).kept == ("/var/lib/mailkeep-spam",)


# --- what the light filter says of a message

TABLE = """\
                                        n    pgood     pbad      fw      invfwlog    fwlog  U
  "monday"                              5  1.000000  0.000000  0.001845    -0.00185  -6.29547 +
  "for"                                 0  0.000000  0.000000  0.520000    -0.73397  -0.65393 -
  "casino"                              5  0.000000  1.000000  0.998297    -6.37552  -0.00170 +
  "subj:pills"                          5  0.000000  1.000000  0.990000    -6.37552  -0.00170 +
  "viagra"                              5  0.000000  1.000000  0.970000    -6.37552  -0.00170 +
  "cheap"                               5  0.000000  1.000000  0.980000    -6.37552  -0.00170 +
  N_P_Q_S_s_x_md                        5  1.74e-07  2.47e-01  {score}  1.78e-02  5.20e-01 0.375
"""


MESSAGE = b"Subject: a\r\n\r\nbody\r\n"


def judge(directory: Path, program: str) -> list[str]:
    """The headers that precede the message, by a bogofilter that is this program."""
    (directory / "anna@example.org").mkdir(exist_ok=True)
    (directory / "anna@example.org" / "wordlist.db").touch()
    (directory / "bogofilter").write_text(program)
    (directory / "bogofilter").chmod(0o755)
    script = render_template(
        "spam/judge",
        directory=directory,
        training=directory,
        reasons=spam.REASONS,
        cutoff=0.7,
        spam_header="Verdict",
        junk_header="Mark",
    )
    (directory / "judge").write_bytes(script)
    before = {*directory.iterdir()}
    environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
    command = ["sh", str(directory / "judge"), "anna@example.org"]
    done = subprocess.run(command, input=MESSAGE, capture_output=True, env=environment, check=True, timeout=20)
    assert {*directory.iterdir()} == before
    headers, separator, rest = done.stdout.partition(MESSAGE)
    assert (separator, rest) == (MESSAGE, b""), "the message is as it was"
    return headers.decode().removesuffix("\r\n").split("\r\n")


def print_table(directory: Path, score: str, code: int) -> str:
    (directory / "table").write_text(TABLE.format(score=score))
    return f"#!/bin/sh\ncat >/dev/null\ncat {directory}/table\nexit {code}\n"


def test_a_verdict_names_the_words_that_weighed_most(tmp_path: Path) -> None:
    spam_verdict = "Verdict: probably spam, 99.9 per cent (Junk from 70): its words casino, subj:pills, cheap"
    assert judge(tmp_path, print_table(tmp_path, "9.99e-01", 0)) == [spam_verdict, "Mark: yes"]
    ham_verdict = "Verdict: not spam, 0.0 per cent (Junk from 70): its words monday"
    assert judge(tmp_path, print_table(tmp_path, "1.00e-08", 1)) == [ham_verdict]
    (verdict,) = judge(tmp_path, print_table(tmp_path, "6.23e-01", 2))
    assert verdict.startswith("Verdict: not spam, 62.3 per cent ")


def test_a_filter_that_fails_says_so(tmp_path: Path) -> None:
    assert judge(tmp_path, "#!/bin/sh\nexit 3\n") == ["Verdict: nobody looked: the spam filter failed"]
