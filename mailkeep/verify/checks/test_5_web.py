"""What is served over HTTPS."""

from mailkeep.parts import web
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult


def test_what_is_served_over_https_can_be_had(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """Over HTTPS, everybody gets what mail.yml has served there."""
    answers = seen["web"]["answers"]
    fail_if_any(
        (
            f"https://{page.name}{page.path}: {_first_line(answers[page.name])}"
            for page in _pages(settings)
            if not _is(answers[page.name], page)
        ),
        expected="the text that was declared",
        remedy=f"`systemctl status mailkeep-web` says why not; {deploy} puts it in place.",
    )


def _is(answer: str, page: web.Page) -> bool:
    head, _, body = answer.partition("\r\n\r\n")
    return head.startswith("HTTP/1.1 200 ") and body == page.content.decode()


def _first_line(answer: str) -> str:
    return answer.splitlines()[0] if answer else "no answer"


def test_nothing_else_is_served_over_https(seen: ProbeResult, settings: Settings, deploy: str) -> None:
    """Over HTTPS, whatever else is asked for, nobody gets an answer."""
    _pages(settings)
    fail_if_any(
        (f"asked for {asked}: {_first_line(answer)}" for asked, answer in seen["web"]["others"].items() if answer),
        expected="the connection closed",
        remedy=f"{deploy} restores the web server's configuration.",
    )


def _pages(settings: Settings) -> tuple[web.Page, ...]:
    if pages := web.list_pages(settings):
        return pages
    raise CheckSkippedError("nothing is served over HTTPS")
