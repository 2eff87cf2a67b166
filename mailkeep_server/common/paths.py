"""Paths and unit names that both sides need: `mailkeep.parts` puts there what `mailkeep_server` reads and writes.

All are strings: parts and templates take them as they are.
"""

PACKAGE = "/usr/lib/mailkeep"
"""Where this package is on the server."""
CTL = "/usr/local/sbin/mailkeepctl"
ETC = "/etc/mailkeep"

# The guard.
GUARD_CONFIG = f"{ETC}/guard.json"
GUARD_SHARED_STORE = f"{ETC}/guard-store.json"
"""Address and password of the store that several servers count in; absent on a server that counts alone."""
GUARD_STATE = "/var/lib/mailkeep-guard"
FREEZE_LIST = f"{GUARD_STATE}/frozen/accounts"
GUARD_POLICY_SOCKET = "/run/mailkeep-guard.policy"
GUARD_MILTER_SOCKET = "/run/mailkeep-guard.milter"
GUARD_CONTROL_SOCKET = "/run/mailkeep-guard/control"
GUARD_SERVICE = "mailkeep-guard.service"

# The watch, and the proof of the jails.
WATCH_CONFIG = f"{ETC}/watch.json"
WEBHOOK = f"{ETC}/webhook"
"""URL and token of the webhook, a line each; absent where alerts go by mail alone."""
WATCH_STATE = "/var/lib/mailkeep-watch"
JAIL_PROOF = f"{WATCH_STATE}/jails.json"
JAIL_PROOF_LOCK = "/run/mailkeep-jails.lock"
FREEZE_SAMPLES = f"{WATCH_STATE}/samples"
SENSOR_REPORTS = "/run/mailkeep-watch/looked.json"
"""What each sensor of the watch saw last, and when."""

# The daily look at DNS records and blocklists.
DNS_CONFIG = f"{ETC}/dns.json"
DNS_STATE = "/var/lib/mailkeep-dns"
DNS_TROUBLES = f"{DNS_STATE}/troubles.json"

# The certificate, and its renewal by ACME.
TLS_DIRECTORY = f"{ETC}/tls"
TLS_PEM = f"{TLS_DIRECTORY}/server.pem"
"""Key and certificate chain, in this order."""
ACME_CONFIG = f"{ETC}/acme.json"
ACME_CREDENTIALS = f"{ETC}/acme.env"
ACME_ACCOUNT = "/var/lib/mailkeep-acme"
RENEWAL_STATE = "/var/lib/mailkeep-certificate"
RENEWAL_TROUBLES = f"{RENEWAL_STATE}/troubles.json"
