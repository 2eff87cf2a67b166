"""The spam filter: rspamd behind port 25, the words that each account has taught, and what teaches and proves it."""

import re
from collections.abc import Iterable
from dataclasses import replace

from mailkeep.parts import dovecot, postfix
from mailkeep.parts.model import SYSTEMD, Check, Directory, File, Part, Unit, unit_check
from mailkeep.parts.server_package import PYTHON
from mailkeep.settings.models import Settings
from mailkeep.templating import render_template
from mailkeep_server.common import paths, spam_canary
from mailkeep_server.common.spam_header import OUTGOING_HEADER, VERDICT_HEADER

ETC = paths.SPAM_ETC
CONF, LUA, WARM = (f"{ETC}/{name}" for name in ("rspamd.conf", "mailkeep.lua", "warm.sh"))
STATE = "/var/lib/rspamd"
LANGUAGES = f"{STATE}/languages"
SIEVE_PROGRAMS = dovecot.SIEVE_PROGRAMS
SERVICE = "mailkeep-spam.service"
LEARN_PATH, LEARNER = "mailkeep-learn.path", "mailkeep-learn.service"
CANARY_TIMER, CANARY = "mailkeep-canary.timer", "mailkeep-canary.service"
UNITS = (SERVICE, LEARN_PATH, LEARNER, CANARY_TIMER, CANARY)

JUNK_SCORE, REJECT_SCORE = 7, 12
"""In rspamd's points. The first holds for these and those of the words together, the second for these alone."""
WORDS_SPAM, WORDS_HAM = 8, 6
"""Points of words that are sure, for and against spam. With JUNK_SCORE, chosen by bench/spam_quality.py."""
LIGHT_JUNK_SCORE = 3.2
"""Of the words alone: bogofilter's 0.7. By its own 0.99, half as much spam again stays in INBOX."""
DNSBL_SCORE = 4
"""Of each list: a list alone sends nothing to Junk."""
REASONS = 3  # that a verdict names
MAX_MEMORY = 300  # MB
MAX_COPY, MAX_COPIES = 64 * 2**10, 5000
"""Bytes by which a message teaches, and how many messages may wait to be learned."""
SECOND_LEVEL = "ac|co|com|edu|gob|gov|go|mil|ne|net|nom|or|org"
"""Labels below which countries have domains: what is registered under co.uk is a domain of three labels."""


def build_part(settings: Settings) -> Part:
    match settings.spam.filter:
        case "full":
            part = _build_full(settings)
        case "light":
            part = _build_common(settings)
        case "off":
            part = Part(name="spam", absent=(SIEVE_PROGRAMS, paths.LEARN_SPOOL))
    declared = {file.path for file in part.files}
    units = {f"{SYSTEMD}/{name}" for name in UNITS}
    return replace(part, absent=(*part.absent, *sorted(units - declared), *(() if CONF in declared else (ETC,))))


def _build_full(settings: Settings) -> Part:
    common = _build_common(settings)
    return replace(
        common,
        packages=(*common.packages, "rspamd"),
        memberships=(("postfix", "_rspamd"),),  # which reaches rspamd's socket
        directories=(*common.directories, Directory(ETC, purge_unmanaged=True)),
        files=(*common.files, *_render_filter(settings), *_render_units(settings, (SERVICE,))),
        units=(
            # Debian's package enables it. It listens on ports.
            Unit("rspamd.service", enabled=False, running=False),
            Unit(SERVICE, restart_on=(CONF, LUA, WARM, f"{SYSTEMD}/{SERVICE}")),
            *common.units,
        ),
        checks=(
            Check(f"rspamadm configtest -c {CONF}", reads=(CONF, LUA)),
            Check(f"sh -n {WARM}", reads=(WARM,)),
            unit_check(f"{SYSTEMD}/{SERVICE}", f"{SYSTEMD}/{SERVICE}"),
            *common.checks,
        ),
    )


def _build_common(settings: Settings) -> Part:
    """What judges by words, teaches them, and proves the filter. It is all of `light`."""
    learn = render_template("spam/learn", spool=paths.LEARN_SPOOL, max_bytes=MAX_COPY, max_copies=MAX_COPIES)
    return Part(
        name="spam",
        packages=("bogofilter-sqlite",),
        kept=(paths.SPAM_WORDS,),
        directories=(
            Directory(paths.ETC),
            Directory(paths.SPAM_WORDS, "vmail", "vmail", 0o700),
            Directory(SIEVE_PROGRAMS, purge_unmanaged=True),
            Directory(paths.LEARN_SPOOL, "vmail", "vmail", 0o700),
            *(Directory(f"{paths.LEARN_SPOOL}/{name}", "vmail", "vmail", 0o700) for name in ("tmp", "new")),
            Directory(paths.CANARY_MAILBOX, "vmail", "vmail", 0o700),
        ),
        files=(
            File(f"{SIEVE_PROGRAMS}/learn", learn, mode=0o755),
            *_render_judge(),
            *_render_units(settings, (LEARN_PATH, LEARNER, CANARY_TIMER, CANARY)),
        ),
        units=(
            Unit(LEARN_PATH, restart_on=(f"{SYSTEMD}/{LEARN_PATH}",)),
            Unit(CANARY_TIMER, restart_on=(f"{SYSTEMD}/{CANARY_TIMER}",)),
        ),
        checks=(
            *(Check(f"sh -n {SIEVE_PROGRAMS}/{name}", reads=(SIEVE_PROGRAMS,)) for name in ("learn", "judge")),
            Check(f"awk -f {SIEVE_PROGRAMS}/verdict.awk </dev/null", reads=(SIEVE_PROGRAMS,)),
            *(
                unit_check(f"{SYSTEMD}/{name}", f"{SYSTEMD}/{name}")
                for name in (LEARN_PATH, LEARNER, CANARY_TIMER, CANARY)
            ),
        ),
    )


def _render_judge() -> Iterable[File]:
    judge = render_template(
        "spam/judge",
        directory="/var/tmp",  # noqa: S108 - Dovecot's unit has one of its own (PrivateTmp)
        training=paths.SPAM_WORDS,
        programs=SIEVE_PROGRAMS,
        spam_header=VERDICT_HEADER,
    )
    yield File(f"{SIEVE_PROGRAMS}/judge", judge, mode=0o755)
    verdict = render_template(
        "spam/verdict.awk",
        spam_points=WORDS_SPAM,
        ham_points=WORDS_HAM,
        junk_points=JUNK_SCORE,
        light_junk_points=LIGHT_JUNK_SCORE,
        reasons=REASONS,
    )
    yield File(f"{SIEVE_PROGRAMS}/verdict.awk", verdict)


def _render_filter(settings: Settings) -> Iterable[File]:
    yield File(CONF, _render_conf(settings))
    lua = render_template(
        "spam/mailkeep.lua",
        junk_score=JUNK_SCORE,
        reject_score=REJECT_SCORE,
        reasons=REASONS,
        outgoing_header=OUTGOING_HEADER,
        gtube=re.escape(spam_canary.GTUBE),
        canary_header=spam_canary.HEADER,
        canary_value=spam_canary.JUNK_VALUE,
        spam_header=VERDICT_HEADER,
    )
    yield File(LUA, lua)
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
        languages=LANGUAGES,
        lua=LUA,
        local_resolver=settings.resolver == "local",
        dnsbls=settings.spam.dnsbls,
        dnsbl_score=DNSBL_SCORE,
        task_timeout=postfix.SPAM_SECONDS,
        reject_message=f"This looks like spam. Mail to postmaster@{settings.host.name} is read by people",
        reject_score=REJECT_SCORE,
    )


def _render_units(settings: Settings, names: Iterable[str]) -> Iterable[File]:
    for name in names:
        content = render_template(
            f"spam/{name}",
            python=PYTHON,
            host=settings.host.name,
            local_resolver=settings.resolver == "local",
            run=paths.SPAM_RUN,
            conf=CONF,
            warm=WARM,
            milter=paths.SPAM_MILTER_SOCKET,
            max_memory=MAX_MEMORY,
            filter=settings.spam.filter,
            spool=paths.LEARN_SPOOL,
            words=paths.SPAM_WORDS,
            mailbox=paths.CANARY_MAILBOX,
            max_copy=MAX_COPY,
        )
        yield File(f"{SYSTEMD}/{name}", content)
