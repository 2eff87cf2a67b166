"""The guard: a stolen password sends a few mails, then nothing. The program itself is `mailkeep_server.guard`."""

import json
from pathlib import Path

from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, User
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import SharedStore
from mailkeep.templating import render_template

USER = "mailkeep-guard"
CONFIG = "/etc/mailkeep/guard.json"
STORE = "/etc/mailkeep/guard-store.json"
STATE = f"/var/lib/{USER}"
FROZEN = f"{STATE}/frozen/accounts"
POLICY_SOCKET = "/run/mailkeep-guard.policy"
MILTER_SOCKET = "/run/mailkeep-guard.milter"


def build_part(settings: Settings, store_password: str | None) -> Part:
    """`store_password` is needed when `settings.guard` names a store."""
    return Part(
        name="guard",
        packages=("python3",),
        users=(User(USER, home=STATE),),
        directories=(
            Directory("/etc/mailkeep"),
            Directory(STATE, USER, USER, 0o711),
            # setgid: Dovecot's auth process (group dovecot) reads the file that the guard replaces.
            Directory(str(Path(FROZEN).parent), USER, "dovecot", 0o2750),
        ),
        files=(
            File(CONFIG, _config(settings), "root", USER, 0o640),
            *(
                [File(STORE, _store(settings.guard.shared_store, store_password), "root", USER, 0o640, secret=True)]
                if settings.guard.shared_store
                else ()
            ),
            File(
                f"{SYSTEMD}/mailkeep-guard.service",
                render_template(
                    "guard/mailkeep-guard.service",
                    user=USER,
                    python=PYTHON,
                    network=settings.guard.shared_store is not None,
                ),
            ),
            File(
                f"{SYSTEMD}/mailkeep-guard.socket",
                render_template("guard/mailkeep-guard.socket", policy=POLICY_SOCKET, milter=MILTER_SOCKET),
            ),
        ),
        absent=() if settings.guard.shared_store else (STORE,),
        units=(
            Unit("mailkeep-guard.socket", restart_on=(f"{SYSTEMD}/mailkeep-guard.socket",)),
            Unit(
                "mailkeep-guard.service",
                restart_on=(DIRECTORY, STORE, f"{SYSTEMD}/mailkeep-guard.service"),
                reload_on=(CONFIG,),
            ),
        ),
        checks=(Check(f"{PYTHON} guard --check {CONFIG}", reads=(DIRECTORY, CONFIG)),),
    )


def _config(settings: Settings) -> bytes:
    """What `guard.config` reads."""
    everyone = settings.effective_limits(settings.guard.limits)
    accounts = {}
    for account in settings.accounts:
        limits = settings.effective_limits(account.limits)
        own = {"limits": limits} if limits != everyone else {}
        accounts[account.address] = {"addresses": list(account.send_as), **own}
    config = {
        "mode": settings.guard.mode,
        "contact": f"postmaster@{settings.host.name}",
        "limits": everyone,
        "accounts": accounts,
        "server": settings.guard.server.model_dump(),
        "local": settings.guard.local.model_dump(),
        "freeze": settings.guard.freeze.model_dump(),
    }
    return json.dumps(config, indent=1).encode() + b"\n"


def _store(store: SharedStore, password: str | None) -> bytes:
    """What `guard.config.load_place` reads."""
    return json.dumps(store.model_dump() | {"password": password}, indent=1).encode() + b"\n"
