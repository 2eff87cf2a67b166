"""How domain names stand to each other. They are in lower case, without a dot at the end."""


def is_within(name: str, domain: str) -> bool:
    """Whether a name is the domain, or below it."""
    return name == domain or name.endswith(f".{domain}")


def are_related(name: str, other: str) -> bool:
    """Whether one is the other, or below it."""
    return is_within(name, other) or is_within(other, name)
