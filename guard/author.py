"""Who a message says it is from: the From: and Sender: lines that people see (RFC 5322 section 3.6.2).

The envelope sender is Postfix's to check; readers never see it. Here the rule is the same for what they do see: every
address in these lines belongs to the login. What cannot be read with certainty is refused: mail programs would each
read it in their own way.
"""

import re
from collections.abc import Callable, Iterable
from email import policy
from email.errors import HeaderParseError
from email.headerregistry import Address

AUTHORS = frozenset({"from", "sender", "resent-from", "resent-sender"})
LONGEST = 8192
"""Characters of a line, unfolded."""

_ADDRESS = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]+@[\w-]+(?:\.[\w-]+)+")


def foreign(headers: Iterable[tuple[str, str]], owns: Callable[[str], bool]) -> str | None:
    """What in these header lines (name, value) does not belong to who sends them, in words; None when all does."""
    authors = [(name.lower(), value) for name, value in headers if name.lower() in AUTHORS]
    if (count := sum(name == "from" for name, _ in authors)) != 1:
        return f"{count} From: lines, and there must be one"
    return next((found for name, value in authors if (found := _foreign(name, value, owns))), None)


def _foreign(name: str, value: str, owns: Callable[[str], bool]) -> str | None:
    line = f"the {name.capitalize()}: line"
    for address in (addresses := _addresses(name, value)):
        for one in (address.addr_spec, *_ADDRESS.findall(address.display_name)):
            if not owns(one):
                return f"{one} in {line}"
    return None if addresses else f"{line}, which cannot be read"


def _addresses(name: str, value: str) -> tuple[Address, ...]:
    """Those of a header line, if it is beyond doubt which they are."""
    unfolded = re.sub(r"\r?\n(?=[ \t])", "", value).replace("\t", " ")
    if len(unfolded) > LONGEST or not unfolded.isprintable():
        return ()
    try:
        header = policy.SMTP.header_factory(name, unfolded)
        return () if header.defects else header.addresses
    except (HeaderParseError, ValueError, IndexError, AttributeError):  # email's parser raises all of these
        return ()
