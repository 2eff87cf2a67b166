"""Verifies the signatures of a message: DKIM (RFC 6376) and ARC (RFC 8617), by dkimpy.

dkimpy wants a message as a whole. It gets the headers; the body was hashed while it came in (`body_hash`).
"""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mailkeep_server.common.domain_names import are_related
from mailkeep_server.inbound.body_hash import RELAXED, SIMPLE, BodyHash
from mailkeep_server.inbound.libraries import dkim
from mailkeep_server.inbound.lookups import LookupFailedError, Lookups

MAX_SIGNATURES = 8
"""Signatures that are verified. Those of the author's domain come first, so that no others crowd them out."""
MAX_ARC_SETS = 50  # RFC 8617 section 4.2.1
MAX_SIGNATURE_BYTES = 8192
PASS, FAIL, NONE, TEMPERROR, PERMERROR = "pass", "fail", "none", "temperror", "permerror"

_SIGNATURE, _ARC_SIGNATURE = b"dkim-signature", b"arc-message-signature"
_ARC_HEADERS = (_ARC_SIGNATURE, b"arc-seal", b"arc-authentication-results")
_LONG_BLANKS = re.compile(rb"\s{100}")
"""dkimpy's patterns take a time that grows with the square of blanks in a row."""
Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class SignatureResult:
    """The result for a DKIM signature. `key` is the beginning of its `b=` tag, which tells it from others."""

    result: str
    domain: str = ""
    selector: str = ""
    key: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ChainResult:
    """The result for the ARC chain. `sealer` made its last set, and `claims` are what that set says of the message."""

    result: str
    sealer: str = ""
    claims: str = ""


class BodyHashes:
    """The hashes that the signatures of a message need."""

    def __init__(self, headers: Sequence[Header]) -> None:
        signatures = [value for name, value in headers if name.lower() in (_SIGNATURE, _ARC_SIGNATURE)]
        forms = {_find_body_form(_read_tags(value)) for value in signatures}
        self._hashes = {form: BodyHash(form) for form in forms}
        self._digests: dict[str, bytes] = {}

    def update(self, data: bytes) -> None:
        for body_hash in self._hashes.values():
            body_hash.update(data)

    def finish(self) -> None:
        self._digests = {form: body_hash.finish() for form, body_hash in self._hashes.items()}

    def check_tags(self, tags: dict[bytes, bytes]) -> None:
        """Raises dkim.DKIMException if the signature is not over the whole of this body. One over its beginning (`l=`)
        proves nothing: anybody can add to it (RFC 6376 section 8.2)."""
        form = _find_body_form(tags)
        if self._digests.get(form) != base64.b64decode(re.sub(rb"\s+", b"", tags[b"bh"])):
            raise dkim.ValidationError("the body is not as it was signed")


def _read_tags(value: bytes) -> dict[bytes, bytes]:
    """Empty if they cannot be read."""
    if len(value) > MAX_SIGNATURE_BYTES or _LONG_BLANKS.search(value):
        return {}
    try:
        tags: dict[bytes, bytes] = dkim.util.parse_tag_value(value)
    except (dkim.util.InvalidTagValueList, IndexError):
        return {}
    return tags


def _find_body_form(tags: dict[bytes, bytes]) -> str:
    default = b"relaxed/relaxed" if b"i" in tags and tags[b"i"].isdigit() else b"simple/simple"  # an ARC set's
    return RELAXED if tags.get(b"c", default).partition(b"/")[2].strip() == b"relaxed" else SIMPLE


class _KeyReader:
    """Reads keys for dkimpy, and remembers whether the DNS failed: dkimpy does not tell that."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self.fault = ""

    def __call__(self, name: bytes, timeout: int = 0) -> bytes | None:  # noqa: ARG002
        try:
            texts = self._lookups.read_texts(name.decode("ascii", "replace"))
        except LookupFailedError as error:
            self.fault = str(error)
            raise dkim.DnsTimeoutError(self.fault) from None
        return texts[0].encode("utf-8", "replace") if texts else None


class _StreamedDkim(dkim.DKIM):  # type: ignore[misc]
    def __init__(self, headers: Sequence[Header], hashes: BodyHashes) -> None:
        super().__init__()
        self.headers, self._hashes = list(headers), hashes

    def verify_sig(self, sig: dict[bytes, bytes], names: list[bytes], header: Header, key_reader: _KeyReader) -> bool:
        self._hashes.check_tags(sig)
        others = {tag: value for tag, value in sig.items() if tag != b"bh"}
        return bool(super().verify_sig(others, names, header, key_reader))


class _StreamedArc(dkim.ARC):  # type: ignore[misc]
    def __init__(self, headers: Sequence[Header], hashes: BodyHashes) -> None:
        super().__init__()
        self.headers, self._hashes = list(headers), hashes

    def verify_sig(self, sig: dict[bytes, bytes], names: list[bytes], header: Header, key_reader: _KeyReader) -> bool:
        if b"bh" in sig:  # a seal has none
            self._hashes.check_tags(sig)
        others = {tag: value for tag, value in sig.items() if tag != b"bh"}
        return bool(super().verify_sig(others, names, header, key_reader))


def verify_signatures(
    headers: Sequence[Header], hashes: BodyHashes, lookups: Lookups, authors: Sequence[str]
) -> list[SignatureResult]:
    """The result of each DKIM signature. `authors` are the domains in From:."""
    signatures = [header for header in headers if header[0].lower() == _SIGNATURE]
    signatures.sort(key=lambda header: not _is_related(_decode_domain(_read_tags(header[1])), authors))
    others = [header for header in headers if header[0].lower() != _SIGNATURE]
    return [_verify_signature(header, others, hashes, lookups) for header in signatures[:MAX_SIGNATURES]]


def _is_related(domain: str, authors: Sequence[str]) -> bool:
    return any(are_related(domain, author) for author in authors)


def _verify_signature(
    header: Header, others: Sequence[Header], hashes: BodyHashes, lookups: Lookups
) -> SignatureResult:
    tags = _read_tags(header[1])
    selector = tags.get(b"s", b"").decode("ascii", "replace").lower()
    domain, key = _decode_domain(tags), re.sub(rb"\s", b"", tags.get(b"b", b""))[:8].decode("ascii", "replace")
    if fault := _find_tag_fault(tags):
        return SignatureResult(PERMERROR, domain, selector, key, fault)
    reader = _KeyReader(lookups)
    try:
        is_valid = _StreamedDkim([header, *others], hashes).verify(0, reader)
        reason = "" if is_valid else "the signature does not fit"
    except dkim.KeyFormatError as error:
        return SignatureResult(PERMERROR, domain, selector, key, str(error))
    except dkim.DKIMException as error:
        is_valid, reason = False, str(error)
    except Exception as error:  # what dkimpy raises for malformed tags is not declared
        return SignatureResult(PERMERROR, domain, selector, key, f"cannot be read ({type(error).__name__})")
    if reader.fault:
        return SignatureResult(TEMPERROR, domain, selector, key, reader.fault)
    return SignatureResult(PASS if is_valid else FAIL, domain, selector, key, reason)


def _find_tag_fault(tags: dict[bytes, bytes]) -> str:
    if not tags:
        return "it cannot be read"
    if tags.get(b"a") == b"rsa-sha1":
        return "rsa-sha1 proves nothing (RFC 8301)"
    if b"from" not in [name.strip().lower() for name in tags.get(b"h", b"").split(b":")]:
        return "it does not cover From:"
    return ""


def _decode_domain(tags: dict[bytes, bytes]) -> str:
    return tags.get(b"d", b"").decode("ascii", "replace").lower().removesuffix(".")


def verify_chain(headers: Sequence[Header], hashes: BodyHashes, lookups: Lookups) -> ChainResult:
    """The result of the ARC chain."""
    chain = [header for header in headers if header[0].lower() in _ARC_HEADERS]
    if not chain:
        return ChainResult(NONE)
    if len(chain) > MAX_ARC_SETS * len(_ARC_HEADERS) or any(map(_is_unreadable, chain)):
        return ChainResult(FAIL)
    reader = _KeyReader(lookups)
    try:
        result, sets, _ = _StreamedArc(headers, hashes).verify(reader)
    except Exception:  # what dkimpy raises for malformed tags is not declared
        return ChainResult(FAIL)
    if reader.fault:
        return ChainResult(TEMPERROR)
    if result != dkim.CV_Pass:
        return ChainResult(FAIL)
    sealer = sets[0]["as-domain"].decode("ascii", "replace").lower().removesuffix(".")
    return ChainResult(PASS, sealer, sets[0]["aar-value"].decode("utf-8", "replace"))


def _is_unreadable(header: Header) -> bool:
    return header[0].lower() != b"arc-authentication-results" and not _read_tags(header[1])


def list_passed(results: Sequence[SignatureResult]) -> Iterator[str]:
    """The domains whose signatures are valid."""
    return (result.domain for result in results if result.result == PASS)
