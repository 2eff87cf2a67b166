"""The sections of `mail.yml` as data, and nothing about how a host is built from them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mailkeep.settings.fields import (
    AnyNetwork,
    DisplayName,
    DnsProvider,
    Domain,
    FileBeside,
    HostName,
    HttpsUrl,
    JsonTemplate,
    Login,
    Mailbox,
    OwnMailbox,
    PasswordHash,
    Port,
    PublicAddress,
    RelayHost,
    SpfTerm,
    Switch,
    Targets,
    UserName,
    integer_between,
    size_between,
)

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_written_means_the_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


class Host(Model):
    """The server itself."""

    name: HostName = Field(
        description="Its fully qualified name (HELO, certificate, MX); not one of the mail domains.",
        examples=["mail.example.org"],
    )
    addresses: tuple[PublicAddress, ...] = Field(
        min_length=1,
        description="Its public addresses, IPv4 and IPv6.",
        examples=[["203.0.113.25", "2001:db8::25"]],
    )


Number = Annotated[int, *integer_between(1, 1_000_000)]

# What a person needs who writes a lot, with room; a program that sends needs limits of its own.
DEFAULT_LIMITS = {
    "messages_per_10_minutes": 20,
    "messages_per_hour": 60,
    "messages_per_day": 300,
    "recipients_per_10_minutes": 60,
    "recipients_per_hour": 150,
    "recipients_per_day": 500,
    "new_recipients_per_day": 200,
    "networks_per_hour": 8,
}


class Limits(Model):
    """How much may be sent. Each counts by itself, at every moment over the time that has just passed; a message counts
    as its recipients."""

    messages_per_10_minutes: Number | None = Field(
        default=None, description="Messages in any ten minutes. Default: 20.", examples=[20]
    )
    messages_per_hour: Number | None = Field(
        default=None, description="Messages in any hour. Default: 60.", examples=[60]
    )
    messages_per_day: Number | None = Field(
        default=None, description="Messages in any day. Default: 300.", examples=[300]
    )
    recipients_per_10_minutes: Number | None = Field(
        default=None, description="Recipients in any ten minutes. Default: 60.", examples=[60]
    )
    recipients_per_hour: Number | None = Field(
        default=None, description="Recipients in any hour. Default: 150.", examples=[150]
    )
    recipients_per_day: Number | None = Field(
        default=None, description="Recipients, all messages together, in any day. Default: 500.", examples=[500]
    )
    new_recipients_per_day: Number | None = Field(
        default=None,
        description="Recipients whom the account has never written to, in any day. Default: 200.",
        examples=[200],
    )
    networks_per_hour: Number | None = Field(
        default=None,
        description="Networks (IPv4 /24, IPv6 /48) that it sends from, in any hour. Default: 8.",
        examples=[8],
    )


class Account(Model):
    """One mailbox and the login to it."""

    address: OwnMailbox = Field(
        description="The address, which is also the login name: lower-case ASCII in one of the mail domains, "
        "without a plus sign (mail to `anna+anything` reaches `anna` by itself).",
        examples=["anna@example.org"],
    )
    password: PasswordHash = Field(
        repr=False,
        description="The hash that `mailkeep account passwd` writes, in quotes; never clear text.",
        examples=["{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$…$…"],
    )
    name: DisplayName = Field(
        default="", description="The name of the person, without a colon.", examples=["Anna Example"]
    )
    quota: Annotated[int, *size_between("1M", "16T")] | None = Field(
        default=None,
        description="The most that the mailbox may hold, such as 500M or 2G; at least 1M. Without it, 1G. For "
        "each 8 KiB of it, one message: small ones fill a disk too.",
        examples=["2G"],
    )
    send_as: tuple[OwnMailbox, ...] = Field(
        default=(),
        description="More addresses in the mail domains that this account may send from. Its own needs no "
        "mention, another account's own is refused.",
        examples=[["info@example.org"]],
    )
    limits: Limits = Field(
        default=Limits(), description="How much it may send, where that is other than `guard.limits`."
    )


class Admin(Model):
    """The people who run the server."""

    addresses: tuple[Mailbox, ...] = Field(
        min_length=1,
        max_length=20,
        description="Where reports, alarms and the host's own mail (root, postmaster) go. One elsewhere "
        "still reaches you when this server does not work.",
        examples=[["you@example.net"]],
    )
    networks: tuple[AnyNetwork, ...] = Field(
        default=(),
        max_length=64,
        description="Networks that are never banned, such as your own connection at home.",
        examples=[["203.0.113.0/24", "2001:db8:1::/48"]],
    )


class Relay(Model):
    """A smarthost for all outbound mail, where port 25 is blocked. Its password is in the vault."""

    host: RelayHost = Field(description="Its name, without brackets.", examples=["smtp.example.net"])
    port: Port = Field(default=587, description="Its submission port.", examples=[587, "submissions"])
    user: Login | None = Field(default=None, description="The login name there, if any.", examples=["anna"])


class Acme(Model):
    """Where certificates come from with `tls.mode: acme`, and how the authority sees that the names are yours."""

    directory: HttpsUrl = Field(
        default=LETS_ENCRYPT,
        description="The ACME directory of the certificate authority.",
        examples=["https://acme-staging-v02.api.letsencrypt.org/directory"],
    )
    contact: Mailbox | None = Field(
        default=None,
        description="The address that the authority knows you by. Without it, the first of `admin.addresses`.",
        examples=["you@example.net"],
    )
    challenge: Literal["http-01", "dns-01"] = Field(
        default="http-01",
        description="`http-01`: the authority asks the server on port 80, which is then open. `dns-01`: it asks the "
        "DNS, where the server enters the answer by itself.",
        examples=["dns-01"],
    )
    provider: DnsProvider | None = Field(
        default=None,
        description="With `dns-01`: who has your DNS, by the name that `lego dnshelp` lists. Its credentials are in "
        "the vault: `mailkeep acme` asks for them.",
        examples=["rfc2136"],
    )


class Tls(Model):
    """The certificate that the server shows."""

    mode: Literal["self-signed", "files", "acme"] = Field(
        default="self-signed",
        description="`self-signed` makes one, which mail clients warn of. `files` uses yours. `acme` has the server "
        "get one from a certificate authority and renew it, by itself.",
        examples=["acme"],
    )
    certificate: FileBeside | None = Field(
        default=None,
        description="With `files`: the chain (PEM) beside mail.yml. Its key is in the vault.",
        examples=["chain.pem"],
    )
    acme: Acme = Field(default=Acme(), description="With `acme`: from whom, and how.")

    @property
    def answers_on_port_80(self) -> bool:
        """Whether the certificate authority asks there."""
        return self.mode == "acme" and self.acme.challenge == "http-01"

    @property
    def issuer(self) -> str:
        """The name by which CAA records call the ACME authority (RFC 8659 §4.2); "" where none is known."""
        return _ISSUERS.get(urlsplit(self.acme.directory).hostname or "", "") if self.mode == "acme" else ""


# Other well-known authorities require External Account Binding (RFC 8555 §7.3.4), which Mailkeep does not offer.
_ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
}


class Retention(Model):
    """What is deleted by itself, so that nothing fills the disk."""

    journal: Annotated[int, *size_between("16M", "64G")] = Field(
        default=200 * 2**20,
        description="The most that the logs may hold (journald's SystemMaxUse), 16M to 64G.",
        examples=["200M"],
    )
    queue_days: Annotated[int, *integer_between(1, 5)] = Field(
        default=2,
        description="Days until undelivered mail goes back (Postfix's maximal_queue_lifetime), 1 to 5.",
        examples=[2],
    )
    trash_days: Annotated[int, *integer_between(1, 3650)] = Field(
        default=30,
        description="Days after which mail in Trash and Junk is deleted, 1 to 3650.",
        examples=[30],
    )


class Ssh(Model):
    """How the server is administered."""

    port: Port = Field(default=22, description="The port that sshd listens on.", examples=[22])
    passwords: Switch = Field(default=False, description="Whether passwords do beside keys.", examples=[False])


class Firewall(Model):
    """SSH and the mail ports are open, port 80 if certificates come by http-01, and nothing else but what is here."""

    block: tuple[AnyNetwork, ...] = Field(
        default=(), description="Networks that reach nothing on this server.", examples=[["198.51.100.0/24"]]
    )
    open: tuple[Port, ...] = Field(
        default=(),
        description="More TCP ports to open to everyone, by number or by name.",
        examples=[["https", 8443]],
    )


class Ceiling(Model):
    """How much all accounts together may send."""

    recipients_per_hour: Number = Field(default=2000, description="Recipients in any hour.", examples=[2000])
    recipients_per_day: Number = Field(default=10_000, description="Recipients in any day.", examples=[10000])


class LocalCeiling(Ceiling):
    """How much programs on the server may send (sendmail(1)), all together."""

    recipients_per_hour: Number = Field(default=100, description="Recipients in any hour.", examples=[100])
    recipients_per_day: Number = Field(default=500, description="Recipients in any day.", examples=[500])


class Freeze(Model):
    """What no honest user does: from that many on, the account is frozen."""

    refused_tries: Number = Field(
        default=30, description="Messages refused over a limit, in ten minutes.", examples=[30]
    )
    foreign_senders: Number = Field(
        default=10, description="Messages that say to be from somebody else, in an hour.", examples=[10]
    )
    networks: Number = Field(
        default=8, description="Networks beyond its limit that it tries to send from, in an hour.", examples=[8]
    )
    new_recipients: Number = Field(
        default=300, description="Different first-time recipients refused over its limit, in a day.", examples=[300]
    )


class SharedStore(Model):
    """One Valkey or Redis in which several mail servers count together. `mailkeep store` asks for its password."""

    host: RelayHost = Field(description="Its name or address.", examples=["valkey.example.org"])
    port: Port = Field(default=6379, description="Its port.", examples=[6379])
    tls: Switch = Field(
        default=True, description="Whether it speaks TLS, with a certificate that proves its name.", examples=[True]
    )
    user: Login = Field(default="default", description="The login name there.", examples=["mailkeep"])


class Guard(Model):
    """What bounds the harm of a stolen password."""

    mode: Literal["enforce", "learn"] = Field(
        default="enforce",
        description="`learn` refuses and freezes nothing, and only reports what it would have.",
        examples=["enforce"],
    )
    limits: Limits = Field(default=Limits(), description="How much every account may send.")
    server: Ceiling = Field(default=Ceiling(), description="How much all accounts together may send.")
    local: LocalCeiling = Field(
        default=LocalCeiling(), description="How much programs on the server may send (sendmail(1)), all together."
    )
    freeze: Freeze = Field(default=Freeze(), description="When an account is frozen.")
    shared_store: SharedStore | None = Field(
        default=None, description="Where several mail servers of the same accounts count together."
    )


class Webhook(Model):
    """Where alerts go beside mail, which may not arrive when they matter most. `mailkeep webhook` asks for its URL."""

    format: Literal["ntfy", "slack", "matrix"] = Field(
        default="ntfy",
        description="What it is sent: ntfy's; JSON as Slack, Mattermost and others take it; or a message to a Matrix "
        "room (the URL ends in `/send/m.room.message`).",
        examples=["ntfy"],
    )
    template: JsonTemplate | None = Field(
        default=None,
        description="JSON to send instead, in which `{title}`, `{text}`, `{host}` and `{time}` are filled in.",
        examples=['{"content": "{text}"}'],
    )


class Alerts(Model):
    """What the administrators hear of within seconds, beside accounts over their limits and services that are down.
    Mail goes to `admin.addresses`."""

    webhook: Webhook | None = Field(default=None, description="A second way beside mail.")
    queue: Annotated[int, *integer_between(1, 100_000)] = Field(
        default=200, description="Messages in the queue above which it is told, 1 to 100000.", examples=[200]
    )
    disk: Annotated[int, *integer_between(10, 99)] = Field(
        default=85,
        description="Per cent of a disk's space or inodes in use from which on it is told, 10 to 99.",
        examples=[85],
    )
    certificate_days: Annotated[int, *integer_between(1, 90)] = Field(
        default=14, description="Days before the certificate's end from which on it is told, 1 to 90.", examples=[14]
    )
    failed_logins: Annotated[int, *integer_between(10, 1_000_000)] = Field(
        default=300,
        description="Logins that failed in ten minutes, from all addresses together, above which it is told, "
        "10 to 1000000.",
        examples=[300],
    )


class Dns(Model):
    """What the DNS tells the world beside what follows from all else; `mailkeep dns` prints the records."""

    dmarc: Literal["none", "quarantine", "reject"] = Field(
        default="reject",
        description="What others do with mail that claims to be yours and is not. A domain that sent from elsewhere "
        "before begins with `none`; `mailkeep dns` says what to look at before the next step.",
        examples=["none"],
    )
    reports: Mailbox | None = Field(
        default=None,
        description="Where others send their reports about your mail (DMARC, TLS-RPT). Without it, to postmaster at "
        "the host name, which is `admin.addresses`.",
        examples=["reports@example.net"],
    )
    spf: tuple[SpfTerm, ...] = Field(
        default=(),
        max_length=10,
        description="What sends for your domains beside this server, as SPF terms. With a relay host, "
        "`include:` and its name (or `ip4:`, `ip6:` and its address) unless something is given here. A relay host "
        "whose name has no SPF record needs something: what its provider names for SPF.",
        examples=[["include:_spf.example.net"]],
    )
    never_send: tuple[Domain, ...] = Field(
        default=(),
        max_length=100,
        description="More names of yours that send no mail, such as that of a web server: they get records that say "
        "so. Mail domains and the host are not among them.",
        examples=[["www.example.org"]],
    )
    mta_sts: Literal["off", "testing", "enforce"] = Field(
        default="off",
        description="MTA-STS: others insist on TLS to this server. Its policy is served here, at "
        "https://mta-sts.DOMAIN, unless `web.mta_sts` says otherwise. Needs a certificate that the world trusts. Begin "
        "with `testing`.",
        examples=["testing"],
    )
    caa: tuple[Domain, ...] = Field(
        default=(),
        max_length=10,
        description="The only certificate authorities that may issue for the host, by the names that they document "
        "for CAA records. None: any may; but with `tls.mode: acme` the one in use, if it is Let's Encrypt.",
        examples=[["letsencrypt.org"]],
    )


class Web(Model):
    """What the server itself serves over HTTPS. Where that is nothing, it has no web server, and port 443 is closed.
    The certificate must cover the names served, and be one that the world trusts."""

    mta_sts: Switch = Field(
        default=True,
        description="Whether the MTA-STS policy is served here, where `dns.mta_sts` is on. With `no` you serve it "
        "elsewhere; `mailkeep dns` prints it.",
        examples=[False],
    )
    autoconfig: Switch = Field(
        default=False,
        description="Whether mail programs are told how to reach the server, given an address: Thunderbird and others "
        "at https://autoconfig.DOMAIN, Outlook at https://autodiscover.DOMAIN.",
        examples=[True],
    )


class UncheckedSettings(Model):
    """Every section of mail.yml. Each is sound by itself; `Settings` also checks them against each other."""

    host: Host = Field(description="The server itself.")
    domains: tuple[Domain, ...] = Field(
        min_length=1,
        description="The mail domains: lower case, internationalised ones in their ASCII form (`xn--…`).",
        examples=[["example.org", "example.net"]],
    )
    accounts: tuple[Account, ...] = Field(
        default=(), description="The mailboxes. `mailkeep account add` adds one and makes its password."
    )
    aliases: dict[OwnMailbox, Targets] = Field(
        default={},
        description="Addresses whose mail goes to others, here or elsewhere.",
        examples=[{"info@example.org": ["anna@example.org", "bert@example.net"]}],
    )
    catch_all: dict[Domain, Mailbox] = Field(
        default={},
        description="For a domain: where mail to its unknown addresses goes. Off by default: mostly spam.",
        examples=[{"example.org": "anna@example.org"}],
    )
    admin: Admin = Field(description="The people who run the server.")
    alerts: Alerts = Field(default=Alerts(), description="What the people who run the server are told, and how.")
    relay: Relay | None = Field(default=None, description="A smarthost for all outbound mail.")
    tls: Tls = Field(default=Tls(), description="The certificate that the server shows.")
    dns: Dns = Field(default=Dns(), description="What the DNS tells the world.")
    web: Web = Field(default=Web(), description="What the server itself serves over HTTPS.")
    retention: Retention = Field(default=Retention(), description="What is deleted by itself.")
    resolver: Literal["local", "system"] = Field(
        default="local",
        description="`local` runs a validating unbound on the server; `system` uses the provider's resolver.",
        examples=["local"],
    )
    ssh: Ssh = Field(default=Ssh(), description="How the server is administered.")
    firewall: Firewall = Field(default=Firewall(), description="What reaches the server.")
    local_senders: tuple[UserName, ...] = Field(
        default=("root",),
        description="Linux users whose programs may send mail (Postfix's authorized_submit_users).",
        examples=[["root"]],
    )
    guard: Guard = Field(default=Guard(), description="What bounds the harm of a stolen password.")
    message_size: Annotated[int, *size_between("1M", "150M")] = Field(
        default=25 * 2**20,
        description="The largest message, attachments encoded (Postfix's message_size_limit), 1M to 150M.",
        examples=["25M"],
    )

    def effective_limits(self, limits: Limits) -> dict[str, int]:
        """These limits by name; what they leave open is as for everybody, or as for a person."""
        return DEFAULT_LIMITS | self.guard.limits.model_dump(exclude_none=True) | limits.model_dump(exclude_none=True)

    @property
    def serves_mta_sts_policy(self) -> bool:
        """Whether the MTA-STS policy is served here."""
        return self.web.mta_sts and self.dns.mta_sts != "off"

    @property
    def https_names(self) -> tuple[str, ...]:
        """The names that the server answers over HTTPS, one a page; none where it serves nothing."""
        labels = [
            *(["mta-sts"] if self.serves_mta_sts_policy else []),
            *(["autoconfig", "autodiscover"] * self.web.autoconfig),
        ]
        return tuple(f"{label}.{domain}" for domain in self.domains for label in labels)

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names that the TLS certificate must cover: the host's, and those served over HTTPS."""
        return (self.host.name, *self.https_names)

    @cached_property
    def own_domains(self) -> frozenset[str]:
        """The mail domains, to look up in."""
        return frozenset(self.domains)

    @cached_property
    def account_addresses(self) -> frozenset[str]:
        """The accounts' own addresses, to look up in."""
        return frozenset(account.address for account in self.accounts)


def nested_models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models within a setting's type: Account of tuple[Account, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from nested_models(argument)
