"""The texts that the server offers over HTTPS."""

from mailkeep.parts import web
from mailkeep.settings.models import Settings
from mailkeep.verify.outcome import CheckSkippedError, fail_if_any
from mailkeep.verify.target import ProbeResult


def test_what_is_served_over_https_can_be_had(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Over HTTPS, everybody gets the texts that mail.yml serves."""
    pages = _list_pages(settings)
    answers = observed["web"]["answers"]
    fail_if_any(
        (
            f"https://{page.name}{page.path}: {_first_line(answers[page.name])}"
            for page in pages
            if not _has_content(answers[page.name], page)
        ),
        expected="the declared text",
        remedy=f"`systemctl status mailkeep-web` says why not; {deploy} restores it.",
    )


def _has_content(answer: str, page: web.Page) -> bool:
    head, _, body = answer.partition("\r\n\r\n")
    return head.startswith("HTTP/1.1 200 ") and body == page.content.decode()


def _first_line(answer: str) -> str:
    return answer.splitlines()[0] if answer else "no answer"


def test_nothing_else_is_served_over_https(observed: ProbeResult, settings: Settings, deploy: str) -> None:
    """Over HTTPS, any other request gets no answer."""
    _list_pages(settings)
    others = observed["web"]["others"]
    fail_if_any(
        (f"request for {request}: {_first_line(answer)}" for request, answer in others.items() if answer),
        expected="a closed connection",
        remedy=f"{deploy} restores the web server's configuration.",
    )


def _list_pages(settings: Settings) -> tuple[web.Page, ...]:
    """Raises CheckSkippedError when there are none."""
    if pages := web.list_pages(settings):
        return pages
    raise CheckSkippedError("nothing is served over HTTPS")
