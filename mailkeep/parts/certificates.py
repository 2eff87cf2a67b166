"""The certificate that the server shows. Its key is always the vault's; the certificate is too, or comes by ACME.

Key and chain are one file: no service can read a key with a certificate of another. The key outlives renewals and a
rebuild, so TLSA records can be printed before there is a server.
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
from mailkeep_server.common import paths

DIRECTORY = f"{paths.ETC}/tls"
PEM = f"{DIRECTORY}/server.pem"
"""Key and certificate chain, in this order."""
KEY = f"{DIRECTORY}/acme.key"
CREDENTIALS = f"{paths.ETC}/acme.env"
CONFIG = f"{paths.ETC}/acme.json"
STATE = "/var/lib/mailkeep-certificate"
TROUBLES = f"{STATE}/troubles.json"
RUN = "/run/mailkeep-certificate"
LEGO_OUTPUT = f"{RUN}/lego-output"
ACCOUNT = "/var/lib/mailkeep-acme"
CERTIFICATE_READERS = ("postfix.service", "dovecot.service", "mailkeep-web.service")
ORDER, SERVICE, TIMER = "mailkeep-acme.service", "mailkeep-certificate.service", "mailkeep-certificate.timer"
STARTED_BY_OTHERS = (f"{SYSTEMD}/{ORDER}", f"{SYSTEMD}/{SERVICE}")
UNITS = (*STARTED_BY_OTHERS, f"{SYSTEMD}/{TIMER}")
FORMER_FILES = (f"{DIRECTORY}/certificate.pem", f"{DIRECTORY}/key.pem")
PROGRAM = f"{server_package.DIRECTORY}/"

# Neither doveconf nor `postfix check` reads this file.
_KEY_FITS_CERTIFICATE = f"""certificate=$(openssl x509 -noout -pubkey -in {PEM}) || exit
key=$(openssl pkey -pubout -in {PEM}) || exit
[ "$certificate" = "$key" ] || {{ echo "{PEM}: its key is not the key of its certificate."; exit 1; }}"""


def build_part(settings: Settings, secrets: Secrets) -> Part:
    by_acme = settings.tls.mode == "acme"
    pem = File(PEM, secrets.tls.key + secrets.tls.certificate, mode=0o600, secret=True, create_only=by_acme)
    common = Part(
        name="certificates",
        packages=("ca-certificates", "openssl"),
        directories=(Directory(paths.ETC), Directory(DIRECTORY)),
        files=(pem,),
        absent=FORMER_FILES,
        checks=(Check(_KEY_FITS_CERTIFICATE, reads=(PEM,)),),
    )
    return _add_renewal(common, settings, secrets) if by_acme else _remove_renewal(common)


def _remove_renewal(common: Part) -> Part:
    """All files of a former ACME setup go, so that nothing asks for a certificate any more; the package stays."""
    return replace(common, absent=(*common.absent, *UNITS, KEY, CREDENTIALS, CONFIG))


def _add_renewal(common: Part, settings: Settings, secrets: Secrets) -> Part:
    """Until the authority has issued a certificate, the key has a self-signed one, so that services can start."""
    provider = settings.tls.acme.provider
    return replace(
        common,
        packages=(*common.packages, "lego", "python3"),
        files=(
            *common.files,
            File(KEY, secrets.tls.key, mode=0o600, secret=True),
            *(
                [File(CREDENTIALS, _format_environment(secrets.dns_credentials), mode=0o600, secret=True)]
                if secrets.dns_credentials
                else ()
            ),
            File(CONFIG, _build_config(settings)),
            *(File(unit, _render_unit(Path(unit).name, settings)) for unit in UNITS),
        ),
        absent=(*common.absent, *(() if secrets.dns_credentials else (CREDENTIALS,))),
        kept=(PEM, STATE, ACCOUNT),
        units=(Unit(TIMER, restart_on=(KEY, CREDENTIALS, PROGRAM, CONFIG, *UNITS)),),
        checks=(
            *common.checks,
            Check(f"openssl pkey -noout -in {KEY}", reads=(KEY,)),
            Check(f"{server_package.PYTHON} certificate-renewal --check {CONFIG}", reads=(PROGRAM, CONFIG)),
            *(unit_check(unit, unit) for unit in STARTED_BY_OTHERS),
            *([Check(f"lego dnshelp --code {provider}", reads=(CONFIG,))] if provider else ()),
        ),
    )


def _build_config(settings: Settings) -> bytes:
    """`mailkeep_server.certificate_renewal.RenewalConfig`."""
    acme = settings.tls.acme
    config = {
        "names": settings.certificate_names,
        "directory_url": acme.directory,
        "contact": acme.contact or settings.admin.addresses[0],
        "challenge": acme.challenge,
        "provider": acme.provider,
        "pem_file": PEM,
        "key_file": KEY,
        "credentials_file": CREDENTIALS,
        "services": CERTIFICATE_READERS,
        "order_unit": ORDER,
        "request_file": f"{RUN}/request.csr",
        "output_file": LEGO_OUTPUT,
        "account_directory": ACCOUNT,
        "issued_file": f"{ACCOUNT}/issued.pem",
        "state_directory": STATE,
    }
    return f"{json.dumps(config, indent=1)}\n".encode()


def _render_unit(name: str, settings: Settings) -> bytes:
    """The timer runs in a second of the hour that depends on the host name: not all hosts ask at the same time."""
    minute, second = divmod(int.from_bytes(hashlib.sha256(settings.host.name.encode()).digest()) % 3600, 60)
    return render_template(
        f"acme/{name}",
        python=server_package.PYTHON,
        config=CONFIG,
        credentials=CREDENTIALS,
        output=LEGO_OUTPUT,
        state=Path(STATE).name,
        directory=DIRECTORY,
        minute=minute,
        second=second,
    )


def _format_environment(variables: DnsCredentials) -> bytes:
    """An EnvironmentFile of systemd.exec(5): within double quotes, `\\`, `"`, `$` and a backquote need a backslash."""
    escaped = {name: re.sub(r'(["$`\\])', r"\\\1", value) for name, value in variables.items()}
    return "".join(f'{name}="{value}"\n' for name, value in escaped.items()).encode()
