"""The names of a foreign server: its host name, its mail domains, and the one to which its Linux accounts belong."""

from collections.abc import Mapping
from dataclasses import dataclass

from mailkeep.moving_in.observed import Observed
from mailkeep.moving_in.postfix_config import is_domain, list_domains


@dataclass(frozen=True, slots=True)
class ServerNames:
    """`host` may be empty. `local` domains are those of all Linux accounts. `primary` is the one in which they become
    accounts, or a virtual domain."""

    host: str
    primary: str
    local: tuple[str, ...]
    virtual: tuple[str, ...]
    takes_mail_as_host: bool

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.local, *self.virtual)))

    @property
    def words(self) -> tuple[str, ...]:
        """What a guesser of passwords knows of the server."""
        labels = [name.split(".")[-2] for name in (*self.domains, self.host) if "." in name]
        return tuple(dict.fromkeys((*self.domains, *labels)))


def find_names(observed: Observed, parameters: Mapping[str, str], account_domains: list[str]) -> ServerNames:
    """`account_domains` are those of virtual accounts and aliases, whose tables may be all that names them."""
    host = parameters.get("myhostname", "").lower()
    local, virtual = list_domains(observed, parameters)
    virtual = list(dict.fromkeys((*virtual, *(domain for domain in account_domains if is_domain(domain)))))
    others = [domain for domain in local if domain != host]
    virtual = [domain for domain in virtual if domain not in others]
    takes_mail_as_host = host in local
    parent = host.partition(".")[2]
    if not others and not virtual:
        # Users are at the host's own name, which then is the mail domain; or at the domain that it belongs to.
        domain = host if takes_mail_as_host and host.count(".") == 1 else parent
        others = [domain] if is_domain(domain) else []
    # Without a domain of their own, Linux accounts get mail by virtual maps.
    candidates = others or virtual
    preferred = [name for name in (parameters.get("myorigin", ""), parent) if name in candidates]
    primary = next(iter((*preferred, *candidates)), "")
    ordered = tuple(dict.fromkeys((*([primary] if primary in others else []), *others)))
    return ServerNames(host, primary, ordered, tuple(virtual), takes_mail_as_host)
