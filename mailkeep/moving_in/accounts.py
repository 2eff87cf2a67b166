"""The accounts of a foreign server: who might have a mailbox, and who gets one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic_core import PydanticCustomError

from mailkeep.moving_in.observed import Mailbox, Observed, Rows, read_sqlite
from mailkeep.moving_in.server_names import ServerNames
from mailkeep.moving_in.weak_passwords import Trial
from mailkeep.settings.fields import parse_own_mailbox
from mailkeep.settings.numbers import UNITS
from mailkeep.settings.password_hashes import find_hash_kind, parse_password_hash

NO_MAIL = "no mail, and no login that the logs know"
FIRST_HOME = 500  # the first uid of people on old systems
FIRST_USER, LAST_USER = 1000, 59999
"""Linux user ids of people (login.defs(5), UID_MIN and UID_MAX), where login.defs does not say."""
# Accounts of programs, of distributions' images and of beginners' guides, which guessers of passwords try first.
_SERVICES = """
admin administrator alarm android ansible apache backup build centos cloud debian demo deploy docker ec2-user factorio
fedora ftp ftpuser games git gitlab gitlab-runner guest hadoop jenkins kodi minecraft mysql nagios nextcloud nginx
nobody odroid oracle osmc pi postgres prometheus redis rock root sonarr steam support svn syncthing teamspeak test
test1 test2 testuser tomcat ts3 ubnt ubuntu user vagrant valheim vmail volumio web webmaster www www-data zabbix
"""
SERVICE_NAMES = frozenset(_SERVICES.split())
_PAM_LIKE = re.compile(r"\b(?:driver = |passdb )(?:pam|shadow|passwd|bsdauth)(?![\w-])")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody whom the old server knows. `source` says from where. `password` is a hash as that source has it."""

    login: str
    address: str
    source: str
    password: str = field(repr=False)
    name: str = ""
    quota: int | None = None  # bytes
    is_active: bool = True
    uid: int | None = None  # of a Linux account
    home: str = ""
    mailboxes: tuple[Mailbox, ...] = ()
    logins: int = 0
    last_login: str = ""
    has_shell_login: bool = False

    @property
    def messages(self) -> int:
        return sum(mailbox.messages for mailbox in self.mailboxes)

    @property
    def size(self) -> int:
        return sum(mailbox.size for mailbox in self.mailboxes)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether somebody becomes an account. If not, `reason` says why. `password` is the hash for mail.yml, or "".
    With `needs_answer`, somebody's mail would stay behind: only a human knows whether that is right."""

    candidate: Candidate
    becomes_account: bool
    reason: str
    password: str = field(default="", repr=False)
    needs_answer: bool = False


def find_candidates(observed: Observed, names: ServerNames) -> list[Candidate]:
    """Everybody whom the sources name, each address once, with mailboxes and logins. System accounts only if they have
    mail."""
    virtual = [*_read_passwd_files(observed), *_read_docker_mailserver(observed), *_read_databases(observed)]
    candidates: dict[str, Candidate] = {}
    uses_linux = bool(_PAM_LIKE.search(observed.outputs.get("doveconf", ""))) or not virtual
    for candidate in [*virtual, *(_read_linux_accounts(observed, names) if uses_linux else ())]:
        candidates.setdefault(candidate.address or candidate.login, _add_mail_and_logins(candidate, observed))
    return [candidate for candidate in candidates.values() if _is_of_interest(candidate, observed)]


def _is_of_interest(candidate: Candidate, observed: Observed) -> bool:
    return candidate.uid is None or _is_person(candidate.uid, observed) or candidate.messages > 0


def _is_person(uid: int, observed: Observed) -> bool:
    numbers = dict(re.findall(r"^\s*(UID_MIN|UID_MAX)\s+([0-9]+)", observed.read_text("/etc/login.defs"), re.M))
    return int(numbers.get("UID_MIN", FIRST_USER)) <= uid <= int(numbers.get("UID_MAX", LAST_USER))


def _read_linux_accounts(observed: Observed, names: ServerNames) -> Iterator[Candidate]:
    shadow = {
        fields[0]: fields[1]
        for line in observed.read_text("/etc/shadow").splitlines()
        if len(fields := line.split(":")) > 1
    }
    for line in observed.read_text("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) < 7 or not fields[2].isdigit():
            continue
        login, password, uid, _, gecos, home, _ = fields[:7]
        yield Candidate(
            login,
            f"{login.lower()}@{names.primary}" if names.primary else "",
            "Linux account",
            shadow.get(login, "*") if password == "x" else password,  # noqa: S105 - passwd(5)
            name=gecos.partition(",")[0],
            uid=int(uid),
            home=home,
        )


def _read_passwd_files(observed: Observed) -> Iterator[Candidate]:
    """Dovecot's: user:password:uid:gid:gecos:home:shell:extra fields."""
    configured = re.findall(
        r"(?:args|passwd_file_path) = .*?(/[^\s%]+)$", observed.outputs.get("doveconf", ""), re.MULTILINE
    )
    for path in dict.fromkeys((*configured, "/etc/dovecot/users", "/etc/dovecot/passwd")):
        content = observed.files.get(path, b"")
        if not content or b"\0" in content or ".conf" in path:
            continue
        for line in observed.read_text(path).splitlines():
            fields = line.split(":", 7)
            if line.startswith("#") or len(fields) < 2 or "@" not in fields[0]:
                continue
            extra = fields[7] if len(fields) > 7 else ""
            quota = re.search(r"quota_(?:rule=\*:storage|storage_size)=([0-9]+[kKMGT]?)", extra)
            yield Candidate(
                fields[0],
                fields[0].lower(),
                path,
                fields[1],
                quota=_parse_size(quota[1]) if quota else None,
                home=fields[5] if len(fields) > 5 else "",
            )


def _read_docker_mailserver(observed: Observed) -> Iterator[Candidate]:
    for path in observed.files:
        if not path.endswith("/postfix-accounts.cf"):
            continue
        directory = path.rpartition("/")[0]
        rows = (line.split(":", 1) for line in observed.read_text(f"{directory}/dovecot-quotas.cf").splitlines())
        quotas = {row[0]: row[1] for row in rows if len(row) == 2}
        for line in observed.read_text(path).splitlines():
            address, bar, rest = line.strip().partition("|")
            if bar and not line.startswith("#"):
                password = rest.partition("|")[0]
                quota = _parse_size(quotas.get(address, ""))
                yield Candidate(address, address.lower(), "docker-mailserver", password, quota=quota)


def _read_databases(observed: Observed) -> Iterator[Candidate]:
    for name, rows in observed.tables.items():
        yield from _read_user_table(name.rpartition("/")[2], rows, name)
    for path in observed.files:
        for table, rows in read_sqlite(observed, path).items():
            yield from _read_user_table(table, rows, path)


def _read_user_table(table: str, rows: Rows, source: str) -> Iterator[Candidate]:
    """A table of mailboxes, as Mail-in-a-Box, mailcow, iRedMail, PostfixAdmin and many guides have it."""
    if table not in ("mailbox", "mailboxes", "users", "virtual_users", "accounts"):
        return
    for row in rows:
        login = row.get("email") or row.get("username") or row.get("user") or ""
        if "@" not in login and row.get("domain"):
            login = f"{login}@{row['domain']}"
        if "@" not in login or row.get("kind"):  # mailcow's resources have a kind
            continue
        yield Candidate(
            login,
            login.lower(),
            source,
            row.get("password") or row.get("crypt") or "",
            name=row.get("name", ""),
            quota=_read_quota(row),
            is_active=row.get("active", "1") not in ("0", "f"),
            home=row.get("maildir", "").rstrip("/"),
        )


def _read_quota(row: Mapping[str, str]) -> int | None:
    """In bytes; iRedMail, which alone has a storage directory in each row, counts in MB."""
    text = row.get("quota", "").partition(".")[0]
    number = int(text) if text.isdigit() else 0
    return (number * 2**20 if "storagebasedirectory" in row else number) or None


def _parse_size(text: str) -> int | None:
    match = re.fullmatch(r"([1-9][0-9]{0,14})([kKMGT]?)B?", text.strip())
    return int(match[1]) * UNITS[match[2].upper()] if match else None


def _add_mail_and_logins(candidate: Candidate, observed: Observed) -> Candidate:
    mailboxes = tuple(mailbox for mailbox in observed.mailboxes if _has_mailbox(candidate, mailbox))
    logins = [observed.mail_logins[key] for key in {candidate.login, candidate.address} if key in observed.mail_logins]
    return replace(
        candidate,
        mailboxes=mailboxes,
        logins=sum(count for count, _ in logins),
        last_login=max((last for _, last in logins), default=""),
        has_shell_login=candidate.uid is not None
        and candidate.login[:8] in {name[:8] for name in observed.shell_logins},
    )


def _has_mailbox(candidate: Candidate, mailbox: Mailbox) -> bool:
    path = mailbox.path
    if candidate.uid is not None:
        spools = (f"/var/mail/{candidate.login}", f"/var/spool/mail/{candidate.login}")
        # Some system accounts have a home that holds everybody's mail, such as / and /var/mail.
        home = candidate.home.rstrip("/")
        is_below_home = home != "" and path.startswith(f"{home}/")
        return path in spools or (is_below_home and candidate.uid >= FIRST_HOME)
    if candidate.home and f"/{candidate.home.strip('/')}/" in f"{path}/":
        return True
    local_part, _, domain = candidate.address.partition("@")
    # iRedMail has /example.org/a/n/n/anna-2020.01.31.12.00.00/Maildir.
    below_domain = rf"/{re.escape(domain)}/(?:[^/]/){{0,3}}{re.escape(local_part)}(?:-[0-9][0-9.]+)?(?:/|$)"
    return bool(re.search(rf"{below_domain}|/{re.escape(candidate.address)}(?:/|$)", path))


def list_hashes_to_try(candidates: Iterable[Candidate], names: ServerNames) -> dict[str, Trial]:
    """For each address its hash, and the words that a guesser tries first."""
    return {
        candidate.address: Trial(candidate.password, (candidate.login, candidate.address, *names.words))
        for candidate in candidates
        if candidate.password.strip("!*x")
    }


def judge_candidates(
    candidates: Iterable[Candidate], observed: Observed, guessed: Mapping[str, str], untried: Mapping[str, str]
) -> list[Verdict]:
    """`guessed` has the addresses whose password was guessed, `untried` those whose hash could not be tried, each with
    how or why."""
    return [_judge(candidate, observed, guessed, untried) for candidate in candidates]


def _judge(candidate: Candidate, observed: Observed, guessed: Mapping[str, str], untried: Mapping[str, str]) -> Verdict:
    has_mail = candidate.messages > 0
    if reason := _find_obstacle(candidate, observed):
        return Verdict(candidate, False, reason, needs_answer=has_mail and candidate.logins > 0)
    if not candidate.password:
        return Verdict(candidate, False, "its password is empty: anybody may log in", needs_answer=has_mail)
    if how := guessed.get(candidate.address):
        return Verdict(candidate, False, how, needs_answer=has_mail)
    password, reason = _take_hash(candidate, untried)
    if candidate.uid is not None and candidate.login.lower() in SERVICE_NAMES and not candidate.logins:
        service = "its name is that of a program or a distribution, and no mail program logs in"
        return Verdict(candidate, False, service, password)
    if not has_mail and not candidate.logins and not candidate.has_shell_login:
        return Verdict(candidate, False, NO_MAIL, password)
    if reason:
        return Verdict(candidate, False, reason, needs_answer=has_mail or candidate.logins > 0)
    return Verdict(candidate, True, "", password)


def _find_obstacle(candidate: Candidate, observed: Observed) -> str:
    if candidate.uid is not None and not _is_person(candidate.uid, observed):
        return f"a system account (uid {candidate.uid})"
    if not candidate.is_active:
        return "it is switched off"
    try:
        parse_own_mailbox(candidate.address)
    except PydanticCustomError as error:
        return (
            f"{candidate.address or candidate.login} is no address here: expected {error.context['expected']}"
            if (error.context)
            else "no address here"
        )
    return ""


def _take_hash(candidate: Candidate, untried: Mapping[str, str]) -> tuple[str, str]:
    """The hash for mail.yml and "", or "" and why it does not come along."""
    password = candidate.password
    if password.startswith(("!", "*")) or password == "x":  # noqa: S105 - shadow(5)
        return "", "its password is locked"
    if not find_hash_kind(password):
        return "", f"its hash ({_name_hash(password)}) cannot come along: it needs a new password"
    try:
        text = parse_password_hash(password, candidate.address)
    except PydanticCustomError as error:
        actual = (error.context or {}).get("actual", "a hash that will not do")
        return "", f"{actual}: it needs a new password"
    if reason := untried.get(candidate.address):
        return "", reason
    return text, ""


def _name_hash(password: str) -> str:
    if match := re.match(r"\{([A-Za-z0-9.-]{1,20})\}", password):
        return match[1]
    return {"$1$": "md5-crypt", "$7$": "scrypt", "$gy": "gost-yescrypt"}.get(password[:3], "of a kind unknown here")
