"""The checks of a receiving mail server: SPF by pyspf, DKIM by dkimpy, DMARC by authheaders."""

from email import message_from_bytes, policy

import authheaders


def check_message(data: bytes, peer: str, helo: str, sender: str) -> dict[str, str]:
    """The results of `spf`, `dkim` and `dmarc`; `policy` is the From: domain's for mail that fails DMARC."""
    spf = authheaders.check_spf(peer, sender, helo)
    dkim = authheaders.check_dkim(data)
    # Not check_dmarc(): it cuts a domain at its first hyphen.
    domain = message_from_bytes(data, policy=policy.default)["From"].addresses[0].domain.lower()
    dmarc, _, _, dmarc_policy = authheaders.dmarc_per_from(domain, spf_result=spf, dkim_result=dkim)
    return {"spf": spf.result, "dkim": dkim.result, "dmarc": dmarc, "policy": dmarc_policy}
