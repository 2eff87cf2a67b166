"""One-time codes by which owners of accounts end a hold: addresses `release+CODE@HOST`, to which they reply.

The code is the proof. It is in no file but the message that asks for the reply, and the guard keeps its digest.
"""

from hashlib import sha256
from secrets import token_hex

LOCAL_PART = "release"
CODE_BYTES = 16
"""Nobody guesses 128 bits. In hexadecimal digits: some programs change the case of addresses."""


def make_code() -> str:
    return token_hex(CODE_BYTES)


def build_address(host: str, code: str = "") -> str:
    """Where to reply; without a code, the address that Postfix knows."""
    return f"{LOCAL_PART}+{code}@{host}" if code else f"{LOCAL_PART}@{host}"


def digest_code(code: str) -> str:
    return sha256(code.encode()).hexdigest()


def find_digest(recipient: str, release_address: str) -> str | None:
    """Of the code in a recipient, perhaps of none. None if it is another address, or if no account has such codes."""
    local_part, _, domain = recipient.lower().rpartition("@")
    name, _, code = local_part.partition("+")
    return digest_code(code) if release_address and f"{name}@{domain}" == release_address else None


def shorten_address(address: str) -> str:
    """`anna@example.net` as `a...@e...`: enough for those who know it."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part[:1]}...@{domain[:1]}..."
