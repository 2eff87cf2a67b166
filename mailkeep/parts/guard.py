"""The guard: a stolen password sends a few mails, then nothing. The program is `mailkeep_server.guard`."""

import json
from pathlib import Path

from mailkeep.parts import postfix
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, StateFile, Unit, User
from mailkeep.parts.server_package import DIRECTORY, PYTHON
from mailkeep.settings.models import Settings
from mailkeep.settings.sections import SharedStore
from mailkeep.templating import render_template
from mailkeep_server.common import paths

USER, READERS = "mailkeep-guard", "dovecot"
SERVICE_FILE = f"{SYSTEMD}/{paths.GUARD_SERVICE}"
SOCKET_FILE = f"{SYSTEMD}/mailkeep-guard.socket"


def build_part(settings: Settings, store_password: str | None) -> Part:
    """`store_password` is needed when `guard.shared_store` is set."""
    store = settings.guard.shared_store
    store_files = [_build_store_file(store, store_password)] if store else []
    service = render_template(
        "guard/mailkeep-guard.service", user=USER, readers=READERS, python=PYTHON, has_network=store is not None
    )
    sockets = render_template(
        "guard/mailkeep-guard.socket",
        policy=paths.GUARD_POLICY_SOCKET,
        milter=paths.GUARD_MILTER_SOCKET,
        incoming=paths.GUARD_INCOMING_SOCKET,
    )
    frozen = Path(paths.FREEZE_LIST).parent
    return Part(
        name="guard",
        packages=("python3",),
        users=(User(USER, home=paths.GUARD_STATE),),
        directories=(
            Directory(paths.ETC),
            Directory(paths.GUARD_STATE, USER, USER, 0o711),
            # setgid: Dovecot's auth process reads the file that the guard replaces.
            Directory(str(frozen), USER, READERS, 0o2750),
        ),
        files=(
            File(paths.GUARD_CONFIG, _build_config(settings), "root", USER, 0o640),
            *store_files,
            File(SERVICE_FILE, service),
            File(SOCKET_FILE, sockets),
        ),
        absent=() if store else (paths.GUARD_SHARED_STORE,),
        units=(
            Unit("mailkeep-guard.socket", restart_on=(SOCKET_FILE,)),
            Unit(
                paths.GUARD_SERVICE,
                restart_on=(f"{DIRECTORY}/", paths.GUARD_SHARED_STORE, SERVICE_FILE),
                reload_on=(paths.GUARD_CONFIG,),
                state=(
                    *(StateFile(f"{paths.GUARD_STATE}/{name}", USER, USER) for name in paths.GUARD_DATABASE_FILES),
                    StateFile(paths.FREEZE_LIST, USER, READERS, required=True),
                    StateFile(str(frozen / "lock"), USER, READERS),
                ),
            ),
        ),
        kept=(paths.GUARD_STATE,),
        checks=(Check(f"{PYTHON} guard --check {paths.GUARD_CONFIG}", reads=(f"{DIRECTORY}/", paths.GUARD_CONFIG)),),
    )


def _build_config(settings: Settings) -> bytes:
    """JSON, as `guard.config.load_config` reads it."""
    common_limits = settings.effective_limits(settings.guard.limits)
    accounts = {}
    for account in settings.accounts:
        limits = settings.effective_limits(account.limits)
        overrides = {"limits": limits} if limits != common_limits else {}
        accounts[account.address] = {"addresses": list(account.send_as), **overrides}
    config = {
        "mode": settings.guard.mode,
        "contact": f"postmaster@{settings.host.name}",
        "release_address": settings.release_address,
        "limits": common_limits,
        "accounts": accounts,
        "domains": [*settings.domains, settings.host.name],
        "server": settings.guard.server.model_dump(),
        "local": settings.guard.local.model_dump(),
        "forwards": settings.guard.forwards.model_dump(),
        "lists": settings.guard.lists.model_dump(),
        "aliases": {alias: list(targets) for alias, targets in postfix.list_aliases(settings).items()},
        "catch_all": {domain: [target] for domain, target in settings.catch_all.items()},
        "freeze": settings.guard.freeze.model_dump(),
        "holds": settings.guard.holds.model_dump(),
        "receiving": settings.guard.receiving.model_dump(exclude={"exempt"}),
        "exempt_networks": [*map(str, (*settings.guard.receiving.exempt, *settings.forwarders))],
    }
    return json.dumps(config, indent=1).encode() + b"\n"


def _build_store_file(store: SharedStore, password: str | None) -> File:
    """JSON, as `guard.config.load_shared_store` reads it."""
    content = json.dumps(store.model_dump() | {"password": password}, indent=1).encode() + b"\n"
    return File(paths.GUARD_SHARED_STORE, content, "root", USER, 0o640, secret=True)
