"""The draft of mail.yml, with a comment at each guess."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailkeep.inventory.create import quote_yaml
from mailkeep.inventory.hosts import UNANSWERED
from mailkeep.moving_in.accounts import Candidate, Verdict
from mailkeep.moving_in.aliases import LeftOut
from mailkeep.moving_in.dkim import SigningKey
from mailkeep.moving_in.services import Listener, MailingJob
from mailkeep.settings.password_hashes import find_hash_kind
from mailkeep_server.common.wording import count_noun

GIB, MIB = 2**30, 2**20
DEFAULT_QUOTA = GIB
BYTES_PER_MESSAGE = 8 * 2**10  # of the quota, as mailkeep.parts.dovecot counts
DEFAULT_MESSAGE_SIZE, MAX_MESSAGE_SIZE = 25 * MIB, 150 * MIB
MAX_NAME = 100


@dataclass(frozen=True)
class DraftFacts:
    """All that the draft says. Values that nobody knows are empty. `sources` has a value's origin by setting."""

    server: str
    today: str
    host_name: str
    addresses: Sequence[str]
    domains: Sequence[str]
    verdicts: Sequence[Verdict]
    aliases: Mapping[str, tuple[str, ...]]
    catch_all: Mapping[str, str]
    left_out: Sequence[LeftOut]
    admin: Sequence[str]
    keys: Sequence[SigningKey]
    relay: tuple[str, str] | None  # host, port
    relay_has_login: bool
    message_size: int
    listeners: Sequence[Listener]
    jobs: Sequence[MailingJob]
    notes: Sequence[str]
    sources: Mapping[str, str]


def render_draft(facts: DraftFacts) -> str:
    """The text of mail.yml. Each value that was guessed has a comment `guess:`. What only a human knows has a comment
    `TODO:`; if mail.yml cannot do without it, its value is TODO, which `mailkeep check` refuses."""
    sections = (
        _render_head(facts),
        _render_host(facts),
        _render_accounts(facts),
        _render_aliases(facts),
        _render_admin(facts),
        _render_relay(facts),
        _render_rest(facts),
    )
    texts = ("".join(f"{make_printable(line).rstrip()}\n" for line in section) for section in sections)
    return "\n".join(text for text in texts if text)


def _render_head(facts: DraftFacts) -> Iterator[str]:
    yield f"# A draft, which `mailkeep inspect` made of {facts.server} on {facts.today}."
    yield "# Look at each `guess:`. Only you can answer a `TODO:`; delete it then. `mailkeep check` says what is"
    yield "# still missing, and docs/settings.md has all settings."


def _render_host(facts: DraftFacts) -> Iterator[str]:
    yield "host:"
    if facts.host_name:
        yield f"  name: {quote_yaml(facts.host_name)}  # guess: {facts.sources['host.name']}"
    else:
        yield f"  name: {UNANSWERED}  # TODO: the new server's full name, such as mail.example.org"
    if facts.addresses:
        yield f"  addresses: {quote_yaml(list(facts.addresses))}  # guess: {facts.sources['host.addresses']}"
    else:
        yield f"  addresses: [{UNANSWERED}]  # TODO: the public addresses of the new server"
    yield ""
    if facts.domains:
        yield f"domains: {quote_yaml(list(facts.domains))}  # guess: {facts.sources['domains']}"
    else:
        yield f"domains: [{UNANSWERED}]  # TODO: the domains of the mail addresses; none was found"


def _render_accounts(facts: DraftFacts) -> Iterator[str]:
    accounts = [verdict for verdict in facts.verdicts if verdict.becomes_account]
    yield "# guess: who has mail or has logged in lately, with a password that is hard to guess. It stays as it was."
    yield "accounts:" if accounts else "# accounts:  # TODO: nobody was found: `mailkeep account add` adds accounts"
    for verdict in accounts:
        yield from _render_account(verdict)
    others = [verdict for verdict in facts.verdicts if not verdict.becomes_account]
    if asked := [verdict for verdict in others if verdict.needs_answer]:
        yield ""
        yield "# TODO: which of these does a person use? They have mail or logins, and are no accounts here."
        yield "# `mailkeep account add NAME ADDRESS --generate` makes one, with a passphrase to give to that person."
        for verdict in asked:
            yield _describe_refusal(verdict)
    if rest := [verdict for verdict in others if not verdict.needs_answer]:
        yield ""
        yield "# guess: nobody needs these as mail accounts. Lines with a hash can be moved to `accounts`."
        for verdict in rest:
            yield _describe_refusal(verdict)
            if verdict.password:
                yield from (f"#{line}" for line in _render_account(verdict))


def _describe_refusal(verdict: Verdict) -> str:
    candidate = verdict.candidate
    return f"# - {candidate.address or candidate.login}: {verdict.reason}. {describe_use(candidate)}"


def _render_account(verdict: Verdict) -> Iterator[str]:
    candidate = verdict.candidate
    yield f"  - address: {quote_yaml(candidate.address)}  # {candidate.source}; {describe_use(candidate)}"
    parsed = find_hash_kind(verdict.password)
    weaker = "  # weaker than Mailkeep's own hashes" if parsed and parsed.is_weaker_than_ours else ""
    yield f"    password: {_quote(verdict.password)}{weaker}"
    if (
        candidate.name
        and ":" not in candidate.name
        and candidate.name.isprintable()
        and len(candidate.name) <= MAX_NAME
    ):
        yield f"    name: {_quote(candidate.name)}"
    if quota := choose_quota(candidate):
        source = "that of the old server" if quota == candidate.quota else "twice what is there"
        yield f"    quota: {_format_size(quota)}  # guess: {source}"


def _render_aliases(facts: DraftFacts) -> Iterator[str]:
    yield "# guess: aliases and virtual maps of the old server, and the addresses that each domain must have."
    yield "aliases:" if facts.aliases else "# aliases:"
    for name, targets in sorted(facts.aliases.items(), key=lambda item: item[0].split("@")[::-1]):
        yield f"  {quote_yaml(name)}: {quote_yaml(list(targets))}"
    if facts.left_out:
        yield ""
        yield "# TODO: these lines of the old server have no counterpart yet. Write others for them, or delete them."
        for row in facts.left_out:
            yield f"# - {row.line}: {row.reason}"
    if facts.catch_all:
        yield ""
        yield "# guess: mostly spam comes this way; without it, mail to addresses that do not exist is refused."
        yield "catch_all:"
        for domain, target in facts.catch_all.items():
            yield f"  {quote_yaml(domain)}: {quote_yaml(target)}"


def _render_admin(facts: DraftFacts) -> Iterator[str]:
    yield "admin:"
    if facts.admin:
        yield f"  addresses: {quote_yaml(list(facts.admin))}  # guess: root's mail went there"
    else:
        yield f"  addresses: [{UNANSWERED}]  # TODO: who gets alerts and root's mail; best an address on another server"
    yield "  networks: []  # TODO: your own networks, which are never banned, such as 198.51.100.0/24"


def _render_relay(facts: DraftFacts) -> Iterator[str]:
    if not facts.relay:
        return
    yield "# guess: the old server's relayhost. Delete this if the new server may connect to port 25 elsewhere."
    yield "relay:"
    yield f"  host: {quote_yaml(facts.relay[0])}"
    yield f"  port: {facts.relay[1]}"
    if facts.relay_has_login:
        yield f"  user: '{UNANSWERED} '  # TODO: the login there, as in the old sasl_passwd; then `mailkeep relay NAME`"


def _render_rest(facts: DraftFacts) -> Iterator[str]:
    yield "tls:"
    yield "  mode: self-signed  # TODO: mail programs warn of it. `acme` once the name leads to the new server"
    yield ""
    yield "dns:"
    yield "  dmarc: none  # guess: the domains sent mail before. Two weeks of reports later: quarantine, then reject"
    for key in facts.keys:
        source = f"{key.program}, {key.path}"
        yield f"# DKIM: {key.domain} signs with the old server's key, selector {key.selector} ({source})."
    if facts.message_size > DEFAULT_MESSAGE_SIZE:
        yield ""
        size = _format_size(min(facts.message_size, MAX_MESSAGE_SIZE))
        yield f"message_size: {size}  # guess: that of the old server ({_format_size(facts.message_size)})"
    yield from _render_services(facts)
    if facts.notes:
        yield ""
    for note in facts.notes:
        yield f"# {note}"


def _render_services(facts: DraftFacts) -> Iterator[str]:
    others = [listener for listener in facts.listeners if listener.kind != "POP3, which Mailkeep does not offer"]
    if others:
        yield ""
        yield "# TODO: if one of these moves to the new server too, open its port. All others are closed there."
        ports = [f"{item.port}/udp" if item.protocol == "udp" else str(item.port) for item in others]
        yield f"# firewall: {{open: [{', '.join(ports)}]}}"
        for item in others:
            program = f", {item.program}" if item.program else ""
            yield f"# - {item.port}/{item.protocol}: {item.kind or 'unknown'}{program}"
    if facts.jobs:
        yield ""
        yield "# TODO: if one of these jobs moves too, its user must be allowed to send. Nobody else may, by sendmail."
        yield f"# local_senders: [{', '.join(dict.fromkeys(job.user for job in facts.jobs))}]"
        for job in facts.jobs:
            yield f"# - {job.file}, {job.user}: {job.line[:80]}"


def choose_quota(candidate: Candidate) -> int | None:
    """The old quota if there is room in it, else twice what is there; None where the default will do."""
    needed = max(candidate.size, candidate.messages * BYTES_PER_MESSAGE)
    if candidate.quota and candidate.quota >= needed * 1.1 and candidate.quota >= MIB:
        return candidate.quota if candidate.quota != DEFAULT_QUOTA else None
    return -(-2 * needed // GIB) * GIB if 2 * needed > DEFAULT_QUOTA else None


def describe_use(candidate: Candidate) -> str:
    mail = f"{count_noun(candidate.messages, 'message')}, {_format_bytes(candidate.size)}"
    last = f", the last {candidate.last_login}" if candidate.last_login else ""
    logins = f"{count_noun(candidate.logins, 'login')}{last}" if candidate.logins else ""
    shell = "logs in by SSH or at the console" if candidate.has_shell_login else ""
    return "; ".join(text for text in (mail, logins or "no login of a mail program", shell) if text)


def list_addresses(verdicts: Iterable[Verdict]) -> frozenset[str]:
    return frozenset(verdict.candidate.address for verdict in verdicts if verdict.becomes_account)


def _format_size(size: int) -> str:
    for unit, factor in (("T", 2**40), ("G", GIB), ("M", MIB), ("K", 1024)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _format_bytes(size: int) -> str:
    for unit, factor in (("GB", GIB), ("MB", MIB), ("kB", 1024)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def make_printable(line: str) -> str:
    """Whatever the old server has put into it, it stays one line, and does nothing to a terminal."""
    return "".join(character if character.isprintable() else " " for character in line)
