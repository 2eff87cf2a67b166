"""How the settings relate to each other: what no single field can tell. Each check is linear in its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from pydantic_core import InitErrorDetails

from mailkeep.settings.fields import SERVICES, invalid, strip_extension
from mailkeep.settings.sections import UncheckedSettings
from mailkeep.settings.yaml_reader import Loc, format_path

MAIL_PORTS = {25: "smtp", 143: "imap", 465: "submissions", 587: "submission", 993: "imaps", 4190: "sieve"}


LIMIT_PAIRS = [
    (f"{what}_{shorter}", f"{what}_{longer}")
    for what in ("messages", "recipients")
    for shorter, longer in (("per_10_minutes", "per_hour"), ("per_hour", "per_day"))
]


def find_conflicts(settings: UncheckedSettings) -> list[InitErrorDetails]:
    """Everything that does not fit together."""
    return [problem for check in CHECKS for problem in check(settings)]


def _problem(loc: Loc, value: object, want: str, found: str | None = None) -> InitErrorDetails:
    return InitErrorDetails(type=invalid(want, found), loc=loc, input=value)


def _duplicates(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    yield from _repeated(("host", "addresses"), settings.host.addresses)
    yield from _repeated(("domains",), settings.domains)
    yield from _repeated(("accounts",), (account.address for account in settings.accounts), "address")
    for index, account in enumerate(settings.accounts):
        yield from _repeated(("accounts", index, "send_as"), account.send_as)
    for address, targets in settings.aliases.items():
        yield from _repeated(("aliases", address), targets)
    yield from _repeated(("admin", "addresses"), settings.admin.addresses)
    yield from _repeated(("admin", "networks"), settings.admin.networks)
    yield from _repeated(("firewall", "block"), settings.firewall.block)
    yield from _repeated(("local_senders",), settings.local_senders)
    yield from _repeated(("dns", "spf"), settings.dns.spf)
    yield from _repeated(("dns", "never_send"), settings.dns.never_send)
    yield from _repeated(("dns", "caa"), settings.dns.caa)


def _repeated(loc: Loc, values: Iterable[object], *field: str) -> Iterator[InitErrorDetails]:
    first: dict[object, int] = {}
    for index, value in enumerate(values):
        if value in first:
            found = f"{value} again; first in {format_path((*loc, first[value], *field))}"
            yield _problem((*loc, index, *field), value, "each once", found)
        first.setdefault(value, index)


def _host(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, domain in enumerate(settings.domains):
        if domain == settings.host.name:
            # Postfix delivers mail to its own name locally (mydestination), and a domain is either local or
            # virtual: listed as both, its mailboxes are not found.
            want = "mail domains only. The host needs a name apart from them, such as mail.DOMAIN"
            yield _problem(("domains", index), domain, want, f"{domain}, which is host.name")
    if settings.relay and settings.relay.host == settings.host.name:
        yield _problem(("relay", "host"), settings.relay.host, "another host than host.name")


def _accounts(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, account in enumerate(settings.accounts):
        if _domain(account.address) not in settings.own_domains:
            yield _undeclared(settings, ("accounts", index, "address"), account.address)


def _send_as(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, account in enumerate(settings.accounts):
        for position, address in enumerate(account.send_as):
            loc = ("accounts", index, "send_as", position)
            if _domain(address) not in settings.own_domains:
                yield _undeclared(settings, loc, address)
            elif address in settings.account_addresses and address != account.address:
                yield _problem(loc, address, "an address that is not another account's own")


def _aliases(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for address, targets in settings.aliases.items():
        if address in settings.account_addresses:
            want = "either an account or an alias of that name"
            yield _problem(("aliases", address), address, want, f"{address}, which is an account too")
        if _domain(address) not in settings.own_domains:
            yield _undeclared(settings, ("aliases", address), address)
        for position, target in enumerate(targets):
            yield from _leads_nowhere(settings, ("aliases", address, position), target)


def _catch_all(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for domain, target in settings.catch_all.items():
        loc = ("catch_all", domain)
        if domain not in settings.own_domains:
            yield _problem(loc, domain, _declared(settings), f"{domain}, which is not in `domains`")
        if _domain(target) in settings.own_domains and not _exists(settings, target):
            yield _problem(loc, target, "an account, an alias or an address elsewhere")
        elif _domain(target) == settings.host.name:
            yield from _leads_nowhere(settings, loc, target)


def _admin(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, address in enumerate(settings.admin.addresses):
        yield from _leads_nowhere(settings, ("admin", "addresses", index), address)


def _leads_nowhere(settings: UncheckedSettings, loc: Loc, target: str) -> Iterator[InitErrorDetails]:
    domain = _domain(target)
    if domain == settings.host.name:
        want = "an address in a mail domain or elsewhere; mail to the host's own name goes to admin.addresses"
        yield _problem(loc, target, want)
    elif domain in settings.own_domains and not (domain in settings.catch_all or _exists(settings, target)):
        want = f"an account, an alias or an address elsewhere; {domain} has no catch_all either"
        yield _problem(loc, target, want)


def _loops(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Depth first with an explicit path: a chain of aliases may be longer than Python's stack."""
    finished: set[str] = set()
    for start in settings.aliases:
        path: dict[str, Iterator[str]] = {} if start in finished else {start: _followed(settings, start)}
        while path:
            alias = next(reversed(path))
            following = next(path[alias], None)
            if following is None:
                finished.add(alias)
                del path[alias]
            elif following in path:
                want = "aliases that end at an account or elsewhere"
                yield _problem(("aliases", alias), None, want, f"a loop: {_loop(path, following)}")
            elif following not in finished:
                path[following] = _followed(settings, following)


def _followed(settings: UncheckedSettings, alias: str) -> Iterator[str]:
    """The aliases that mail to `alias` goes on to."""
    for target in settings.aliases[alias]:
        address = strip_extension(target)
        if not _exists(settings, address):
            address = settings.catch_all.get(_domain(address), "")
        if address in settings.aliases:
            yield address


def _loop(path: dict[str, Iterator[str]], back_to: str) -> str:
    """The end of `path` from `back_to` on, and back to it; what is long is shortened."""
    tail = [*islice(reversed(path), 5)][::-1]
    if back_to in tail:
        return " → ".join([*tail[tail.index(back_to) :], back_to])
    return " → ".join([back_to, "…", *tail, back_to])


def _ports(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if service := MAIL_PORTS.get(settings.ssh.port):
        yield _problem(("ssh", "port"), settings.ssh.port, f"another port: {service} listens there")
    if settings.ssh.port == 443 and (settings.serves_mta_sts_policy or settings.web.autoconfig):
        yield _problem(("ssh", "port"), settings.ssh.port, "another port: what `web` serves is there")
    if settings.tls.answers_on_port_80 and settings.ssh.port == SERVICES["http"]:
        want = "another port: the certificate authority asks there (tls.acme.challenge: http-01)"
        yield _problem(("ssh", "port"), settings.ssh.port, want)


def _networks(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, blocked in enumerate(settings.firewall.block):
        loc = ("firewall", "block", index)
        for trusted in settings.admin.networks:
            if blocked.version == trusted.version and blocked.overlaps(trusted):
                yield _problem(loc, blocked, f"a network apart from {trusted} in admin.networks")
        for address in settings.host.addresses:
            if address in blocked:
                yield _problem(loc, blocked, f"a network without the server's own address {address}")


def _limits(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """A limit that a longer window never lets anybody reach is not what was meant."""
    places = [(("accounts", index, "limits"), account.limits) for index, account in enumerate(settings.accounts)]
    for loc, limits in ((("guard", "limits"), settings.guard.limits), *places):
        named = limits.model_dump(exclude_none=True)
        effective = settings.effective_limits(limits) if named else {}
        for shorter, longer in LIMIT_PAIRS:
            if shorter in named and named[shorter] > effective[longer]:
                want = f"at most {effective[longer]}, which is {longer}, or a larger {longer} too"
                yield _problem((*loc, shorter), named[shorter], want)


def _tls(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if settings.tls.mode == "files" and settings.tls.certificate is None:
        want = "the path of the certificate chain (PEM) beside mail.yml, since tls.mode is files"
        yield _problem(("tls", "certificate"), None, want)
    if settings.tls.mode != "files" and settings.tls.certificate is not None:
        yield _problem(("tls", "certificate"), settings.tls.certificate, "`mode: files`, or no certificate")


def _acme(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    tls, acme = settings.tls, settings.tls.acme
    if tls.mode != "acme":
        for name in acme.model_fields_set:
            yield _problem(("tls", "acme", name), getattr(acme, name), "`mode: acme`, or nothing below tls.acme")
        return
    if acme.challenge == "dns-01" and acme.provider is None:
        want = "who has your DNS, by the name that `lego dnshelp` lists, since tls.acme.challenge is dns-01"
        yield _problem(("tls", "acme", "provider"), None, want)
    if acme.challenge == "http-01" and acme.provider is not None:
        yield _problem(("tls", "acme", "provider"), acme.provider, "`challenge: dns-01`, or no provider")
    if settings.tls.answers_on_port_80 and SERVICES["http"] in settings.firewall.open:
        index = settings.firewall.open.index(SERVICES["http"])
        want = "tls.acme.challenge: dns-01 beside it; else the certificate authority would ask what listens there"
        yield _problem(("firewall", "open", index), SERVICES["http"], want)
    issuer = settings.tls.issuer
    if settings.dns.caa and issuer and issuer not in settings.dns.caa:
        want = f"{issuer} too, which tls.acme.directory is of; or it may not issue"
        yield _problem(("dns", "caa"), settings.dns.caa, want, ", ".join(settings.dns.caa))


def _dns(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, name in enumerate(settings.dns.never_send):
        if name in settings.own_domains or name == settings.host.name:
            yield _problem(("dns", "never_send", index), name, "names that send no mail; this one does")
    if settings.dns.mta_sts == "enforce" and settings.tls.mode == "self-signed":
        want = "`testing`, or a certificate that the world trusts (tls.mode): who follows the policy would not deliver"
        yield _problem(("dns", "mta_sts"), settings.dns.mta_sts, want)
    elif settings.serves_mta_sts_policy and settings.tls.mode == "self-signed":
        want = (
            "`off`, a certificate that the world trusts (tls.mode), or web.mta_sts: no and the policy served elsewhere"
        )
        yield _problem(("dns", "mta_sts"), settings.dns.mta_sts, want)
    if settings.dns.reports:
        yield from _leads_nowhere(settings, ("dns", "reports"), settings.dns.reports)


def _names(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """A name that only answers over HTTPS never sends; one that sends as well would say both in the DNS."""
    kinds = {
        ("dns", "mta_sts"): ("mta-sts",) if settings.dns.mta_sts != "off" else (),
        ("web", "autoconfig"): ("autoconfig", "autodiscover") if settings.web.autoconfig else (),
    }
    for loc, labels in kinds.items():
        taken = {f"{label}.{domain}" for label in labels for domain in settings.domains}
        for name in sorted(taken & {*settings.domains, settings.host.name}):
            yield _problem(loc, name, f"{name} for this alone: it is the host, or a mail domain, as well")


def _web(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if settings.web.autoconfig and settings.tls.mode == "self-signed":
        want = "`no`, or a certificate that the world trusts (tls.mode): mail programs believe no other here"
        yield _problem(("web", "autoconfig"), True, want, "yes")


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _exists(settings: UncheckedSettings, address: str) -> bool:
    plain = strip_extension(address)
    return plain in settings.account_addresses or plain in settings.aliases


def _undeclared(settings: UncheckedSettings, loc: Loc, address: str) -> InitErrorDetails:
    found = f"{address}, whose domain is not in `domains`"
    return _problem(loc, address, _declared(settings), found)


def _declared(settings: UncheckedSettings) -> str:
    listed = ", ".join(settings.domains[:3]) + (", …" if len(settings.domains) > 3 else "")
    return f"one of the mail domains ({listed}), or the domain added to `domains`"


CHECKS: tuple[Callable[[UncheckedSettings], Iterable[InitErrorDetails]], ...] = (
    _duplicates,
    _host,
    _accounts,
    _send_as,
    _aliases,
    _catch_all,
    _admin,
    _loops,
    _ports,
    _networks,
    _limits,
    _tls,
    _acme,
    _dns,
    _names,
    _web,
)
