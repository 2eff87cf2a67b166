"""nginx serves a few fixed texts over HTTPS, each at one name and one path. The mail server does not depend on it."""

from collections.abc import Iterator
from dataclasses import dataclass

from mailkeep.dns import mta_sts
from mailkeep.parts import certificates
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

DIRECTORY = "/etc/mailkeep/web"
PAGES = f"{DIRECTORY}/pages"
CONF = f"{DIRECTORY}/nginx.conf"
RUN = "/run/mailkeep-web"
USER = "mailkeep-web"
SERVICE = "mailkeep-web.service"
UNIT = f"{SYSTEMD}/{SERVICE}"


@dataclass(frozen=True, slots=True)
class Page:
    """The answer of https://NAME/PATH. `media_type` is its Content-Type. With `accepts_post`, POST gets it too, and
    the case of the path does not matter."""

    name: str
    path: str
    media_type: str
    content: bytes
    accepts_post: bool = False


def build_part(settings: Settings) -> Part:
    """Without pages, remove the unit and files of an earlier setting; the nginx package stays installed."""
    pages = list_pages(settings)
    if not pages:
        return Part(name="web", absent=(UNIT, DIRECTORY))
    return Part(
        name="web",
        packages=("nginx",),
        users=(User(USER),),
        directories=(Directory("/etc/mailkeep"), Directory(DIRECTORY), Directory(PAGES, purge_unmanaged=True)),
        files=(
            File(CONF, _render_conf(settings, pages)),
            *(File(f"{PAGES}/{page.name}", page.content) for page in pages),
            File(UNIT, render_template(f"web/{SERVICE}", conf=CONF, run=RUN, user=USER)),
        ),
        units=(
            # Debian's package enables this unit, which serves a default page to everyone on port 80.
            Unit("nginx.service", enabled=False, running=False),
            Unit(SERVICE, restart_on=(UNIT,), reload_on=(CONF, certificates.DIRECTORY)),
        ),
        checks=(Check(f"mkdir -p {RUN} && nginx -t -q -c {CONF}", reads=(CONF, certificates.DIRECTORY)),),
    )


def _render_conf(settings: Settings, pages: tuple[Page, ...]) -> bytes:
    return render_template(
        "web/nginx.conf",
        versions=sorted({address.version for address in settings.host.addresses}),
        pem=certificates.PEM,
        pages=pages,
        directory=PAGES,
        run=RUN,
        user=USER,
    )


def list_pages(settings: Settings) -> tuple[Page, ...]:
    """All pages that the server serves: at most one for each name."""
    return tuple(page for domain in settings.domains for page in _domain_pages(domain, settings))


def _domain_pages(domain: str, settings: Settings) -> Iterator[Page]:
    if settings.serves_mta_sts_policy:
        # text/plain: RFC 8461 §3.2.
        yield Page(mta_sts.policy_host(domain), mta_sts.PATH, "text/plain", mta_sts.policy_text(settings).encode())
    if settings.web.autoconfig:
        config, autodiscover = (
            render_template(f"web/{file}", domain=domain, host=settings.host.name)
            for file in ("config-v1.1.xml", "autodiscover.xml")
        )
        yield Page(f"autoconfig.{domain}", "/mail/config-v1.1.xml", "text/xml", config)
        path = "/autodiscover/autodiscover.xml"
        yield Page(f"autodiscover.{domain}", path, "text/xml", autodiscover, accepts_post=True)
