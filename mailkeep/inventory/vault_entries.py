"""Names of the entries of a vault."""

import re
from dataclasses import dataclass

SELF_SIGNED = "tls/self-signed"
TLS_KEY = "tls/key"
ACME_TLS = "tls/acme"
ACME = "acme"
RELAY = "relay"
WEBHOOK = "webhook"
STORE = "store"
# The day a key was made sorts as text.
DKIM_NAME = re.compile(r"dkim/(?P<domain>[^/]+)/(?P<selector>s[0-9]{8})(?P<state>\.next|\.until-[0-9]{8})?")
ACME_TLS_NAME = re.compile(r"tls/acme(?P<state>\.next|\.from-[0-9]{12}|\.former)?")


@dataclass(frozen=True, slots=True)
class DkimEntry:
    """A DKIM key of the vault: `state` is empty, `.next` or `.until-YYYYMMDD`."""

    domain: str
    selector: str
    state: str = ""

    @property
    def name(self) -> str:
        return f"dkim/{self.domain}/{self.selector}{self.state}"
