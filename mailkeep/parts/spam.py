"""The spam filter: rspamd behind port 25, the training of each account in Valkey, and what teaches and proves it."""

from collections.abc import Iterable
from dataclasses import replace

from mailkeep.parts import dovecot, postfix
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.parts.server_package import PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths, spam_canary

ETC = paths.SPAM_ETC
CONF, LUA, STORE_CONF, WARM = (f"{ETC}/{name}" for name in ("rspamd.conf", "mailkeep.lua", "valkey.conf", "warm.sh"))
STATE = "/var/lib/rspamd"
LANGUAGES = f"{STATE}/languages"
STORE_RUN = "/run/mailkeep-spam-store"
STORE_SOCKET = f"{STORE_RUN}/valkey.sock"
SIEVE_PROGRAMS = dovecot.SIEVE_PROGRAMS
SERVICE, STORE = "mailkeep-spam.service", "mailkeep-spam-store.service"
LEARN_PATH, LEARNER = "mailkeep-learn.path", "mailkeep-learn.service"
CANARY_TIMER, CANARY = "mailkeep-canary.timer", "mailkeep-canary.service"
UNITS = (SERVICE, STORE, LEARN_PATH, LEARNER, CANARY_TIMER, CANARY)

JUNK_SCORE, REJECT_SCORE = 6, 15
"""rspamd's own scale: its rules are weighed for these."""
BAYES_SPAM, BAYES_HAM = 6.2, -6.0
"""Of mail that what an account has taught is sure of."""
LIGHT_JUNK_SCORE = 0.7
"""Of bogofilter, from 0 to 1. By its own 0.99, half as much spam again stays in INBOX (bench/spam_quality.py)."""
DNSBL_SCORE = 4
"""Of each list: a list alone sends nothing to Junk."""
JUNK_HEADER = "X-Mailkeep-Junk"
"""By which a script that all accounts have files a message."""
REASONS = 3  # that a verdict names
MIN_LEARNS = 10
"""Messages of each kind from which an account's training counts."""
MAX_MEMORY, MAX_STORE_MEMORY = 300, 48  # MB
MAX_COPY, MAX_COPIES = 64 * 2**10, 5000
"""Bytes of each message that waits to be learned, and their number."""
SECOND_LEVEL = "ac|co|com|edu|gob|gov|go|mil|ne|net|nom|or|org"
"""Labels below which countries have domains: what is registered under co.uk is a domain of three labels."""


def build_part(settings: Settings) -> Part:
    match settings.spam.filter:
        case "full":
            part = _build_full(settings)
        case "light":
            part = _build_light(settings)
        case "off":
            part = Part(name="spam", absent=(SIEVE_PROGRAMS, paths.LEARN_SPOOL))
    declared = {file.path for file in part.files}
    units = {f"{SYSTEMD}/{name}" for name in UNITS}
    return replace(part, absent=(*part.absent, *sorted(units - declared), *(() if CONF in declared else (ETC,))))


def _build_full(settings: Settings) -> Part:
    common = _build_common(settings)
    return replace(
        common,
        packages=("rspamd", "valkey-server"),
        # Postfix and the learner reach rspamd's sockets, and rspamd that of its store.
        memberships=(("postfix", "_rspamd"), ("vmail", "_rspamd"), ("_rspamd", "valkey")),
        directories=(*common.directories, Directory(ETC, purge_unmanaged=True)),
        files=(*common.files, *_render_filter(settings), *_render_units(settings, (SERVICE, STORE))),
        units=(
            # Debian's packages enable these, which listen on ports. A Valkey of the operator's own goes on.
            Unit("rspamd.service", enabled=False, running=False),
            *(() if settings.guard.shared_store else (Unit("valkey-server.service", enabled=False, running=False),)),
            Unit(STORE, restart_on=(STORE_CONF, f"{SYSTEMD}/{STORE}")),
            Unit(SERVICE, restart_on=(CONF, LUA, WARM, f"{SYSTEMD}/{SERVICE}")),
            *common.units,
        ),
        kept=(paths.SPAM_TRAINING,),
        checks=(
            Check(f"rspamadm configtest -c {CONF}", reads=(CONF, LUA)),
            Check(f"sh -n {WARM}", reads=(WARM,)),
            *common.checks,
        ),
    )


def _build_light(settings: Settings) -> Part:
    common = _build_common(settings)
    judge = render_template(
        "spam/judge",
        directory="/var/tmp",  # noqa: S108 - Dovecot's unit has one of its own (PrivateTmp)
        training=paths.SPAM_WORDS,
        reasons=REASONS,
        cutoff=LIGHT_JUNK_SCORE,
        spam_header=spam_canary.VERDICT_HEADER,
        junk_header=JUNK_HEADER,
    )
    return replace(
        common,
        packages=("bogofilter-sqlite",),
        directories=(*common.directories, Directory(paths.SPAM_WORDS, "vmail", "vmail", 0o700)),
        files=(*common.files, File(f"{SIEVE_PROGRAMS}/judge", judge, mode=0o755)),
        kept=(paths.SPAM_WORDS,),
        checks=(Check(f"sh -n {SIEVE_PROGRAMS}/judge", reads=(SIEVE_PROGRAMS,)), *common.checks),
    )


def _build_common(settings: Settings) -> Part:
    """What teaches the filter, and what proves it."""
    learn = render_template("spam/learn", spool=paths.LEARN_SPOOL, max_bytes=MAX_COPY, max_copies=MAX_COPIES)
    return Part(
        name="spam",
        directories=(
            Directory(paths.ETC),
            Directory(SIEVE_PROGRAMS, purge_unmanaged=True),
            Directory(paths.LEARN_SPOOL, "vmail", "vmail", 0o700),
            *(Directory(f"{paths.LEARN_SPOOL}/{name}", "vmail", "vmail", 0o700) for name in ("tmp", "new")),
            Directory(paths.CANARY_MAILBOX, "vmail", "vmail", 0o700),
        ),
        files=(
            File(f"{SIEVE_PROGRAMS}/learn", learn, mode=0o755),
            *_render_units(settings, (LEARN_PATH, LEARNER, CANARY_TIMER, CANARY)),
        ),
        units=(
            Unit(LEARN_PATH, restart_on=(f"{SYSTEMD}/{LEARN_PATH}",)),
            Unit(CANARY_TIMER, restart_on=(f"{SYSTEMD}/{CANARY_TIMER}",)),
        ),
        checks=(
            Check(f"sh -n {SIEVE_PROGRAMS}/learn", reads=(SIEVE_PROGRAMS,)),
            *(unit_check(f"{SYSTEMD}/{name}", f"{SYSTEMD}/{name}") for name in (LEARNER, CANARY)),
        ),
    )


def _render_filter(settings: Settings) -> Iterable[File]:
    """rspamd and its store."""
    yield File(CONF, _render_conf(settings))
    lua = render_template(
        "spam/mailkeep.lua",
        junk_score=JUNK_SCORE,
        reject_score=REJECT_SCORE,
        reasons=REASONS,
        bayes_spam=BAYES_SPAM,
        bayes_ham=BAYES_HAM,
        aliases=sorted((alias, account.address) for alias, account in dovecot.single_account_aliases(settings)),
        canary_header=spam_canary.HEADER,
        canary_value=spam_canary.JUNK_VALUE,
        spam_header=spam_canary.VERDICT_HEADER,
        junk_header=JUNK_HEADER,
    )
    yield File(LUA, lua)
    store_conf = render_template(
        "spam/valkey.conf", socket=STORE_SOCKET, directory=paths.SPAM_TRAINING, max_memory=MAX_STORE_MEMORY
    )
    yield File(STORE_CONF, store_conf)
    warm = render_template(
        "spam/warm.sh",
        state=STATE,
        conf=CONF,
        control=f"{paths.SPAM_RUN}/control.sock",
        languages=LANGUAGES,
        second_level=SECOND_LEVEL,
    )
    yield File(WARM, warm)


def _render_conf(settings: Settings) -> bytes:
    return render_template(
        "spam/rspamd.conf",
        run=paths.SPAM_RUN,
        milter=paths.SPAM_MILTER_SOCKET,
        learn=paths.SPAM_LEARN_SOCKET,
        languages=LANGUAGES,
        lua=LUA,
        local_resolver=settings.resolver == "local",
        dnsbls=settings.spam.dnsbls,
        dnsbl_score=DNSBL_SCORE,
        task_timeout=postfix.SPAM_SECONDS,
        reject_message=f"This looks like spam. Mail to postmaster@{settings.host.name} is read by people",
        reject_score=REJECT_SCORE,
        min_learns=MIN_LEARNS,
        valkey=STORE_SOCKET,
    )


def _render_units(settings: Settings, names: Iterable[str]) -> Iterable[File]:
    for name in names:
        content = render_template(
            f"spam/{name}",
            python=PYTHON,
            host=settings.host.name,
            local_resolver=settings.resolver == "local",
            run=STORE_RUN if name == STORE else paths.SPAM_RUN,
            conf=STORE_CONF if name == STORE else CONF,
            warm=WARM,
            milter=paths.SPAM_MILTER_SOCKET,
            learn=paths.SPAM_LEARN_SOCKET,
            directory=paths.SPAM_TRAINING,
            max_memory=MAX_STORE_MEMORY if name == STORE else MAX_MEMORY,
            filter=settings.spam.filter,
            spool=paths.LEARN_SPOOL,
            words=paths.SPAM_WORDS,
            mailbox=paths.CANARY_MAILBOX,
        )
        yield File(f"{SYSTEMD}/{name}", content)
