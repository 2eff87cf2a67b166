"""Paths and unit names that `mailkeep` and `mailkeep_server` both need. Other paths reach the server's programs in
their configuration.

All are strings: parts and templates take them as they are.
"""

ETC = "/etc/mailkeep"
SERVER_STATE = "/var/lib/mailkeep"
KNOWN_ACCESS = f"{SERVER_STATE}/root-access.json"
"""Who and what could become root when the server was deployed first."""
REPLACED_PASSWORDS = f"{SERVER_STATE}/replaced-passwords"
"""Digests of the password hashes that `mailkeepctl passwd` has replaced: no deploy brings one of them back."""
DOVECOT_USERS = "/etc/dovecot/users"
DELIVERY_SOCKET = "/var/spool/postfix/private/dovecot-lmtp"
NOTICE_SENDER = "mailkeep-notice"
"""At the host's name: the sender of notices to owners of accounts, which Dovecot's script for all files at once."""
DEPLOY_HISTORY = f"{SERVER_STATE}/deploy-history.json"
"""The inventories that were deployed last: who deployed them, and digests of what they declare."""
STOPPED_UNITS = f"{SERVER_STATE}/stopped-units"
"""Units that a deploy has stopped to replace their packages, until it has ended: lines `unit NAME`, `package NAME`."""
ADOPTED = f"{SERVER_STATE}/adopted"
"""Has the path of the directory in which the first deploy saved what it replaces."""
GONE_BACK = f"{SERVER_STATE}/gone-back"
"""Exists from `mailkeep un-adopt` on, until the next deploy: the machine is not Mailkeep's then."""

HISTORY_STATE = "/var/lib/mailkeep-history"
HISTORY_DATABASE = f"{HISTORY_STATE}/history.db"
"""Numbers of past days, which the log has no longer."""

# The guard.
GUARD_CONFIG = f"{ETC}/guard.json"
GUARD_SHARED_STORE = f"{ETC}/guard-store.json"
"""Address and password of the store that several servers count in; absent on a server that counts alone."""
GUARD_STATE = "/var/lib/mailkeep-guard"
FREEZE_LIST = f"{GUARD_STATE}/frozen/accounts"
GUARD_DATABASE_FILES = ("guard.db", "guard.db-wal", "guard.db-shm", "guard.db-journal")
"""The database and the files that SQLite may put beside it."""
GUARD_POLICY_SOCKET = "/run/mailkeep-guard.policy"
GUARD_MILTER_SOCKET = "/run/mailkeep-guard.milter"
GUARD_INCOMING_SOCKET = "/run/mailkeep-guard.incoming"
"""The milter of port 25."""
GUARD_CONTROL_SOCKET = "/run/mailkeep-guard/control"
GUARD_SERVICE = "mailkeep-guard.service"

# The milter that breaks long lines.
LINES_MILTER_SOCKET = "/run/mailkeep-lines.milter"

# Reports that other servers send.
REPORTS_CONFIG = f"{ETC}/reports.json"
REPORTS_USER = "mailkeep-reports"
REPORTS_STATE = "/var/lib/mailkeep-reports"
REPORTS_SPOOL = f"{REPORTS_STATE}/new"
REPORTS_DATABASE_NAME = "reports.db"
REPORTS_DATABASE = f"{REPORTS_STATE}/{REPORTS_DATABASE_NAME}"
REPORTS_ANNOUNCEMENTS_NAME = "announcements.json"
REPORTS_ANNOUNCEMENTS = f"{REPORTS_STATE}/{REPORTS_ANNOUNCEMENTS_NAME}"
"""What the watch tells the administrators of reports."""
REPORTS_COMPLAINTS_NAME = "complaints.json"
"""Beside the announcements."""

# The milter that judges who a message is from.
INBOUND_CONFIG = f"{ETC}/inbound.json"
INBOUND_MILTER_SOCKET = "/run/mailkeep-inbound.milter"

# Backups.
BACKUP_ETC = f"{ETC}/backup"
BACKUP_CONFIG = f"{BACKUP_ETC}/config.json"
BACKUP_STATE = "/var/lib/mailkeep-backup"
MOVE_STATE = "/var/lib/mailkeep-move"
MOVE_RECORD = f"{MOVE_STATE}/record.json"

# The watch, and the proof of the jails.
WATCH_CONFIG = f"{ETC}/watch.json"
WATCH_STATE = "/var/lib/mailkeep-watch"
WATCH_SAVED_STATE = f"{WATCH_STATE}/state.json"
JAIL_PROOF = f"{WATCH_STATE}/jails.json"
JAIL_CANARIES = f"{WATCH_STATE}/canaries.json"
LOADED_FIREWALL = "/run/mailkeep-firewall"
"""Mailkeep's table of nft as it was when nftables.service had loaded it, by `nft -s -t list table`."""
JAIL_PROOF_LOCK = "/run/mailkeep-jails.lock"
STOPPED_MAIL = f"{WATCH_STATE}/stopped"
"""Queue IDs of mail that was put on hold because too much left, a line each."""
FREEZE_SAMPLES = f"{WATCH_STATE}/samples"
SENSOR_REPORTS = "/run/mailkeep-watch/looked.json"
"""What each sensor of the watch saw last, and when."""

# The spam filter.
SPAM_ETC = f"{ETC}/spam"
SPAM_RUN = "/run/rspamd"
SPAM_MILTER_SOCKET = f"{SPAM_RUN}/milter.sock"
SPAM_WORDS = "/var/lib/mailkeep-words"
"""The word lists of the accounts, each in a directory of its own."""
LEARN_SPOOL = "/var/spool/mailkeep-learn"
"""Copies of messages that people have moved into or out of Junk, until they are learned."""
CANARY_MAILBOX = "/var/lib/mailkeep-canary"
CANARY_PROOF = "/run/mailkeep-canary/proof.json"
