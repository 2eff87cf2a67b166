"""Mailkeep builds a hardened Debian mail server from one YAML file and proves that it withstands abuse."""


def __getattr__(name: str) -> str:
    """`__version__`, from the installed package; looked up on demand, since that takes longer than the import."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version(__name__)
