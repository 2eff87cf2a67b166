"""Mail addresses, as Postfix compares them."""

from hashlib import blake2b


def owner_address(address: str) -> str:
    """The address that an account owns: lower case, without its +extension (Postfix's recipient_delimiter)."""
    local_part, _, domain = address.lower().rpartition("@")
    return f"{local_part.partition('+')[0]}@{domain}"


def hash_text(text: str) -> int:
    """64 bits, signed. They suffice to recognise an address or a domain, and do not reveal it."""
    return int.from_bytes(blake2b(text.lower().encode(), digest_size=8).digest(), signed=True)
