"""dkimpy and pyspf, as Debian packages them. They are imported from here only."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

RESOLVER_MODULES = ("dns", "dns.resolver", "dns.exception")


def _import_without_resolver() -> tuple[Any, Any]:
    """Both import dnspython, for lookups that they are not asked for here. It would take more memory than all else."""
    placeholders = {name: ModuleType(name) for name in RESOLVER_MODULES if "dns" not in sys.modules}
    if placeholders:
        placeholders["dns"].rdatatype = SimpleNamespace(SPF=99)  # type: ignore[attr-defined]  # pyspf adds it else
        sys.modules.update(placeholders)
    try:
        import dkim
        import spf
    finally:
        for name in placeholders:
            del sys.modules[name]
    return dkim, spf


dkim, spf = _import_without_resolver()
