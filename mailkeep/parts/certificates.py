"""The certificate and its key, from the vault: a rebuilt server shows the same one."""

from mailkeep.part import Check, Directory, File, Part
from mailkeep.secrets import Tls

DIRECTORY = "/etc/mailkeep/tls"
CERTIFICATE = f"{DIRECTORY}/certificate.pem"
KEY = f"{DIRECTORY}/key.pem"


# doveconf and `postfix check` do not look into these files.
_BELONG_TOGETHER = f"""certificate=$(openssl x509 -noout -pubkey -in {CERTIFICATE}) || exit
key=$(openssl pkey -pubout -in {KEY}) || exit
[ "$certificate" = "$key" ] || {{ echo "{KEY} is not the key of {CERTIFICATE}."; exit 1; }}"""


def part(tls: Tls) -> Part:
    return Part(
        name="certificates",
        packages=("ca-certificates", "openssl"),
        directories=(Directory("/etc/mailkeep"), Directory(DIRECTORY)),
        files=(File(CERTIFICATE, tls.certificate), File(KEY, tls.key, mode=0o600, secret=True)),
        checks=(Check(_BELONG_TOGETHER, reads=(DIRECTORY,)),),
    )
