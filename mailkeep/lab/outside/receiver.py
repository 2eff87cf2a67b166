"""What a receiving server makes of a message: SPF by pyspf, DKIM by dkimpy, DMARC by authheaders."""

from email import message_from_bytes, policy

import authheaders


def results(data: bytes, peer: str, helo: str, sender: str) -> dict[str, str]:
    """The result of each, and `policy`: what the From: domain wants done with mail that fails DMARC."""
    spf = authheaders.check_spf(peer, sender, helo)
    dkim = authheaders.check_dkim(data)
    # Not check_dmarc(), which ends a domain at its first hyphen.
    author = message_from_bytes(data, policy=policy.default)["From"].addresses[0].domain.lower()
    dmarc, _, _, wanted = authheaders.dmarc_per_from(author, spf_result=spf, dkim_result=dkim)
    return {"spf": spf.result, "dkim": dkim.result, "dmarc": dmarc, "policy": wanted}
