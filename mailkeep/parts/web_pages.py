"""What the server itself serves over HTTPS: a few small texts, each at one name and one path, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

from mailkeep.dns import mta_sts
from mailkeep.settings.models import Settings
from mailkeep.templating import render


@dataclass(frozen=True, slots=True)
class Page:
    """What https://NAME/PATH answers. `posted`: also to POST, and however the path is capitalised. `type` is the
    media type."""

    name: str
    path: str
    type: str
    content: bytes
    posted: bool = False


def pages(settings: Settings) -> tuple[Page, ...]:
    """One a name."""
    return tuple(page for domain in settings.domains for page in _pages(domain, settings))


def _pages(domain: str, settings: Settings) -> Iterator[Page]:
    if settings.serves_policy:
        # text/plain: RFC 8461 §3.2.
        yield Page(mta_sts.name(domain), mta_sts.PATH, "text/plain", mta_sts.policy(settings).encode())
    if settings.web.autoconfig:
        for_all, for_outlook = (
            render(f"web/{file}", domain=domain, host=settings.host.name)
            for file in ("config-v1.1.xml", "autodiscover.xml")
        )
        yield Page(f"autoconfig.{domain}", "/mail/config-v1.1.xml", "text/xml", for_all)
        yield Page(f"autodiscover.{domain}", "/autodiscover/autodiscover.xml", "text/xml", for_outlook, posted=True)
