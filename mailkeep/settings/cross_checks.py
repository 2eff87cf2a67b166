"""How the settings relate to each other, which no single field can tell. Each check is linear in its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from pydantic_core import InitErrorDetails

from mailkeep.settings import alias_expansion, route_checks
from mailkeep.settings.conflicts import check_target, domain_of, is_known, make_conflict
from mailkeep.settings.numbers import MAIL_SERVICES, PROXY_PORTS, SERVICES
from mailkeep.settings.sections import UncheckedSettings
from mailkeep.settings.yaml_reader import Loc, format_path

MAIL_PORTS = {SERVICES[name]: name for name in MAIL_SERVICES}

LIMIT_PAIRS = [
    (f"{unit}_{shorter}", f"{unit}_{longer}")
    for unit in ("messages", "recipients")
    for shorter, longer in (("per_10_minutes", "per_hour"), ("per_hour", "per_day"))
]


def find_conflicts(settings: UncheckedSettings) -> list[InitErrorDetails]:
    """Every pair of settings that does not fit together."""
    return [conflict for check in CHECKS for conflict in check(settings)]


def _check_duplicates(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    yield from _find_repeated(("host", "addresses"), settings.host.addresses)
    yield from _find_repeated(("host", "forwarded_from"), settings.host.forwarded_from)
    yield from _find_repeated(("domains",), settings.domains)
    yield from _find_repeated(("accounts",), (account.address for account in settings.accounts), "address")
    for index, account in enumerate(settings.accounts):
        yield from _find_repeated(("accounts", index, "send_as"), account.send_as)
        yield from _find_repeated(("accounts", index, "forward"), account.forward)
    for address, targets in settings.aliases.items():
        yield from _find_repeated(("aliases", address), targets)
    yield from _find_repeated(("members_only",), settings.members_only)
    yield from _find_repeated(("catch_all_except",), settings.catch_all_except)
    yield from _find_repeated(("admin", "addresses"), settings.admin.addresses)
    yield from _find_repeated(("admin", "networks"), settings.admin.networks)
    yield from _find_repeated(("firewall", "block"), settings.firewall.block)
    yield from _find_repeated(("firewall", "may_send"), settings.firewall.may_send)
    yield from _find_repeated(("forwarders",), settings.forwarders)
    yield from _find_repeated(("inbound", "trusted"), settings.inbound.trusted)
    yield from _find_repeated(("inbound", "trusted_sealers"), settings.inbound.trusted_sealers)
    yield from _find_repeated(("inbound", "refused_attachments"), settings.inbound.refused_attachments)
    yield from _find_repeated(("spam", "dnsbls"), settings.spam.dnsbls)
    yield from _find_repeated(("local_senders",), settings.local_senders)
    yield from _find_repeated(("accepted",), settings.accepted)
    yield from _find_repeated(("backup", "targets"), (target.name for target in settings.backup_targets), "name")
    yield from _find_repeated(("dns", "spf"), settings.dns.spf)
    yield from _find_repeated(("dns", "never_send"), settings.dns.never_send)
    yield from _find_repeated(("dns", "caa"), settings.dns.caa)


def _find_repeated(loc: Loc, values: Iterable[object], *field: str) -> Iterator[InitErrorDetails]:
    first: dict[object, int] = {}
    for index, value in enumerate(values):
        if value in first:
            actual = f"{value} again; first in {format_path((*loc, first[value], *field))}"
            yield make_conflict((*loc, index, *field), value, "each once", actual)
        first.setdefault(value, index)


def _check_host(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, domain in enumerate(settings.domains):
        if domain == settings.host.name:
            # Postfix delivers mail to its own name locally (mydestination). A domain is either local or virtual: as
            # both, its mailboxes are not found.
            expected = "mail domains only. The host needs another name, such as mail.DOMAIN"
            yield make_conflict(("domains", index), domain, expected, f"{domain}, which is host.name")
    if settings.relay and settings.relay.host == settings.host.name:
        yield make_conflict(("relay", "host"), settings.relay.host, "another host than host.name")


def _check_spam(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if settings.spam.dnsbls and not settings.spam.is_on:
        yield make_conflict(
            ("spam", "filter"), "off", "light or full: with `off`, nothing asks the lists of spam.dnsbls"
        )
    if settings.spam.dnsbls and settings.resolver == "system":
        # Lists refuse the questions of a provider's resolver, which asks for many.
        expected = "none with `resolver: system`: lists do not answer a provider's resolver"
        yield make_conflict(("spam", "dnsbls"), settings.spam.dnsbls, expected, settings.spam.dnsbls[0])


def _check_backup(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, target in enumerate(settings.backup_targets):
        loc = ("backup", "targets", index)
        if target.host and not target.host_key:
            expected = f"a host key: `ssh-keyscan -t ed25519 {target.host}` prints it after the host"
            yield make_conflict((*loc, "host_key"), "", expected, "none")
        if target.host == settings.host.name:
            yield make_conflict((*loc, "host"), target.host, "another machine, or no host for a path on this one")


def _check_accounts(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, account in enumerate(settings.accounts):
        if domain_of(account.address) not in settings.own_domains:
            yield _undeclared_domain(settings, ("accounts", index, "address"), account.address)


def _check_send_as(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, account in enumerate(settings.accounts):
        for position, address in enumerate(account.send_as):
            loc = ("accounts", index, "send_as", position)
            if domain_of(address) not in settings.own_domains:
                yield _undeclared_domain(settings, loc, address)
            elif address in settings.account_addresses and address != account.address:
                yield make_conflict(loc, address, "an address that is not another account's own")


def _check_confirm_at(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Whoever knows the account's password must not read there."""
    for index, account in enumerate(settings.accounts):
        address = account.confirm_at
        if address and domain_of(address) in (*settings.own_domains, settings.host.name):
            expected = "an address elsewhere: a thief of the password may read mail on this server"
            yield make_conflict(("accounts", index, "confirm_at"), address, expected)


def _check_aliases(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for address, targets in settings.aliases.items():
        if address in settings.account_addresses:
            expected = "either an account or an alias of that name"
            yield make_conflict(("aliases", address), address, expected, f"{address}, which is an account too")
        if domain_of(address) not in settings.own_domains:
            yield _undeclared_domain(settings, ("aliases", address), address)
        for position, target in enumerate(targets):
            yield from check_target(settings, ("aliases", address, position), target)


def _check_catch_all(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for domain, target in settings.catch_all.items():
        loc = ("catch_all", domain)
        if domain not in settings.own_domains:
            yield make_conflict(loc, domain, _expected_domains(settings), f"{domain}, which is not in `domains`")
        if domain_of(target) in settings.own_domains and not is_known(settings, target):
            yield make_conflict(loc, target, "an account, an alias or an address elsewhere")
        elif domain_of(target) == settings.host.name:
            yield from check_target(settings, loc, target)


def _check_admin(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, address in enumerate(settings.admin.addresses):
        yield from check_target(settings, ("admin", "addresses", index), address)


def _check_loops(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Depth first with an explicit path: a chain of aliases may be longer than Python's stack."""
    finished: set[str] = set()
    for start in settings.aliases:
        path: dict[str, Iterator[str]] = {} if start in finished else {start: _next_aliases(settings, start)}
        while path:
            alias = next(reversed(path))
            following = next(path[alias], None)
            if following is None:
                finished.add(alias)
                del path[alias]
            elif following in path:
                expected = "aliases that end at an account or elsewhere"
                yield make_conflict(("aliases", alias), None, expected, f"a loop: {_format_loop(path, following)}")
            elif following not in finished:
                path[following] = _next_aliases(settings, following)


def _next_aliases(settings: UncheckedSettings, alias: str) -> Iterator[str]:
    """The aliases to which mail to `alias` goes on."""
    return (name for target in settings.aliases[alias] if (name := alias_expansion.find_next_alias(settings, target)))


def _format_loop(path: dict[str, Iterator[str]], back_to: str) -> str:
    """The end of `path` from `back_to` on, and back to it; a long loop is shortened."""
    tail = [*islice(reversed(path), 5)][::-1]
    if back_to in tail:
        return " → ".join([*tail[tail.index(back_to) :], back_to])
    return " → ".join([back_to, "…", *tail, back_to])


def _check_ports(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if service := MAIL_PORTS.get(settings.ssh.port):
        yield make_conflict(("ssh", "port"), settings.ssh.port, f"another port: {service} listens there")
    if settings.ssh.port == 443 and (settings.serves_mta_sts_policy or settings.web.autoconfig):
        yield make_conflict(("ssh", "port"), settings.ssh.port, "another port: the web server listens there (`web`)")
    if settings.tls.answers_on_port_80 and settings.ssh.port == SERVICES["http"]:
        expected = "another port: the certificate authority asks there (tls.acme.challenge: http-01)"
        yield make_conflict(("ssh", "port"), settings.ssh.port, expected)


def _check_forwarding(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Whoever reaches the forwarded ports may name any address as his own, so nobody else does."""
    for index, address in enumerate(settings.host.forwarded_from):
        if address in settings.host.addresses:
            expected = "addresses of another machine, from which this server has moved"
            actual = f"{address}, which is in host.addresses too"
            yield make_conflict(("host", "forwarded_from", index), address, expected, actual)
    ports = {port: name for name, port in PROXY_PORTS.items()} if settings.host.forwarded_from else {}
    if service := ports.get(settings.ssh.port):
        expected = f"another port: {service} that is forwarded comes there (host.forwarded_from)"
        yield make_conflict(("ssh", "port"), settings.ssh.port, expected)
    for index, opening in enumerate(settings.firewall.open):
        if opening.protocol == "tcp" and (service := ports.get(opening.port)):
            expected = f"another port: {service} that is forwarded comes there, and from nobody else"
            yield make_conflict(("firewall", "open", index), opening.port, expected)


def _check_networks(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, blocked in enumerate(settings.firewall.block):
        loc = ("firewall", "block", index)
        for trusted in settings.admin.networks:
            if blocked.version == trusted.version and blocked.overlaps(trusted):
                yield make_conflict(loc, blocked, f"a network apart from {trusted} in admin.networks")
        for address in settings.host.forwarded_from:
            if address in blocked:
                expected = f"a network without the server's previous address {address} (host.forwarded_from)"
                yield make_conflict(loc, blocked, expected)
        for address in settings.host.addresses:
            if address in blocked:
                yield make_conflict(loc, blocked, f"a network without the server's own address {address}")


def _check_limits(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """A limit that the limit of a longer window makes unreachable is a mistake."""
    accounts = [(("accounts", index, "limits"), account.limits) for index, account in enumerate(settings.accounts)]
    for loc, limits in ((("guard", "limits"), settings.guard.limits), *accounts):
        declared = limits.model_dump(exclude_none=True)
        effective = settings.effective_limits(limits) if declared else {}
        for shorter, longer in LIMIT_PAIRS:
            if shorter in declared and declared[shorter] > effective[longer]:
                expected = f"at most {effective[longer]}, which is {longer}, or a larger {longer} too"
                yield make_conflict((*loc, shorter), declared[shorter], expected)


def _check_leaving(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Less than the guard lets through would stop honest mail."""
    for name, number in settings.guard.leaving.model_dump(exclude_none=True).items():
        ceiling = getattr(settings.guard.server, name.replace("connections", "recipients"))
        if number < ceiling:
            yield make_conflict(("guard", "leaving", name), number, f"at least {ceiling}, which is guard.server's")


def _check_tls(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if settings.tls.mode == "files" and settings.tls.certificate is None:
        expected = "the path of the certificate chain (PEM) beside mail.yml, since tls.mode is files"
        yield make_conflict(("tls", "certificate"), None, expected)
    if settings.tls.mode != "files" and settings.tls.certificate is not None:
        yield make_conflict(("tls", "certificate"), settings.tls.certificate, "`mode: files`, or no certificate")


def _check_acme(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    tls, acme = settings.tls, settings.tls.acme
    if tls.mode != "acme":
        for name in acme.model_fields_set:
            yield make_conflict(("tls", "acme", name), getattr(acme, name), "`mode: acme`, or nothing below tls.acme")
        return
    if acme.challenge == "dns-01" and acme.provider is None:
        expected = "your DNS provider, by the name that `lego dnshelp` lists, since tls.acme.challenge is dns-01"
        yield make_conflict(("tls", "acme", "provider"), None, expected)
    if acme.challenge == "http-01" and acme.provider is not None:
        yield make_conflict(("tls", "acme", "provider"), acme.provider, "`challenge: dns-01`, or no provider")
    for index, opening in enumerate(settings.firewall.open):
        if settings.tls.answers_on_port_80 and (opening.protocol, opening.port) == ("tcp", SERVICES["http"]):
            expected = "`tls.acme.challenge: dns-01`, or port 80 left to the certificate authority's questions"
            yield make_conflict(("firewall", "open", index), SERVICES["http"], expected)
    issuer = settings.tls.issuer
    if settings.dns.caa and issuer and issuer not in settings.dns.caa:
        expected = f"{issuer} too, the authority of tls.acme.directory; or it may not issue"
        yield make_conflict(("dns", "caa"), settings.dns.caa, expected, ", ".join(settings.dns.caa))


def _check_openings(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """Networks restrict nothing where everyone may come in."""
    open_to_all = {("tcp", settings.ssh.port): "SSH's", **{("tcp", port): "a mail port" for port in MAIL_PORTS}}
    open_to_all |= {
        (opening.protocol, opening.port): "open to everyone in this list"
        for opening in settings.firewall.open
        if not opening.networks
    }
    for index, opening in enumerate(settings.firewall.open):
        if opening.networks and (reason := open_to_all.get((opening.protocol, opening.port))):
            name = f"{opening.port}/{opening.protocol}"
            yield make_conflict(
                ("firewall", "open", index, "networks"),
                name,
                "another port, or none of these networks",
                f"networks for {name}, which everyone reaches: it is {reason}",
            )


def _check_dns(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    for index, name in enumerate(settings.dns.never_send):
        if name in settings.own_domains or name == settings.host.name:
            yield make_conflict(("dns", "never_send", index), name, "names that send no mail; this one does")
    if settings.dns.mta_sts == "enforce" and settings.tls.mode == "self-signed":
        expected = (
            "`testing`, or a certificate that the world trusts (tls.mode): servers that follow the policy "
            "would not deliver"
        )
        yield make_conflict(("dns", "mta_sts"), settings.dns.mta_sts, expected)
    elif settings.serves_mta_sts_policy and settings.tls.mode == "self-signed":
        expected = (
            "`off`, a certificate that the world trusts (tls.mode), or web.mta_sts: no and the policy served elsewhere"
        )
        yield make_conflict(("dns", "mta_sts"), settings.dns.mta_sts, expected)
    if settings.dns.reports:
        yield from check_target(settings, ("dns", "reports"), settings.dns.reports)


def _check_web_names(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    """A name that only serves pages gets records that say it sends no mail: it can be no mail domain and no host."""
    kinds = {
        ("dns", "mta_sts"): ("mta-sts",) if settings.dns.mta_sts != "off" else (),
        ("web", "autoconfig"): ("autoconfig", "autodiscover") if settings.web.autoconfig else (),
    }
    for loc, labels in kinds.items():
        names = {f"{label}.{domain}" for label in labels for domain in settings.domains}
        for name in sorted(names & {*settings.domains, settings.host.name}):
            yield make_conflict(loc, name, f"{name} for this alone: it is the host, or a mail domain, as well")


def _check_web(settings: UncheckedSettings) -> Iterator[InitErrorDetails]:
    if settings.web.autoconfig and settings.tls.mode == "self-signed":
        expected = "`no`, or a certificate that the world trusts (tls.mode): mail programs accept no other here"
        yield make_conflict(("web", "autoconfig"), True, expected, "yes")


def _undeclared_domain(settings: UncheckedSettings, loc: Loc, address: str) -> InitErrorDetails:
    actual = f"{address}, whose domain is not in `domains`"
    return make_conflict(loc, address, _expected_domains(settings), actual)


def _expected_domains(settings: UncheckedSettings) -> str:
    domains = ", ".join(settings.domains[:3]) + (", …" if len(settings.domains) > 3 else "")
    return f"one of the mail domains ({domains}), or the domain added to `domains`"


CHECKS: tuple[Callable[[UncheckedSettings], Iterable[InitErrorDetails]], ...] = (
    _check_duplicates,
    _check_host,
    _check_backup,
    _check_spam,
    _check_accounts,
    _check_send_as,
    _check_confirm_at,
    _check_aliases,
    route_checks.check_forwards,
    route_checks.check_patterns,
    route_checks.check_members_only,
    _check_catch_all,
    route_checks.check_catch_all_exceptions,
    _check_admin,
    _check_loops,
    alias_expansion.find_endless_expansions,
    _check_ports,
    _check_forwarding,
    _check_networks,
    _check_limits,
    _check_leaving,
    _check_tls,
    _check_acme,
    _check_openings,
    _check_dns,
    _check_web_names,
    _check_web,
)
