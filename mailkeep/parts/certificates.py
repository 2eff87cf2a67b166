"""What the server shows: the key, always from the vault, and its certificate, from there too or by ACME.

Key and chain are one file, so that no service ever reads the one with a former other. By ACME the key is the vault's
all the same: TLSA records can be printed before there is a server, and outlive renewals and a rebuild.
"""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from mailkeep.inventory.credentials import DnsCredentials
from mailkeep.inventory.secrets import Secrets
from mailkeep.parts import server_package
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template

DIRECTORY = "/etc/mailkeep/tls"
PEM = f"{DIRECTORY}/server.pem"
WANTED = f"{DIRECTORY}/acme.key"
CREDENTIALS = "/etc/mailkeep/acme.env"
CONFIG = "/etc/mailkeep/acme.json"
PROGRAM = f"{server_package.DIRECTORY}/"
STATE = "/var/lib/mailkeep-certificate"
TROUBLES = f"{STATE}/troubles.json"
RUN = "/run/mailkeep-certificate"
REQUEST, SAID = f"{RUN}/request.csr", f"{RUN}/said"
ACCOUNT = "/var/lib/mailkeep-acme"
SERVICES = ("postfix.service", "dovecot.service", "mailkeep-web.service")  # that read the certificate
ORDER, SERVICE, TIMER = "mailkeep-acme.service", "mailkeep-certificate.service", "mailkeep-certificate.timer"
STARTED = (f"{SYSTEMD}/{ORDER}", f"{SYSTEMD}/{SERVICE}")  # by others; the timer itself is checked as every unit is
UNITS = (*STARTED, f"{SYSTEMD}/{TIMER}")
FORMER = (f"{DIRECTORY}/certificate.pem", f"{DIRECTORY}/key.pem")

# doveconf and `postfix check` do not look into this file.
_BELONG_TOGETHER = f"""certificate=$(openssl x509 -noout -pubkey -in {PEM}) || exit
key=$(openssl pkey -pubout -in {PEM}) || exit
[ "$certificate" = "$key" ] || {{ echo "{PEM}: its key is not the key of its certificate."; exit 1; }}"""


def build_part(settings: Settings, secrets: Secrets) -> Part:
    by_acme = settings.tls.mode == "acme"
    pem = File(PEM, secrets.tls.key + secrets.tls.certificate, mode=0o600, secret=True, create_only=by_acme)
    common = Part(
        name="certificates",
        packages=("ca-certificates", "openssl"),
        directories=(Directory("/etc/mailkeep"), Directory(DIRECTORY)),
        files=(pem,),
        absent=FORMER,
        checks=(Check(_BELONG_TOGETHER, reads=(PEM,)),),
    )
    return _by_acme(common, settings, secrets) if by_acme else _as_given(common)


def _as_given(common: Part) -> Part:
    """What ACME had brought goes, so that nothing asks for a certificate any more; the package stays."""
    return replace(
        common,
        absent=(*common.absent, *UNITS, WANTED, CREDENTIALS, CONFIG),
    )


def _by_acme(common: Part, settings: Settings, secrets: Secrets) -> Part:
    """Until there is a certificate of the authority's, the key has a self-signed one, so that services can start."""
    provider = settings.tls.acme.provider
    return replace(
        common,
        packages=(*common.packages, "lego", "python3"),
        files=(
            *common.files,
            File(WANTED, secrets.tls.key, mode=0o600, secret=True),
            *([File(CREDENTIALS, _environment(secrets.acme), mode=0o600, secret=True)] if secrets.acme else ()),
            File(CONFIG, _config(settings)),
            *(File(unit, _unit(Path(unit).name, settings)) for unit in UNITS),
        ),
        absent=(*common.absent, *(() if secrets.acme else (CREDENTIALS,))),
        units=(Unit(TIMER, restart_on=(WANTED, CREDENTIALS, PROGRAM, CONFIG, *UNITS)),),
        checks=(
            *common.checks,
            Check(f"openssl pkey -noout -in {WANTED}", reads=(WANTED,)),
            Check(
                f"{server_package.PYTHON} certificate-renewal --check {CONFIG}",
                reads=(PROGRAM, CONFIG),
            ),
            *(unit_check(unit, unit) for unit in STARTED),
            *([Check(f"lego dnshelp --code {provider}", reads=(CONFIG,))] if provider else ()),
        ),
    )


def _config(settings: Settings) -> bytes:
    """What `mailkeep_server.certificate_renewal` reads."""
    acme = settings.tls.acme
    config = {
        "names": settings.certificate_names,
        "directory": acme.directory,
        "contact": acme.contact or settings.admin.addresses[0],
        "challenge": acme.challenge,
        "provider": acme.provider,
        "certificate": PEM,
        "key": WANTED,
        "credentials": CREDENTIALS,
        "services": SERVICES,
        "order": ORDER,
        "request": REQUEST,
        "said": SAID,
        "account": ACCOUNT,
        "issued": f"{ACCOUNT}/issued.pem",
        "state": STATE,
    }
    return f"{json.dumps(config, indent=1)}\n".encode()


def _unit(name: str, settings: Settings) -> bytes:
    """An hour has a second for each host: the same one every time."""
    minute, second = divmod(int.from_bytes(hashlib.sha256(settings.host.name.encode()).digest()) % 3600, 60)
    return render_template(
        f"acme/{name}",
        python=server_package.PYTHON,
        config=CONFIG,
        credentials=CREDENTIALS,
        said=SAID,
        state=Path(STATE).name,
        directory=DIRECTORY,
        minute=minute,
        second=second,
    )


def _environment(variables: DnsCredentials) -> bytes:
    """As systemd.exec(5) has it: within double quotes, `\\`, `"`, `$` and a backquote need a backslash."""
    escaped = {name: re.sub(r'(["$`\\])', r"\\\1", value) for name, value in variables.items()}
    return "".join(f'{name}="{value}"\n' for name, value in escaped.items()).encode()
