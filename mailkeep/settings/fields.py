"""The kinds of values in `mail.yml`. Each parser returns the value or says what it wants instead.

They read the text that `mailkeep.source` yields, and equally the Python values that callers have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = rf"(?:{LABEL}\.)+(?=[a-z0-9-]*[a-z]){LABEL}"  # RFC 1123 section 2.1: the last is not all digits
SPF_DOMAIN = rf"(?:[a-z0-9_-]{{1,63}}\.)+(?=[a-z0-9-]*[a-z]){LABEL}"  # _spf.example.net: RFC 7208 section 7.1
ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 section 3.2.3
MAILBOX = rf"{ATEXT}(?:\.{ATEXT})*"
OWN_LOCAL_PART = r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,62}[a-z0-9_-]|[a-z0-9]"
HTTPS_URL = rf"https://{DOMAIN}(?::[0-9]{{1,5}})?/[A-Za-z0-9._~/-]*"
DNS_PROVIDER = "[a-z0-9][a-z0-9-]{0,30}"
# Never in the public DNS: RFC 6761, RFC 6762, and what /etc/hosts calls the machine itself.
LOCAL_NAMES = {"localhost", "localdomain", "local", "invalid"}

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# TCP services by their names in /etc/services, which is where nft and fail2ban look them up.
SERVICES = {
    "ftp": 21,
    "ssh": 22,
    "telnet": 23,
    "smtp": 25,
    "domain": 53,
    "http": 80,
    "kerberos": 88,
    "pop3": 110,
    "imap2": 143,
    "imap": 143,
    "ldap": 389,
    "https": 443,
    "submissions": 465,
    "submission": 587,
    "ldaps": 636,
    "domain-s": 853,
    "rsync": 873,
    "imaps": 993,
    "pop3s": 995,
    "sieve": 4190,
    "xmpp-client": 5222,
    "xmpp-server": 5269,
    "postgresql": 5432,
    "http-alt": 8080,
}

# Memory in KiB and passes of Argon2id. The floor is the weakest of OWASP's Password Storage Cheat Sheet; the
# ceiling, libsodium's "interactive" 64 MiB, is what a 1 GB machine bears several times over.
ARGON2_MEMORY = (7168, 65536)
ARGON2_WORK = 5 * 7168
ARGON2_PASSES = 10
ARGON2_LANES = 4
ARGON2ID = re.compile(
    r"\{ARGON2ID\}\$argon2id\$v=19\$m=([0-9]{1,9}),t=([0-9]{1,9}),p=([0-9]{1,9})"
    r"\$(?:[A-Za-z0-9+/]{4}){2,21}[A-Za-z0-9+/]{2,3}\$[A-Za-z0-9+/]{43}"  # a salt from 8 bytes on, a tag of 32
)

NEVER_PUBLIC = {
    "unspecified": ("0.0.0.0/8", "::/128"),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4", "::ffff:0:0/96"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
}
_NEVER_PUBLIC = [(kind, ip_network(network)) for kind, networks in NEVER_PUBLIC.items() for network in networks]


def invalid(want: str, found: str | None = None) -> PydanticCustomError:
    """The error to raise: what would do, and what was found where showing the value does not say it."""
    return PydanticCustomError("want", "{want}", {"want": want, "found": found})


def _text(value: object, want: str) -> str:
    if not isinstance(value, str) or not value:
        raise invalid(want)
    return value


def domain(value: object) -> str:
    """A fully qualified domain name: lower-case ASCII, no final dot (RFC 1123; IDN as A-labels, RFC 5890)."""
    name = _text(value, "a domain name such as example.org")
    if not name.isascii():
        raise invalid(f"its ASCII form{_a_label(name)}")
    if name != name.lower():
        raise invalid(f"lower case: {name.lower()[:253]}")
    if name.endswith("."):
        raise invalid("the name without its final dot")
    if len(name) > 253 or not re.fullmatch(DOMAIN, name):
        raise invalid("a fully qualified domain name such as example.org")
    if name.rpartition(".")[2] in LOCAL_NAMES:
        raise invalid("a name that the public DNS can resolve")
    for label in name.split("."):
        _check_a_label(label)
    return name


def _a_label(name: str) -> str:
    # Python's codec is IDNA 2003, which takes these four for other letters than IDNA 2008: better no advice.
    if set(name) & set("\u00df\u03c2\u200c\u200d"):
        return " (xn--…)"
    try:
        return f": {name[:253].lower().encode('idna').decode()}"
    except UnicodeError:
        return " (xn--…)"


def _check_a_label(label: str) -> None:
    if not label.startswith("xn--"):
        return
    try:
        label[4:].encode().decode("punycode")
    except UnicodeError:
        raise invalid(f"a valid internationalised label instead of {label}") from None


def host_name(value: object) -> str:
    name = domain(value)
    if len(name) > 64:  # HOST_NAME_MAX
        raise invalid("a host name of at most 64 characters, which is Linux's limit")
    return name


def relay_host(value: object) -> str:
    if isinstance(value, str) and value.startswith("["):
        raise invalid("the name without brackets or port; the port is `relay.port`")
    try:
        return str(ip_address(_text(value, "a host name such as smtp.example.net")))
    except ValueError:
        return domain(value)


def mailbox(value: object) -> str:
    """Any address mail may go to: an ASCII dot-atom and a domain (SMTPUTF8 is off: RFC 6531)."""
    want = "an address such as anna@example.org"
    address = _text(value, want)
    local_part, at, host = address.rpartition("@")
    if not at or not local_part:
        raise invalid(want)
    if not local_part.isascii():
        raise invalid("an ASCII local part: this server does not offer SMTPUTF8")
    if len(local_part) > 64 or not re.fullmatch(MAILBOX, local_part):
        raise invalid(want)
    if host != host.lower():
        raise invalid(f"the domain in lower case: {local_part}@{host.lower()}"[:400])
    return f"{local_part}@{domain(host)}"


def own_mailbox(value: object) -> str:
    """An address of this server: lower case, no plus (`recipient_delimiter`), safe as a directory name."""
    if isinstance(value, str) and value.startswith("@"):
        raise invalid(f"a full address; for all of a domain use `catch_all: {{{value[1:]}: …}}`")
    if isinstance(value, str) and value.isascii() and value != value.lower():
        raise invalid(f"lower case: {value.lower()}"[:400])
    address = mailbox(value)
    local_part, _, host = address.rpartition("@")
    if "+" in local_part:
        base = f"{local_part.partition('+')[0]}@{host}"
        raise invalid(f"an address without +: mail to {address} reaches {base} by itself")
    if not re.fullmatch(OWN_LOCAL_PART, local_part):
        raise invalid("letters, digits, dots, - and _ before the @, beginning with a letter or digit")
    return address


def strip_extension(address: str) -> str:
    """Without its +extension, as `recipient_delimiter` takes it."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part.partition('+')[0]}@{domain}".lower()


def targets(value: object) -> object:
    return [value] if isinstance(value, str) else value


def password_hash(value: object, info: ValidationInfo) -> str:
    """`{ARGON2ID}$argon2id$v=19$m=KiB,t=passes,p=lanes$salt$hash`, neither too weak nor too expensive."""
    remedy = f"Set it with: mailkeep account passwd NAME {info.data.get('address', 'ADDRESS')}"
    match = ARGON2ID.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise invalid(f"a hash {{ARGON2ID}}$argon2id$…, never clear text. {remedy}", _no_hash(value))
    memory, passes, lanes = (int(number) for number in match.group(1, 2, 3))
    low, high = ARGON2_MEMORY
    if memory < low or memory * passes < ARGON2_WORK:
        raise invalid(f"at least m={low},t=5 or m=19456,t=2. {remedy}", "a hash that is too weak")
    if memory > high or passes > ARGON2_PASSES or not 1 <= lanes <= ARGON2_LANES:
        want = f"at most m={high},t={ARGON2_PASSES},p={ARGON2_LANES}, which a 1 GB machine bears"
        raise invalid(f"{want}. {remedy}", "a hash that is too expensive")
    return match[0]


def _no_hash(value: object) -> str:
    if isinstance(value, str) and value.startswith("{") and "}" in value:
        return "another kind of hash, or a damaged one (not shown)"
    return "no hash (not shown)"


def display_name(value: object) -> str:
    if value == "":
        return ""
    want = "a name of at most 100 printable characters without a colon"
    name = _text(value, want)
    if not name.isprintable() or ":" in name or len(name) > 100:
        raise invalid(want)
    return name


def public_address(value: object) -> Address:
    """An address the world can reach. The documentation ranges (RFC 5737, RFC 3849) do: labs live in them."""
    address: Address = _parsed(ip_address, value, "an IPv4 or IPv6 address such as 203.0.113.25")
    for kind, network in _NEVER_PUBLIC:
        if address in network:
            raise invalid(f"a public address; this one is {kind}")
    return address


def network(value: object) -> Network:
    """A network in CIDR form; a bare address is a network of one. Never so large that it means everybody."""
    want = "a network such as 203.0.113.0/24"
    try:
        found: Network = _parsed(ip_network, value, want)
    except PydanticCustomError:
        meant = _parsed(lambda text: ip_network(text, strict=False), value, want)
        raise invalid(f"no host bits: did you mean {meant}?") from None
    if found.prefixlen < 8:
        raise invalid("a network of /8 or smaller")
    return found


def _parsed(parse: Callable[[str], Any], value: object, want: str) -> Any:
    written = value if isinstance(value, str) else str(value) if isinstance(value, Address | Network) else ""
    try:
        # `%` would begin an IPv6 scope, which means nothing on another machine.
        return parse("" if "%" in written else written)
    except ValueError:
        raise invalid(want) from None


def port(value: object) -> int:
    """A TCP port by number or by its name in /etc/services."""
    if isinstance(value, str) and value in SERVICES:
        return SERVICES[value]
    number = _integer(value)
    if number is None or not 1 <= number <= 65535:
        raise invalid(f"a port from 1 to 65535, or one of {', '.join(SERVICES)}")
    return number


def _integer(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,14}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def integer_between(low: int, high: int) -> tuple[BeforeValidator, WithJsonSchema]:
    """The metadata of a whole number from `low` to `high`."""

    def parse(value: object) -> int:
        number = _integer(value)
        if number is None or not low <= number <= high:
            raise invalid(f"a whole number from {low} to {high}")
        return number

    return BeforeValidator(parse), WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


def size_between(low: str, high: str) -> tuple[BeforeValidator, WithJsonSchema]:
    """The metadata of a size in bytes from `low` to `high`, both written as in `mail.yml`."""

    def parse(value: object) -> int:
        bytes_ = _bytes(value)
        if bytes_ is None:
            raise invalid("a size such as 500M or 2G")
        if not limits[0] <= bytes_ <= limits[1]:
            raise invalid(f"a size from {low} to {high}")
        return bytes_

    limits = (_bytes(low) or 0, _bytes(high) or 0)
    written = {"type": "string", "pattern": "^[0-9]{1,15}[KMGT]?$"}
    return BeforeValidator(parse), WithJsonSchema({"anyOf": [written, {"type": "integer", "minimum": 0}]})


def _bytes(value: object) -> int | None:
    match = re.fullmatch(r"([0-9]{1,15})([KMGT])", value) if isinstance(value, str) else None
    return int(match[1]) * UNITS[match[2]] if match else _integer(value)


def format_size(number: int) -> str:
    """Bytes as `mail.yml` has them: 500M."""
    unit = next(unit for unit in reversed(UNITS) if number % UNITS[unit] == 0 and (number or not unit))
    return f"{number // UNITS[unit]}{unit}"


def switch(value: object) -> bool:
    known = {"true": True, "yes": True, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in known:
        raise invalid("true or false")
    return known[value]


def user_name(value: object) -> str:
    name = _text(value, "the name of a Linux user")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
        raise invalid("the name of a Linux user: small letters, digits, - and _, at most 32")
    return name


def login(value: object) -> str:
    want = "a login name: printable ASCII without spaces or colons"
    if not re.fullmatch(r"[!-9;-~]{1,255}", _text(value, want)):
        raise invalid(want)
    return str(value)


def json_template(value: object) -> str:
    """JSON once its placeholders are filled in."""
    text = _text(value, 'JSON, such as {"content": "{text}"}')
    try:
        json.loads(re.sub(r"\{(?:title|text|host|time)\}", "x", text))
    except ValueError as error:
        raise invalid(f"JSON ({error}), with placeholders inside of quotes", "no JSON") from None
    if "{text}" not in text and "{title}" not in text:
        raise invalid("a template with {text} or {title} in it")
    return text


def spf_term(value: object) -> str:
    """A mechanism of an SPF record that lets somebody else send (RFC 7208 section 5)."""
    want = "an SPF term such as include:_spf.example.net or ip4:198.51.100.7"
    kind, _, argument = _text(value, want).partition(":")
    if kind in ("ip4", "ip6"):
        found = network(argument)
        if f"ip{found.version}" != kind:
            raise invalid(f"ip{found.version}:{argument}")
        if not re.fullmatch(r"[^/]+(?:/(?:0|[1-9][0-9]*))?", argument):
            raise invalid(f"{kind}:{found}: SPF knows the length of a network alone, without zeros before it")
    elif kind not in ("include", "a", "mx") or not re.fullmatch(SPF_DOMAIN, argument):
        raise invalid(want)
    return str(value)


def file_beside(value: object) -> str:
    """The path of a file in the inventory's directory."""
    path = _text(value, "the path of a file beside mail.yml")
    if not path.isprintable() or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise invalid("a path that stays beside mail.yml, such as chain.pem")
    return path


def https_url(value: object) -> str:
    want = "a URL such as https://acme.example.net/directory"
    if not re.fullmatch(HTTPS_URL, _text(value, want)):
        raise invalid(want)
    return str(value)


def dns_provider(value: object) -> str:
    """A name of lego's; whether it is one, lego itself says on the server."""
    name = _text(value, "the name of a DNS provider")
    if not re.fullmatch(DNS_PROVIDER, name):
        raise invalid("one of the names that `lego dnshelp` lists, such as rfc2136")
    return name


def _written(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


_ADDRESS = WithJsonSchema({"type": "string", "pattern": f"^{MAILBOX}@{DOMAIN}$"})

Domain = Annotated[str, BeforeValidator(domain), _written(DOMAIN)]
HostName = Annotated[str, BeforeValidator(host_name), _written(DOMAIN)]
RelayHost = Annotated[str, BeforeValidator(relay_host), _written(r"[0-9a-z.:-]+")]
Mailbox = Annotated[str, BeforeValidator(mailbox), _ADDRESS]
OwnMailbox = Annotated[str, BeforeValidator(own_mailbox), _written(f"(?:{OWN_LOCAL_PART})@{DOMAIN}")]
Targets = Annotated[
    tuple[Mailbox, ...],
    Field(min_length=1, max_length=1000),  # virtual_alias_expansion_limit
    BeforeValidator(targets, json_schema_input_type=Mailbox | tuple[Mailbox, ...]),
]
PasswordHash = Annotated[str, BeforeValidator(password_hash), _written(ARGON2ID.pattern)]
DisplayName = Annotated[str, BeforeValidator(display_name), _written("[^:]{0,100}")]
PublicAddress = Annotated[Address, BeforeValidator(public_address)]
AnyNetwork = Annotated[Network, BeforeValidator(network), _written(r"[0-9a-fA-F.:]+(?:/[0-9.]+)?")]
Port = Annotated[
    int,
    BeforeValidator(port),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, {"enum": [*SERVICES]}]}),
]
Switch = Annotated[
    bool, BeforeValidator(switch), WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no"]}]})
]
UserName = Annotated[str, BeforeValidator(user_name), _written("[a-z_][a-z0-9_-]{0,31}")]
Login = Annotated[str, BeforeValidator(login), _written("[!-9;-~]{1,255}")]
JsonTemplate = Annotated[str, BeforeValidator(json_template), WithJsonSchema({"type": "string"})]

SpfTerm = Annotated[str, BeforeValidator(spf_term), _written(r"(?:include|a|mx|ip4|ip6):\S+")]
HttpsUrl = Annotated[str, BeforeValidator(https_url), _written(HTTPS_URL)]
DnsProvider = Annotated[str, BeforeValidator(dns_provider), _written(DNS_PROVIDER)]
FileBeside = Annotated[str, BeforeValidator(file_beside), WithJsonSchema({"type": "string"})]
