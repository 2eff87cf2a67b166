"""The kinds of texts in `mail.yml`: names, addresses, networks, hashes.

Each parser returns the value, or raises `invalid` with what it expects.
They read the text that `yaml_reader` yields, and equally the Python values of callers.
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

from mailkeep.settings import password_hashes
from mailkeep.settings.field_errors import invalid, require_text
from mailkeep_server.common.alias_patterns import STAR

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = rf"(?:{LABEL}\.)+(?=[a-z0-9-]*[a-z]){LABEL}"  # RFC 1123 §2.1: the last label is not all digits
SPF_DOMAIN = rf"(?:[a-z0-9_-]{{1,63}}\.)+(?=[a-z0-9-]*[a-z]){LABEL}"  # _spf.example.net: RFC 7208 §7.1
ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"  # RFC 5322 §3.2.3
MAILBOX = rf"{ATEXT}(?:\.{ATEXT})*"
MAX_LOCAL_PART = 64  # RFC 5321 §4.5.3.1.1
MAX_EXPANSION = 1000  # addresses that an alias leads to in the end: virtual_alias_expansion_limit
MAX_CLOSED_LISTS = 50  # of members only: Postfix has a table for each
MAX_FORWARDS = 5  # of one account: each message is sent as often
OWN_LOCAL_PART = r"[a-z0-9](?:[a-z0-9_-]|\.(?!\.)){0,62}[a-z0-9_-]|[a-z0-9]"
HTTPS_URL = rf"https://{DOMAIN}(?::[0-9]{{1,5}})?/[A-Za-z0-9._~/-]*"
DNS_PROVIDER = "[a-z0-9][a-z0-9-]{0,30}"
USER_NAME = "[a-z_][a-z0-9_-]{0,31}"
FINDING_NAME = r"[a-z0-9-]+:[^\s:][^\n]{0,300}"
TARGET_NAME = "[a-z][a-z0-9-]{0,30}"
REPOSITORY_PATH = "/[A-Za-z0-9._/-]{1,200}"
HOST_KEY = "(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)) AAAA[A-Za-z0-9+/]{16,1400}={0,2}"
LOGIN = "[!-9;-~]{1,255}"  # printable ASCII but space and colon
OWN_SENDER = "an address, a network, a name or an SPF term, such as 192.0.2.77 or include:_spf.example.net"
# Never in the public DNS: RFC 6761, RFC 6762, and the names that /etc/hosts gives the machine itself.
LOCAL_NAMES = {"localhost", "localdomain", "local", "invalid"}

NEVER_PUBLIC = {
    "unspecified": ("0.0.0.0/8", "::/128"),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "reserved": ("240.0.0.0/4", "::ffff:0:0/96"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
}
_NEVER_PUBLIC = [(kind, ip_network(network)) for kind, networks in NEVER_PUBLIC.items() for network in networks]


def parse_domain(value: object) -> str:
    """A fully qualified domain name: lower-case ASCII, no final dot (RFC 1123; IDN as A-labels, RFC 5890)."""
    name = require_text(value, "a domain name such as example.org")
    if not name.isascii():
        raise invalid(f"its ASCII form{_suggest_a_label(name)}")
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


def _suggest_a_label(name: str) -> str:
    # Python's codec is IDNA 2003, which maps these four to other letters than IDNA 2008: better no advice.
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


def parse_host_name(value: object) -> str:
    name = parse_domain(value)
    if len(name) > 64:  # HOST_NAME_MAX
        raise invalid("a host name of at most 64 characters, which is Linux's limit")
    return name


def parse_relay_host(value: object) -> str:
    if isinstance(value, str) and value.startswith("["):
        raise invalid("the name without brackets or port; the port is `relay.port`")
    try:
        return str(ip_address(require_text(value, "a host name such as smtp.example.net")))
    except ValueError:
        return parse_domain(value)


def parse_mailbox(value: object) -> str:
    """Any address that mail may go to: an ASCII dot-atom and a domain (SMTPUTF8 is off: RFC 6531)."""
    expected = "an address such as anna@example.org"
    address = require_text(value, expected)
    local_part, at, host = address.rpartition("@")
    if not at or not local_part:
        raise invalid(expected)
    if not local_part.isascii():
        raise invalid("an ASCII local part: this server does not offer SMTPUTF8")
    if len(local_part) > MAX_LOCAL_PART or not re.fullmatch(MAILBOX, local_part):
        raise invalid(expected)
    if host != host.lower():
        raise invalid(f"the domain in lower case: {local_part}@{host.lower()}"[:400])
    return f"{local_part}@{parse_domain(host)}"


def parse_own_mailbox(value: object) -> str:
    """An address of this server: lower case, no plus (`recipient_delimiter`), safe as a directory name."""
    if isinstance(value, str) and value.startswith("@"):
        raise invalid(f"a full address; for all of a domain use `catch_all: {{{value[1:]}: …}}`")
    if isinstance(value, str) and value.isascii() and value != value.lower():
        raise invalid(f"lower case: {value.lower()}"[:400])
    address = parse_mailbox(value)
    local_part = address.rpartition("@")[0]
    if "+" in local_part:
        raise invalid(f"an address without +: mail to {address} reaches {strip_extension(address)} by itself")
    if not re.fullmatch(OWN_LOCAL_PART, local_part):
        raise invalid("letters, digits, dots, - and _ before the @, beginning with a letter or digit")
    return address


def parse_own_pattern(value: object) -> str:
    """An address of this server, perhaps with one `*` before the @."""
    if not isinstance(value, str) or STAR not in value:
        return parse_own_mailbox(value)
    local_part, _, domain = value.rpartition("@")
    if local_part == STAR:
        raise invalid(f"more than `*` before the @; for all of a domain use `catch_all: {{{domain}: …}}`")
    if value.count(STAR) > 1 or STAR in domain:
        raise invalid("one `*` at most, before the @: shop-*@example.org")
    parse_own_mailbox(f"{local_part.replace(STAR, 'x')}@{domain}")
    return value


def strip_extension(address: str) -> str:
    """Without its +extension, as Postfix's `recipient_delimiter` reads it; lower case."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part.partition('+')[0]}@{domain}".lower()


def _wrap_single_target(value: object) -> object:
    return [value] if isinstance(value, str) else value


def parse_password_hash(value: object, info: ValidationInfo) -> str:
    """A hash of one of the kinds that Dovecot verifies, with its scheme."""
    return password_hashes.parse_password_hash(value, info.data.get("address", "ADDRESS"))


def parse_display_name(value: object) -> str:
    if value == "":
        return ""
    expected = "a name of at most 100 printable characters without a colon"
    name = require_text(value, expected)
    if not name.isprintable() or ":" in name or len(name) > 100:
        raise invalid(expected)
    return name


def parse_public_address(value: object) -> Address:
    """An address that the Internet can reach. The documentation networks (RFC 5737, RFC 3849) pass, for labs."""
    address: Address = _parse_ip(ip_address, value, "an IPv4 or IPv6 address such as 203.0.113.25")
    for kind, network in _NEVER_PUBLIC:
        if address in network:
            raise invalid(f"a public address; this one is {kind}")
    return address


def parse_network(value: object) -> Network:
    """A network in CIDR form; a bare address is a network of one. Never so large that it means everybody."""
    expected = "a network such as 203.0.113.0/24"
    try:
        network: Network = _parse_ip(ip_network, value, expected)
    except PydanticCustomError:
        without_host_bits = _parse_ip(lambda text: ip_network(text, strict=False), value, expected)
        raise invalid(f"no host bits: did you mean {without_host_bits}?") from None
    if network.prefixlen < 8:
        raise invalid("a network of /8 or smaller")
    return network


def _parse_ip(parse: Callable[[str], Any], value: object, expected: str) -> Any:
    text = value if isinstance(value, str) else str(value) if isinstance(value, Address | Network) else ""
    try:
        # `%` would begin an IPv6 scope, which means nothing on another machine.
        return parse("" if "%" in text else text)
    except ValueError:
        raise invalid(expected) from None


def parse_user_name(value: object) -> str:
    name = require_text(value, "the name of a Linux user")
    if not re.fullmatch(USER_NAME, name):
        raise invalid("the name of a Linux user: small letters, digits, - and _, at most 32")
    return name


def parse_finding_name(value: object) -> str:
    expected = "the name of a finding, as `mailkeep verify` shows it, such as job:/etc/cron.d/backup"
    if not re.fullmatch(FINDING_NAME, require_text(value, expected)):
        raise invalid(expected)
    return str(value)


def parse_login(value: object) -> str:
    expected = "a login name: printable ASCII without spaces or colons"
    if not re.fullmatch(LOGIN, require_text(value, expected)):
        raise invalid(expected)
    return str(value)


def parse_json_template(value: object) -> str:
    """JSON once its placeholders are filled in."""
    text = require_text(value, 'JSON, such as {"content": "{text}"}')
    try:
        json.loads(re.sub(r"\{(?:title|text|host|time)\}", "x", text))
    except ValueError as error:
        raise invalid(f"JSON ({error}), with placeholders inside of quotes", "no JSON") from None
    if "{text}" not in text and "{title}" not in text:
        raise invalid("a template with {text} or {title} in it")
    return text


def parse_spf_term(value: object) -> str:
    """A mechanism of an SPF record that lets another server send (RFC 7208 §5)."""
    expected = "an SPF term such as include:_spf.example.net or ip4:198.51.100.7"
    kind, _, argument = require_text(value, expected).partition(":")
    if kind in ("ip4", "ip6"):
        network = parse_network(argument)
        if f"ip{network.version}" != kind:
            raise invalid(f"ip{network.version}:{argument}")
        if not re.fullmatch(r"[^/]+(?:/(?:0|[1-9][0-9]*))?", argument):
            raise invalid(f"{kind}:{network}: SPF takes the length of a network, without leading zeros")
    elif kind not in ("include", "a", "mx") or not re.fullmatch(SPF_DOMAIN, argument):
        raise invalid(expected)
    return str(value)


def parse_own_sender(value: object) -> str:
    """An address, a network, a name or an SPF term; as an SPF term."""
    text = require_text(value, OWN_SENDER)
    if re.match(r"(?:include|a|mx|ip4|ip6):(?!:)", text) and not _is_ip(text):
        return parse_spf_term(text)
    if re.match(r"[0-9a-fA-F.]*:|[0-9]+(?:\.[0-9]+){3}", text):
        network = parse_network(text)
        return f"ip{network.version}:{network}"
    if not re.fullmatch(SPF_DOMAIN, text):
        raise invalid(OWN_SENDER)
    return f"a:{text}"


def _is_ip(text: str) -> bool:
    try:
        return bool(ip_network(text, strict=False))
    except ValueError:
        return False


def parse_file_beside(value: object) -> str:
    """The path of a file in the inventory's directory."""
    path = require_text(value, "the path of a file beside mail.yml")
    if not path.isprintable() or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise invalid("a path that stays beside mail.yml, such as chain.pem")
    return path


def parse_https_url(value: object) -> str:
    expected = "a URL such as https://acme.example.net/directory"
    if not re.fullmatch(HTTPS_URL, require_text(value, expected)):
        raise invalid(expected)
    return str(value)


def parse_dns_provider(value: object) -> str:
    """A name of lego's form; lego itself says on the server whether it knows the provider."""
    name = require_text(value, "the name of a DNS provider")
    if not re.fullmatch(DNS_PROVIDER, name):
        raise invalid("one of the names that `lego dnshelp` lists, such as rfc2136")
    return name


def parse_target_name(value: object) -> str:
    name = require_text(value, "a name such as offsite")
    if not re.fullmatch(TARGET_NAME, name):
        raise invalid("a name of lower-case letters, digits and hyphens, such as offsite")
    return name


def parse_repository_path(value: object) -> str:
    """An absolute path that borg's URLs can hold."""
    path = require_text(value, "an absolute path such as /srv/backup/mail")
    if not re.fullmatch(REPOSITORY_PATH, path) or ".." in PurePosixPath(path).parts:
        raise invalid("an absolute path of letters, digits and ._-/, such as /srv/backup/mail")
    return path


def parse_host_key(value: object) -> str:
    """A public key as known_hosts has it (sshd(8)): its type, and base64."""
    key = require_text(value, "a host key such as ssh-ed25519 AAAA…")
    if not re.fullmatch(HOST_KEY, key):
        raise invalid("type and key, such as `ssh-ed25519 AAAA…`, as `ssh-keyscan -t ed25519 HOST` prints them")
    return key


def _text_schema(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern})$"})


_ADDRESS_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{MAILBOX}@{DOMAIN}$"})

Domain = Annotated[str, BeforeValidator(parse_domain), _text_schema(DOMAIN)]
HostName = Annotated[str, BeforeValidator(parse_host_name), _text_schema(DOMAIN)]
RelayHost = Annotated[str, BeforeValidator(parse_relay_host), _text_schema(r"[0-9a-z.:-]+")]
Mailbox = Annotated[str, BeforeValidator(parse_mailbox), _ADDRESS_SCHEMA]
OwnMailbox = Annotated[str, BeforeValidator(parse_own_mailbox), _text_schema(f"(?:{OWN_LOCAL_PART})@{DOMAIN}")]
OwnPattern = Annotated[str, BeforeValidator(parse_own_pattern), _text_schema(rf"[a-z0-9*._-]{{1,64}}@{DOMAIN}")]
Targets = Annotated[
    tuple[Mailbox, ...],
    Field(min_length=1, max_length=MAX_EXPANSION),
    BeforeValidator(_wrap_single_target, json_schema_input_type=Mailbox | tuple[Mailbox, ...]),
]
PasswordHash = Annotated[str, BeforeValidator(parse_password_hash), _text_schema(password_hashes.PATTERN)]
DisplayName = Annotated[str, BeforeValidator(parse_display_name), _text_schema("[^:]{0,100}")]
PublicAddress = Annotated[Address, BeforeValidator(parse_public_address)]
AnyNetwork = Annotated[Network, BeforeValidator(parse_network), _text_schema(r"[0-9a-fA-F.:]+(?:/[0-9.]+)?")]
UserName = Annotated[str, BeforeValidator(parse_user_name), _text_schema(USER_NAME)]
FindingName = Annotated[str, BeforeValidator(parse_finding_name), _text_schema(FINDING_NAME)]
Login = Annotated[str, BeforeValidator(parse_login), _text_schema(LOGIN)]
JsonTemplate = Annotated[str, BeforeValidator(parse_json_template), WithJsonSchema({"type": "string"})]

SpfTerm = Annotated[str, BeforeValidator(parse_spf_term), _text_schema(r"(?:include|a|mx|ip4|ip6):\S+")]
OwnSender = Annotated[
    str,
    BeforeValidator(parse_own_sender, json_schema_input_type=str),
    _text_schema(r"(?:(?:include|a|mx|ip4|ip6):)?\S+"),
]
HttpsUrl = Annotated[str, BeforeValidator(parse_https_url), _text_schema(HTTPS_URL)]
DnsProvider = Annotated[str, BeforeValidator(parse_dns_provider), _text_schema(DNS_PROVIDER)]
FileBeside = Annotated[str, BeforeValidator(parse_file_beside), WithJsonSchema({"type": "string"})]
TargetName = Annotated[str, BeforeValidator(parse_target_name), _text_schema(TARGET_NAME)]
RepositoryPath = Annotated[str, BeforeValidator(parse_repository_path), _text_schema(REPOSITORY_PATH)]
HostKey = Annotated[str, BeforeValidator(parse_host_key), _text_schema(HOST_KEY)]
