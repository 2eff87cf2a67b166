"""What to do about mail that fails DMARC: by whose it is, and by its likely cause."""

from collections.abc import Iterable, Iterator
from typing import Literal

from mailkeep.dns.received_reports import Source
from mailkeep_server.common.domain_names import are_related

Fault = Literal["changed", "foreign", "unsigned"]
MAX_STEPS = 3

_FORWARDER_STEP = (
    "A forwarder of mail.yml: what it brings here comes in, and others refuse what it changes. Ask it to leave mail "
    "as they are, or to write its own address into From."
)
_STEPS: dict[str, dict[Fault, str]] = {
    "forwarder": {"changed": _FORWARDER_STEP, "foreign": _FORWARDER_STEP, "unsigned": _FORWARDER_STEP},
    "own": {
        "changed": "This server signed, and the signature did not verify. `mailkeep dns NAME --check` compares the "
        "DKIM record.",
        "foreign": "This server passes on mail that {signer} signed. Have its author's server sign as {domain}.",
        "unsigned": "`mailkeep dns NAME --check` compares the SPF record with this address. What it passes on for "
        "others (inbound.trusted, forwarders), it does not sign: have them sign as {domain}, or log in.",
    },
    "spf": {
        "changed": "It signs as {domain}, and the signature does not verify. Publish the DKIM key that it signs with.",
        "foreign": "dns.spf names it, but its envelope sender is of another domain. In its settings, have it sign as "
        "{domain} instead of {signer}.",
        "unsigned": "dns.spf names it, but its envelope sender is of another domain, and it does not sign. Have it "
        "sign as {domain}.",
    },
}
_OTHERS_STEPS: dict[Fault, str] = {
    "changed": "A list or forwarder that changes mail: ask it to write its own address into From. For what it brings "
    "here, name it in inbound.trusted_sealers or forwarders.",
    "foreign": "If {signer} sends for you, have it sign as {domain}. If not, it is forged, and there is nothing to do.",
    "unsigned": "If it is yours, add it to dns.spf, or to inbound.trusted if it writes to here only. If not, it is "
    "forged, and there is nothing to do.",
}


def list_steps(domain: str, sources: Iterable[Source]) -> Iterator[str]:
    """One for each kind of failure, with the source that fails most; the largest first. `sources` have failed. Many
    small ones without an address are passed over."""
    steps: dict[tuple[str, Fault], str] = {}
    for source in sorted((source for source in sources if source.address), key=lambda source: -source.failed):
        fault = _find_fault(domain, source)
        step = _STEPS.get(source.kind, _OTHERS_STEPS)[fault]
        signer = next(_list_foreign_signers(domain, source), "")
        steps.setdefault((source.kind, fault), f"{source.address}: {step.format(domain=domain, signer=signer)}")
    yield from [*steps.values()][:MAX_STEPS]


def _find_fault(domain: str, source: Source) -> Fault:
    """The likely cause of most failures."""
    if 2 * source.changed >= source.failed:
        return "changed"
    return "foreign" if any(_list_foreign_signers(domain, source)) else "unsigned"


def _list_foreign_signers(domain: str, source: Source) -> Iterator[str]:
    return (signer for signer in source.signers if not are_related(signer, domain))
