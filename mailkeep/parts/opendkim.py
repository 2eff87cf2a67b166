"""OpenDKIM signs mail of the accounts and of the host itself. It does not verify incoming mail."""

from collections.abc import Iterable

from mailkeep.inventory.dkim_keys import DkimKey
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit
from mailkeep.templating import render_template

CONF = "/etc/opendkim.conf"
DIRECTORY = "/etc/opendkim"
KEYS = f"{DIRECTORY}/keys"
DROP_IN = f"{SYSTEMD}/opendkim.service.d"
FORWARDING_DAYS = 12
"""Days that a signature stays valid once the message has left: a forwarder's queue (RFC 5321 §4.5.4.1), and a week."""


def build_part(keys: Iterable[DkimKey], queue_days: int) -> Part:
    """`queue_days`: how long a message may wait here after it was signed."""
    keys = tuple(keys)
    conf = render_template(
        "opendkim/opendkim.conf",
        queue_days=queue_days,
        signature_seconds=(queue_days + FORWARDING_DAYS) * 86400,
    )
    return Part(
        name="opendkim",
        packages=("opendkim",),
        memberships=(("postfix", "opendkim"),),  # only Postfix may use its socket
        directories=(
            Directory(DIRECTORY),
            Directory(KEYS, "opendkim", "opendkim", 0o700, purge_unmanaged=True),
            Directory(DROP_IN),
        ),
        files=(
            File(CONF, conf),
            File(f"{DIRECTORY}/key.table", render_template("opendkim/key.table", keys=keys, directory=KEYS)),
            File(f"{DIRECTORY}/signing.table", render_template("opendkim/signing.table", keys=keys)),
            *(_key_file(key) for key in keys),
            File(f"{DROP_IN}/mailkeep.conf", render_template("opendkim/service.d/mailkeep.conf")),
        ),
        units=(Unit("opendkim.service", restart_on=(CONF, DIRECTORY, DROP_IN)),),
        checks=(
            Check(f"opendkim -n -x {CONF}", reads=(CONF, DIRECTORY)),
            *(Check(_signing_check(key.domain), reads=(CONF, DIRECTORY)) for key in keys),
        ),
    )


def _signing_check(domain: str) -> str:
    """A command that fails unless a message of this domain is signed: -n reads neither the tables nor the keys."""
    return (
        f"out=$(printf 'From: postmaster@{domain}\\n\\n' | runuser -u opendkim -- opendkim -x {CONF} -v -v -t - 2>&1); "
        f'echo "$out" | grep -q "INSHEADER.* d={domain};" || '
        f'{{ echo "A message from {domain} is not signed. OpenDKIM says:"; echo "$out"; exit 1; }}'
    )


def _key_file(key: DkimKey) -> File:
    return File(key_path(key.domain, key.selector), key.private_pem, "opendkim", "opendkim", 0o600, secret=True)


def key_path(domain: str, selector: str) -> str:
    return f"{KEYS}/{domain}.{selector}.pem"
