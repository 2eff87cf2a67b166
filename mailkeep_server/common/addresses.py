"""Mail addresses, as Postfix compares them."""


def owner_address(address: str) -> str:
    """The address that an account owns: lower case, without its +extension (Postfix's recipient_delimiter)."""
    local_part, _, domain = address.lower().rpartition("@")
    return f"{local_part.partition('+')[0]}@{domain}"
