"""The proof of the spam filter tells each way in which it can fail, and removes what it sends."""

from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from mailkeep_server.common import spam_canary
from mailkeep_server.common.spam_canary import GTUBE, HEADER, VERDICT_HEADER, prove_filter

JUDGED = "not spam, 0.1 points (Junk from 7, refused from 12)"
REFUSED = "554 5.7.1 This looks like spam"


@pytest.fixture(autouse=True)
def maildir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(spam_canary, "MAILDIR", tmp_path)
    monkeypatch.setattr(spam_canary, "DELIVERY_TIMEOUT", 0.5)
    return tmp_path


@pytest.fixture
def server(maildir: Path) -> Callable[..., Callable[[EmailMessage], str]]:
    """A mail server with these faults."""

    def build(*, junk: str = ".Junk", verdict: str = JUDGED, refusal: str = REFUSED) -> Callable[[EmailMessage], str]:
        def deliver(message: EmailMessage) -> str:
            if GTUBE in message.get_content():
                return refusal
            folder = maildir / junk if message[HEADER] else maildir
            (folder / "new").mkdir(parents=True, exist_ok=True)
            head = f"{VERDICT_HEADER}: {verdict}\n" if verdict else ""
            (folder / "new" / str(len([*folder.glob("new/*")]))).write_text(head + message.as_string())
            return "250 accepted"

        return deliver

    return build


def test_a_filter_that_works_has_no_fault_and_nothing_is_left(
    server: Callable[..., Callable[[EmailMessage], str]], maildir: Path
) -> None:
    (maildir / "cur").mkdir()
    (maildir / "cur" / "left").write_text("Message-ID: <former@mailkeep.invalid>\n\nleft by a proof that was killed\n")
    assert prove_filter(server(), refuses=True) == {}
    assert [file for file in maildir.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize(
    ("fault", "canary", "text"),
    [
        ({"junk": ""}, "junk", "landed in INBOX, not in Junk"),
        ({"junk": ".Spam"}, "junk", "landed in Spam, not in Junk"),
        ({"verdict": ""}, "plain", "was not judged: X-Mailkeep-Spam: none"),
        ({"verdict": "nobody looked: the spam filter was down"}, "plain", "was not judged: X-Mailkeep-Spam: nobody"),
        ({"refusal": "250 accepted"}, "gtube", "was answered with 250 accepted, not refused"),
        ({"refusal": "451 4.7.1 try again"}, "gtube", "was answered with 451 4.7.1 try again, not refused"),
    ],
)
def test_each_fault_is_named(
    server: Callable[..., Callable[[EmailMessage], str]], fault: dict[str, str], canary: str, text: str
) -> None:
    assert text in prove_filter(server(**fault), refuses=True)[canary]


@pytest.mark.slow
def test_mail_that_is_lost_refused_or_not_sent_is_named() -> None:
    def refuse_connection(_: EmailMessage) -> str:
        raise ConnectionRefusedError(111, "Connection refused")

    assert prove_filter(lambda _: "250 ok", refuses=True)["plain"].startswith("did not arrive within")
    assert prove_filter(lambda _: "451 down", refuses=True)["junk"] == "was answered with 451 down"
    assert prove_filter(refuse_connection, refuses=True) == dict.fromkeys(
        ("plain", "junk", "gtube"), "was not sent: Connection refused"
    )
