"""The inventory as it is after a move, beside the one that the operator has: it becomes that at the end."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mailkeep.inventory.hosts import HOSTS_FILE, SETTINGS_FILE
from mailkeep.settings.edit_host import set_addresses

HOSTS = "hosts = [({name!r}, {data!r})]\n"


@contextmanager
def stage_inventory(
    directory: Path,
    name: str,
    data: Mapping[str, object],
    addresses: Iterable[object],
    forwarded_from: Iterable[object],
) -> Iterator[Path]:
    """A copy of the inventory, private, with one host: these data for SSH and these addresses. Raises UserError."""
    with tempfile.TemporaryDirectory(prefix="mailkeep-move-") as temporary:
        copy = Path(temporary) / directory.name
        shutil.copytree(directory, copy)
        set_addresses(copy / SETTINGS_FILE, addresses, forwarded_from)
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
        plain["mailkeep"] = str(copy / SETTINGS_FILE)
        (copy / HOSTS_FILE).write_text(HOSTS.format(name=name, data=plain))
        yield copy
