"""The tables of the guard's database."""

# synchronous=NORMAL: in WAL mode a commit only writes; `sync_to_disk` and checkpoints flush (sqlite.org/pragma.html).
# locking_mode: no other reader, such as a backup, can make Postfix wait.
SCHEMA = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 16777216;
PRAGMA cache_size = -2048;
CREATE TABLE IF NOT EXISTS sent (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, recipients INTEGER NOT NULL,
    new INTEGER NOT NULL, network TEXT NOT NULL, queue_id TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS tries (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS recipients (
    account TEXT NOT NULL, recipient INTEGER NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, recipient)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS networks (
    account TEXT NOT NULL, network TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, network)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS senders (
    account TEXT NOT NULL, sender INTEGER NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (account, sender)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS received (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, network INTEGER NOT NULL,
    rank INTEGER NOT NULL, origin INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, kind TEXT NOT NULL, account TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS births (account TEXT PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS habits (account TEXT PRIMARY KEY, model TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS strangers (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, queue_id TEXT NOT NULL,
    recipient INTEGER NOT NULL, fate TEXT NOT NULL, voice TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS strangers_by_message ON strangers (queue_id, recipient);
CREATE INDEX IF NOT EXISTS strangers_by_account ON strangers (account, time);
CREATE TABLE IF NOT EXISTS message_ids (
    id INTEGER PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, queue_id TEXT NOT NULL,
    message INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS message_ids_by_message ON message_ids (message);
CREATE TABLE IF NOT EXISTS message_keys (key TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO message_keys SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM message_keys);
CREATE TABLE IF NOT EXISTS holds (
    account TEXT PRIMARY KEY, time INTEGER NOT NULL, cause TEXT NOT NULL, network TEXT NOT NULL,
    program TEXT NOT NULL, reasons TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (
    queue_id TEXT PRIMARY KEY, time INTEGER NOT NULL, account TEXT NOT NULL, recipients TEXT NOT NULL,
    is_released INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS confirmations (
    account TEXT PRIMARY KEY, time INTEGER NOT NULL, digest TEXT NOT NULL, shown TEXT NOT NULL
) WITHOUT ROWID;
"""

TABLES: dict[str, tuple[type, ...]] = {
    "sent": (int, int, str, int, int, str, str),
    "tries": (int, int, str, str, str),
    "events": (int, int, str, str, str),
    "births": (str, int),
    "holds": (str, int, str, str, str, str),
    "held": (str, int, str, str, int),
    "confirmations": (str, int, str, str),
    "strangers": (int, int, str, str, int, str, str),
    "message_keys": (str,),
    "message_ids": (int, int, str, str, int),
    "networks": (str, str, int),
    "habits": (str, str),
    "received": (int, int, str, int, int, int),
    "senders": (str, int, int),
    "recipients": (str, int, int),
}
"""The columns of each table by type. The largest table is last."""
