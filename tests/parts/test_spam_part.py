"""The spam filter asks what mail.yml says, and nobody else; and the copies that it learns from are bounded."""

import os
import re
import subprocess
from pathlib import Path, PurePosixPath

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
    assert spam.build_part(Settings.model_validate(declared | {"spam": "full"})).kept == ("/var/lib/mailkeep-words",)


# --- what is said of a message

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
HEADERS, BODY = b"Subject: a\r\nTo: b\r\n", b"\r\nX-Mailkeep-Spam: in the text\r\n\tand more\r\n\0\xff"
ACCOUNT = "anna@example.org"
UNTAUGHT = "not spam: the filter of this account was not taught enough yet"


def judge(directory: Path, score: str, verdict: bytes = b"", *, code: int = 0, lessons: str = "5 5") -> str:
    """What is said of a message that arrives with this header, by a bogofilter that prints the table, after so many
    lessons of spam and of ham."""
    files = {PurePosixPath(file.path).name: file.content.decode() for file in spam._render_judge()}
    for name, content in files.items():
        content = content.replace("-p /var/tmp", f"-p {directory}").replace(spam.SIEVE_PROGRAMS, str(directory))
        (directory / name).write_text(content.replace("/var/lib/mailkeep-words", f"{directory}/words"))
    if score:
        (directory / "words" / ACCOUNT).mkdir(parents=True, exist_ok=True)
        (directory / "words" / ACCOUNT / "wordlist.db").touch()
    (directory / "table").write_text(TABLE.format(score=score))
    program = directory / "bogofilter"
    program.write_text(f"#!/bin/sh\ncat >{directory}/judged\ncat {directory}/table\nexit {code}\n")
    program.chmod(0o755)
    counter = directory / "bogoutil"
    counter.write_text(f"#!/bin/sh\necho '{' ' * 24} spam good'\necho .MSG_COUNT {lessons}\nexit {code}\n")
    counter.chmod(0o755)
    (directory / "judged").unlink(missing_ok=True)
    done = subprocess.run(
        ["sh", str(directory / "judge"), ACCOUNT],
        input=HEADERS[:12] + verdict + HEADERS[12:] + BODY,
        capture_output=True,
        env={"PATH": f"{directory}:{os.environ['PATH']}"},
        check=True,
        timeout=20,
    )
    assert not [*directory.glob("tmp.*")], "nothing is left"
    header, _, rest = done.stdout.partition(b"\r\n")
    assert rest == HEADERS + BODY, "the message is as it was"
    judged = directory / "judged"
    assert not judged.exists() or judged.read_bytes() == HEADERS + BODY, "a verdict is no word of it"
    return header.decode().removeprefix("X-Mailkeep-Spam: ")


RULES = (
    b"X-Mailkeep-Spam: not spam, 3.4 points (Junk from 6, refused\r\n\tfrom 12): a link leads elsewhere (+2.0); the\r\n"
    b" sender is forged (+1.9); genuine (-0.5)\r\n"
)


def test_a_verdict_names_the_words_that_weighed_most(tmp_path: Path) -> None:
    junk = "probably spam, 8.0 points (Junk from 3.2): its words casino, subj:pills, cheap (+8.0)"
    assert judge(tmp_path, "9.99e-01") == junk
    assert judge(tmp_path, "1.00e-08", code=1) == "not spam, -6.0 points (Junk from 3.2): its words monday (-6.0)"
    assert judge(tmp_path, "6.23e-01", code=2).startswith("not spam, 2.0 points ")


def test_words_and_rules_are_added(tmp_path: Path) -> None:
    assert judge(tmp_path, "9.99e-01", RULES) == (
        "probably spam, 11.4 points (Junk from 7): its words casino, subj:pills, cheap (+8.0); "
        "a link leads elsewhere (+2.0); the sender is forged (+1.9)"
    )
    assert judge(tmp_path, "6.00e-01", RULES).startswith("not spam, 5.0 points (Junk from 7): a link leads")
    assert judge(tmp_path, "1.00e-08", RULES) == (
        "not spam, -2.6 points (Junk from 7): its words monday (-6.0); "
        "a link leads elsewhere (+2.0); the sender is forged (+1.9)"
    )


def test_without_lessons_the_rules_judge(tmp_path: Path) -> None:
    said_by_rules = judge(tmp_path, "", RULES)
    assert said_by_rules.startswith(
        "not spam, 3.4 points (Junk from 6, refused from 12): a link leads elsewhere (+2.0);"
    )
    assert judge(tmp_path, "") == UNTAUGHT


def test_lessons_count_when_there_are_as_many_of_ham_as_of_spam(tmp_path: Path) -> None:
    assert judge(tmp_path, "9.99e-01", lessons="100 99") == UNTAUGHT
    assert judge(tmp_path, "9.99e-01", RULES, lessons="100 99").startswith("not spam, 3.4 points (Junk from 6")
    assert judge(tmp_path, "9.99e-01", lessons="99 100").startswith("probably spam, 8.0 points")


def test_words_that_cannot_be_read_leave_the_verdict_of_the_rules(tmp_path: Path) -> None:
    assert judge(tmp_path, "9.99e-01", RULES, code=3).startswith("not spam, 3.4 points (Junk from 6, refused")
    assert judge(tmp_path, "9.99e-01", code=3) == "nobody looked: the spam filter failed"
