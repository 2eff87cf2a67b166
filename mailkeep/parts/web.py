"""nginx: a few texts over HTTPS, to whoever asks for exactly them. Nothing of the mail server depends on it."""

from mailkeep.parts import certificates, web_pages
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User
from mailkeep.settings.models import Settings
from mailkeep.templating import render

DIRECTORY = "/etc/mailkeep/web"
PAGES = f"{DIRECTORY}/pages"
CONF = f"{DIRECTORY}/nginx.conf"
RUN = "/run/mailkeep-web"
USER = "mailkeep-web"
SERVICE = "mailkeep-web.service"
UNIT = f"{SYSTEMD}/{SERVICE}"


def part(settings: Settings) -> Part:
    """Where nothing is served, what an earlier setting left is stopped and removed; the package stays."""
    pages = web_pages.pages(settings)
    if not pages:
        return Part(name="web", absent=(UNIT, DIRECTORY))
    return Part(
        name="web",
        packages=("nginx",),
        users=(User(USER),),
        directories=(Directory("/etc/mailkeep"), Directory(DIRECTORY), Directory(PAGES, exclusive=True)),
        files=(
            File(CONF, _conf(settings, pages)),
            *(File(f"{PAGES}/{page.name}", page.content) for page in pages),
            File(UNIT, render(f"web/{SERVICE}", conf=CONF, run=RUN, user=USER)),
        ),
        units=(
            # The package brings it, enabled, with a page for everybody on port 80.
            Unit("nginx.service", enabled=False, running=False),
            Unit(SERVICE, restart_on=(UNIT,), reload_on=(CONF, certificates.DIRECTORY)),
        ),
        checks=(Check(f"mkdir -p {RUN} && nginx -t -q -c {CONF}", reads=(CONF, certificates.DIRECTORY)),),
    )


def _conf(settings: Settings, pages: tuple[web_pages.Page, ...]) -> bytes:
    return render(
        "web/nginx.conf",
        versions=sorted({address.version for address in settings.host.addresses}),
        pem=certificates.PEM,
        pages=pages,
        directory=PAGES,
        run=RUN,
        user=USER,
    )
