"""The sections of `mail.yml` as data, and nothing about how a host is built from them.

Docstrings and descriptions of the settings are for operators: they become docs/settings.md, mail.yml(5) and the JSON
Schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mailkeep.settings.attachment_kinds import AttachmentKind
from mailkeep.settings.field_errors import invalid
from mailkeep.settings.fields import (
    MAX_CLOSED_LISTS,
    MAX_FORWARDS,
    Address,
    AnyNetwork,
    DisplayName,
    DnsProvider,
    Domain,
    FileBeside,
    FindingName,
    HostKey,
    HostName,
    HttpsUrl,
    JsonTemplate,
    Login,
    Mailbox,
    Network,
    OwnMailbox,
    OwnPattern,
    OwnSender,
    PasswordHash,
    PublicAddress,
    RelayHost,
    RepositoryPath,
    SpfTerm,
    TargetName,
    Targets,
    UserName,
)
from mailkeep.settings.numbers import Port, ShortOpening, Switch, integer_between, parse_port, size_between
from mailkeep_server.common.alias_patterns import AliasPatterns
from mailkeep_server.common.release_codes import build_address

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_settings(cls, data: Any) -> Any:
        """A key without a value means the default."""
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
    forwarded_from: tuple[PublicAddress, ...] = Field(
        default=(),
        max_length=16,
        description="Addresses of the machine that this server has moved from. It forwards its mail ports until the "
        "DNS has followed, and is believed when it tells the addresses of its clients. `mailkeep move` sets this, and "
        "removes it at the end.",
        examples=[["203.0.113.20", "2001:db8::20"]],
    )


Count = Annotated[int, *integer_between(1, 1_000_000)]
Percent = Annotated[int, *integer_between(1, 100)]
PerMille = Annotated[int, *integer_between(1, 1000)]

# Enough, with room, for a person who writes a lot; a program that sends needs limits of its own.
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
    """How much an account may send. Each limit counts by itself, over the time that has just passed: any ten minutes,
    any hour, any day (24 hours)."""

    messages_per_10_minutes: Count | None = Field(
        default=None, description="Messages in any ten minutes. Default: 20.", examples=[20]
    )
    messages_per_hour: Count | None = Field(
        default=None, description="Messages in any hour. Default: 60.", examples=[60]
    )
    messages_per_day: Count | None = Field(
        default=None, description="Messages in any day. Default: 300.", examples=[300]
    )
    recipients_per_10_minutes: Count | None = Field(
        default=None, description="Recipients in any ten minutes. Default: 60.", examples=[60]
    )
    recipients_per_hour: Count | None = Field(
        default=None, description="Recipients in any hour. Default: 150.", examples=[150]
    )
    recipients_per_day: Count | None = Field(
        default=None,
        description="Recipients in any day: one message to three people counts as three. Default: 500.",
        examples=[500],
    )
    new_recipients_per_day: Count | None = Field(
        default=None,
        description="Recipients to whom the account has never written, in any day. Default: 200.",
        examples=[200],
    )
    networks_per_hour: Count | None = Field(
        default=None,
        description="Networks (IPv4 /24, IPv6 /48) from which it sends, in any hour. Default: 8.",
        examples=[8],
    )


class Account(Model):
    """A mailbox and its login."""

    address: OwnMailbox = Field(
        description="The address, which is also the login name: lower-case ASCII in one of the mail domains, without "
        "a plus sign (mail to `anna+anything` reaches `anna` by itself).",
        examples=["anna@example.org"],
    )
    password: PasswordHash = Field(
        repr=False,
        description="The hash that `mailkeep account passwd` writes, in quotes; never clear text. A hash from another "
        "server will do, too: Argon2, yescrypt, sha512-crypt, sha256-crypt or bcrypt. `mailkeep check` names the weak.",
        examples=["{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$…$…"],
    )
    name: DisplayName = Field(
        default="",
        description="The person's name, without a colon. For your records and `mailkeep account list` only: neither "
        "the server nor the DNS gets it.",
        examples=["Anna Example"],
    )
    quota: Annotated[int, *size_between("1M", "16T")] | None = Field(
        default=None,
        description="The largest size of the mailbox, such as 500M or 2G; at least 1M. Default: 1G. It also limits "
        "the number of messages, to one for each 8 KiB, because small messages fill a disk too.",
        examples=["2G"],
    )
    send_as: tuple[OwnMailbox, ...] = Field(
        default=(),
        description="Further addresses in the mail domains from which this account may send, beside its own. Another "
        "account's own address is refused.",
        examples=[["info@example.org"]],
    )
    forward: Annotated[tuple[Mailbox, ...], Field(max_length=MAX_FORWARDS)] = Field(
        default=(),
        description="Addresses that get a copy of its mail, at most 5; the mailbox keeps it. A copy counts in the "
        "account's limits, and spam is not sent on. To send mail on without keeping it, use an alias.",
        examples=[["anna@example.net"]],
    )
    confirm_at: Mailbox | None = Field(
        default=None,
        description="An address of its owner elsewhere, with another password. When its mail to strangers is put on "
        "hold, a message asks there: a reply sends the mail, and ends the hold. Default: only you can end it.",
        examples=["anna@example.net"],
    )
    limits: Limits = Field(default=Limits(), description="How much it may send, if this differs from `guard.limits`.")


class Admin(Model):
    """The administrators of the server."""

    addresses: tuple[Mailbox, ...] = Field(
        min_length=1,
        max_length=20,
        description="Who gets reports, alerts and the host's own mail (root, postmaster). An address on another "
        "server still reaches you when this one is down.",
        examples=[["you@example.net"]],
    )
    networks: tuple[AnyNetwork, ...] = Field(
        default=(),
        max_length=64,
        description="Networks that are never banned, such as your connection at home.",
        examples=[["203.0.113.0/24", "2001:db8:1::/48"]],
    )


class Relay(Model):
    """The smarthost that takes all outbound mail, where port 25 is blocked. `mailkeep relay` asks for its password."""

    host: RelayHost = Field(description="Its name or address, without brackets.", examples=["smtp.example.net"])
    port: Port = Field(default=587, description="Its submission port.", examples=[587, "submissions"])
    user: Login | None = Field(default=None, description="The login name there, if it needs one.", examples=["anna"])

    @property
    def spf_terms(self) -> tuple[str, ...]:
        """It sends for us. Its own SPF record, if it is a name, says from which addresses."""
        try:
            return (f"ip{ip_address(self.host).version}:{self.host}",)
        except ValueError:
            return (f"include:{self.host}",)


class Acme(Model):
    """How the server gets its certificates with `tls.mode: acme`."""

    directory: HttpsUrl = Field(
        default=LETS_ENCRYPT,
        description="The ACME directory of the certificate authority.",
        examples=["https://acme-staging-v02.api.letsencrypt.org/directory"],
    )
    contact: Mailbox | None = Field(
        default=None,
        description="The address that the authority gets for your account there. Default: the first of "
        "`admin.addresses`.",
        examples=["you@example.net"],
    )
    challenge: Literal["http-01", "dns-01"] = Field(
        default="http-01",
        description="How the authority checks that the names are yours. `http-01`: it asks the server on port 80, "
        "which is then open. `dns-01`: it asks the DNS, where the server publishes the answer itself.",
        examples=["dns-01"],
    )
    provider: DnsProvider | None = Field(
        default=None,
        description="With `dns-01`: your DNS provider, by the name that `lego dnshelp` lists. `mailkeep acme` asks "
        "for its credentials.",
        examples=["rfc2136"],
    )


class Tls(Model):
    """The server's certificate."""

    mode: Literal["self-signed", "files", "acme"] = Field(
        default="self-signed",
        description="`self-signed`: Mailkeep creates one, and mail programs warn of it. `files`: you bring one. "
        "`acme`: the server gets one from a certificate authority and renews it.",
        examples=["acme"],
    )
    certificate: FileBeside | None = Field(
        default=None,
        description="With `files`: the file beside mail.yml with the certificate chain (PEM). `mailkeep tls "
        "import` writes it, and puts its key into the vault.",
        examples=["chain.pem"],
    )
    acme: Acme = Field(default=Acme(), description="With `acme`: the authority, and how it checks your names.")

    @property
    def answers_on_port_80(self) -> bool:
        """Whether the certificate authority asks there."""
        return self.mode == "acme" and self.acme.challenge == "http-01"

    @property
    def issuer(self) -> str:
        """The ACME authority's name in CAA records (RFC 8659 §4.2), if known; else ""."""
        return _ISSUERS.get(urlsplit(self.acme.directory).hostname or "", "") if self.mode == "acme" else ""


# Other well-known authorities require External Account Binding (RFC 8555 §7.3.4), which Mailkeep does not offer.
_ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
}


class Retention(Model):
    """What the server deletes by itself, so that nothing fills the disk."""

    journal: Annotated[int, *size_between("16M", "64G")] = Field(
        default=200 * 2**20,
        description="The largest size of the system's log (journald's SystemMaxUse), 16M to 64G. A copy of the mail "
        "services' lines, which no Linux user can wash away, takes at most a quarter of it besides.",
        examples=["200M"],
    )
    queue_days: Annotated[int, *integer_between(1, 5)] = Field(
        default=2,
        description="Days until undeliverable mail returns to its sender (Postfix's maximal_queue_lifetime), 1 to 5.",
        examples=[2],
    )
    trash_days: Annotated[int, *integer_between(1, 3650)] = Field(
        default=30,
        description="Days after which mail in Trash and Junk is deleted, 1 to 3650.",
        examples=[30],
    )
    report_days: Annotated[int, *integer_between(0, 3650)] = Field(
        default=400,
        description="Days for which `mailkeep report` has numbers: how much each account has sent, by day, receiving "
        "server and fate, without addresses of recipients. 0 to 3650; with 0, only those that the log has.",
        examples=[400],
    )


class BackupTarget(Model):
    """A place that takes backups: a directory of the server's, such as a mounted disk, or one on another machine, which
    the server reaches over SSH and which needs borgbackup."""

    name: TargetName = Field(description="A name of your choice.", examples=["offsite"])
    path: RepositoryPath = Field(
        description="The directory of the repository. It is made by `mailkeep backup NAME --init`.",
        examples=["/srv/backup/mail"],
    )
    host: RelayHost | None = Field(
        default=None,
        description="The other machine's name or address. Default: the path is on the server itself.",
        examples=["backup.example.net"],
    )
    port: Port = Field(default=22, description="Its SSH port.", examples=[22])
    user: UserName = Field(default="mailkeep", description="The Linux user there.", examples=["mailkeep"])
    host_key: HostKey | None = Field(
        default=None,
        description="Its SSH host key, as `ssh-keyscan -t ed25519 HOST` prints it, without the host. It is needed with "
        "`host`.",
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEB1"],
    )


class Keep(Model):
    """How many archives `mailkeep backup NAME --prune` keeps: the newest of each day, week and month. The server itself
    cannot delete any."""

    daily: Annotated[int, *integer_between(1, 366)] = Field(
        default=7, description="Days, 1 to 366. It changes nothing on the server.", examples=[7]
    )
    weekly: Annotated[int, *integer_between(0, 520)] = Field(
        default=5, description="Weeks, 0 to 520. It changes nothing on the server.", examples=[5]
    )
    monthly: Annotated[int, *integer_between(0, 240)] = Field(
        default=12, description="Months, 0 to 240. It changes nothing on the server.", examples=[12]
    )


class Backup(Model):
    """Where all mail, and what the server has learned, is copied to. `mailkeep backup NAME --init` makes the keys."""

    targets: tuple[BackupTarget, ...] = Field(
        min_length=1, max_length=8, description="The places that take backups. Each gets all of it."
    )
    every_hours: Annotated[int, *integer_between(1, 24)] = Field(
        default=24, description="Hours between two backups, 1 to 24. The first of a day begins at night.", examples=[24]
    )
    keep: Keep = Field(default=Keep(), description="How many archives are kept.")


class Ssh(Model):
    """How you log in to the server."""

    port: Port = Field(
        default=22,
        description="The port on which sshd listens already. The firewall opens it and fail2ban watches it; sshd "
        "itself keeps its port.",
        examples=[22],
    )
    passwords: Switch = Field(
        default=False, description="Whether a password is enough to log in, without a key.", examples=[False]
    )


class Opening(Model):
    """A port that the firewall opens. In short, a TCP port for everyone is its number or name, and a UDP port is
    `51820/udp`."""

    port: Port = Field(description="Its number or name.", examples=[9100])
    protocol: Literal["tcp", "udp"] = Field(default="tcp", description="`tcp` or `udp`.", examples=["udp"])
    networks: tuple[AnyNetwork, ...] = Field(
        default=(),
        max_length=1000,
        description="The networks to which it is open, such as a monitoring host. Default: everyone.",
        examples=[["203.0.113.77", "2001:db8:7::/48"]],
    )


def _expand_opening(value: object) -> object:
    """The short forms."""
    if isinstance(value, dict | Opening):
        return value
    port, slash, protocol = value.partition("/") if isinstance(value, str) else (value, "", "")
    if slash and protocol not in ("tcp", "udp"):
        raise invalid("a port such as 8443 or 51820/udp, or {port: 9100, networks: [203.0.113.77]}")
    return Opening(port=parse_port(port), protocol="udp" if protocol == "udp" else "tcp")


AnyOpening = Annotated[
    Opening,
    BeforeValidator(_expand_opening, json_schema_input_type=Port | ShortOpening | Opening),
]


class Firewall(Model):
    """Open are SSH, the mail ports, port 80 if certificates come by `http-01`, and port 443 if `web` serves anything.
    All other ports are closed."""

    block: tuple[AnyNetwork, ...] = Field(
        default=(), description="Networks whose packets the server drops.", examples=[["198.51.100.0/24"]]
    )
    open: tuple[AnyOpening, ...] = Field(
        default=(),
        description="Further ports to open: of TCP by number or by name, of UDP as `51820/udp`, and to certain "
        "networks only as `{port: 9100, networks: [203.0.113.77]}`.",
        examples=[["https", 8443, "51820/udp"]],
    )
    may_send: tuple[AnyNetwork, ...] = Field(
        default=(),
        max_length=1000,
        description="Networks behind this server (containers, virtual machines, VPN clients) that may connect to port "
        "25 of other servers. Default: none may. Their mail leaves from this server's address, unsigned and without "
        "limits, and harms its reputation.",
        examples=[["172.30.0.0/24"]],
    )


class Ceiling(Model):
    """How much all accounts together may send."""

    recipients_per_hour: Count = Field(default=2000, description="Recipients in any hour.", examples=[2000])
    recipients_per_day: Count = Field(default=10_000, description="Recipients in any day.", examples=[10000])


class LocalCeiling(Ceiling):
    """How much all programs on the server together may send by sendmail(1)."""

    recipients_per_hour: Count = Field(default=100, description="Recipients in any hour.", examples=[100])
    recipients_per_day: Count = Field(default=500, description="Recipients in any day.", examples=[500])


class ForwardCeiling(Ceiling):
    """How much mail of strangers together may leave the server again: through aliases and catch-alls, by Sieve scripts,
    and as notices that mail was not delivered. What does not fit waits at the sender's server, or in the queue."""

    recipients_per_hour: Count = Field(default=1000, description="Recipients in any hour.", examples=[1000])
    recipients_per_day: Count = Field(default=5000, description="Recipients in any day.", examples=[5000])


class Leaving(Model):
    """How much leaves to other servers, whoever sent it, as Postfix's log shows: also what has got past the guard. Over
    it, the watch puts the queue's mail to others on hold, and you get an alert."""

    recipients_per_hour: Count | None = Field(
        default=None,
        description="Recipients elsewhere in any hour. Default: twice `guard.server.recipients_per_hour`.",
        examples=[4000],
    )
    recipients_per_day: Count | None = Field(
        default=None,
        description="Recipients elsewhere in any day. Default: twice `guard.server.recipients_per_day`.",
        examples=[20000],
    )
    connections_per_hour: Count | None = Field(
        default=None,
        description="Connections to port 25 elsewhere in any hour, at which the firewall refuses more: also those of a "
        "program that has become Postfix's user. A quarter of them may come at once. Default: five times "
        "`recipients_per_hour`.",
        examples=[20000],
    )


class ListLimits(Model):
    """How much strangers may send through each alias or catch-all to its members elsewhere. What does not fit is
    refused for the time being."""

    recipients_per_hour: Count = Field(
        default=200, description="Members elsewhere reached in any hour, by each list.", examples=[200]
    )
    recipients_per_day: Count = Field(
        default=1000, description="Members elsewhere reached in any day, by each list.", examples=[1000]
    )
    messages_per_hour: Count = Field(
        default=2, description="However long the list, as many messages fit in any hour.", examples=[2]
    )
    messages_per_day: Count = Field(
        default=10, description="However long the list, as many messages fit in any day.", examples=[10]
    )


class Receiving(Model):
    """How much mail an account receives from other servers. What is over a limit is refused for the time being. What a
    mail bomb brings is sorted into a folder."""

    messages_per_hour: Count = Field(
        default=2000,
        description="Messages to each account in any hour from senders that it does not know. Domains that wrote to it "
        "earlier have as many, and people to whom it has written, too.",
        examples=[2000],
    )
    network_messages_per_hour: Count = Field(
        default=1000,
        description="Of these, messages from one network (IPv4 /24, IPv6 /48) to one account in any hour.",
        examples=[1000],
    )
    new_senders_per_hour: Count = Field(
        default=100,
        description="Domains that write to an account for the first time, in any hour, from which on it is a mail "
        "bomb. In the first week of an account, five times as many.",
        examples=[100],
    )
    exempt: tuple[AnyNetwork, ...] = Field(
        default=(),
        max_length=1000,
        description="Networks whose messages do not count: your other servers, or a provider that forwards mail to "
        "you. Those in `forwarders` do not count, either. A mail bomb is sorted all the same.",
        examples=[["198.51.100.60", "2001:db8:60::/48"]],
    )


class Freeze(Model):
    """When an account is frozen: at numbers that no honest user reaches."""

    refused_tries: Count = Field(
        default=30, description="Messages refused over a limit, in ten minutes.", examples=[30]
    )
    foreign_senders: Count = Field(
        default=10, description="Messages that claim to be from an address of somebody else, in an hour.", examples=[10]
    )
    networks: Count = Field(
        default=8, description="Networks beyond its limit from which it tries to send, in an hour.", examples=[8]
    )
    new_recipients: Count = Field(
        default=300, description="Different first-time recipients refused over its limit, in a day.", examples=[300]
    )
    spam_messages: Count = Field(
        default=10,
        description="Messages that the spam filter is sure about (`spam: full`), in an hour.",
        examples=[10],
    )


class Holds(Model):
    """When mail of an account to strangers, whom it never wrote to, is put on hold: by how unusual it is, and by what
    becomes of it. What counts are first-time recipients in any week. A domain counts once, unless it is a large
    provider's."""

    strangeness: Count = Field(
        default=9,
        description="Points from which on a message to strangers is too unusual for the account. docs/guard.md says "
        "what gives points. 1000 holds nothing for being unusual.",
        examples=[9],
    )

    dead: Count = Field(default=3, description="First-time recipients that do not exist.", examples=[3])
    refused: Count = Field(
        default=5, description="First-time recipients whose servers name spam, or too much mail.", examples=[5]
    )
    share: Percent = Field(
        default=8,
        description="Per cent of the first-time recipients that either of these must reach, too, 1 to 100.",
        examples=[8],
    )
    complaints: Count = Field(
        default=3,
        description="First-time recipients that complain of different messages, by reports (ARF) to abuse@ or to the "
        "address of reports.",
        examples=[3],
    )
    complaint_share: PerMille = Field(
        default=3,
        description="Per mille of the first-time recipients that complaints must reach, too, 1 to 1000.",
        examples=[3],
    )
    freeze_dead: Count = Field(default=10, description="As `dead`, and the account is frozen.", examples=[10])
    freeze_refused: Count = Field(default=15, description="As `refused`, and the account is frozen.", examples=[15])
    freeze_share: Percent = Field(
        default=25, description="As `share`, and the account is frozen, 1 to 100.", examples=[25]
    )
    freeze_complaints: Count = Field(
        default=10, description="As `complaints`, and the account is frozen.", examples=[10]
    )
    freeze_complaint_share: PerMille = Field(
        default=20, description="As `complaint_share`, and the account is frozen, 1 to 1000.", examples=[20]
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
    """Limits the harm of a stolen password: counts what each account sends, refuses what is too much, freezes."""

    mode: Literal["enforce", "learn"] = Field(
        default="enforce",
        description="`enforce` refuses and freezes. `learn` does neither, and reports what it would have refused.",
        examples=["enforce"],
    )
    limits: Limits = Field(default=Limits(), description="How much each account may send.")
    server: Ceiling = Field(default=Ceiling(), description="How much all accounts together may send.")
    local: LocalCeiling = Field(
        default=LocalCeiling(), description="How much all programs on the server together may send by sendmail(1)."
    )
    forwards: ForwardCeiling = Field(
        default=ForwardCeiling(), description="How much mail of strangers together may leave the server again."
    )
    leaving: Leaving = Field(
        default=Leaving(), description="How much leaves to other servers, whoever sent it. The watch stops more."
    )
    lists: ListLimits = Field(
        default=ListLimits(), description="How much strangers may send through each alias or catch-all."
    )
    receiving: Receiving = Field(default=Receiving(), description="How much mail each account receives.")
    freeze: Freeze = Field(default=Freeze(), description="When an account is frozen.")
    holds: Holds = Field(default=Holds(), description="When mail to strangers is put on hold.")
    shared_store: SharedStore | None = Field(
        default=None, description="Where several mail servers of the same accounts count together."
    )


class Webhook(Model):
    """A second way for alerts: mail may not arrive when they matter most. `mailkeep webhook` asks for its URL."""

    format: Literal["ntfy", "slack", "matrix"] = Field(
        default="ntfy",
        description="`ntfy`; `slack`: the JSON that Slack, Mattermost and others take; `matrix`: a message to a "
        "Matrix room (the URL ends in `/send/m.room.message`).",
        examples=["ntfy"],
    )
    template: JsonTemplate | None = Field(
        default=None,
        description="JSON to send instead. `{title}`, `{text}`, `{host}` and `{time}` in it are filled in.",
        examples=['{"content": "{text}"}'],
    )


class Alerts(Model):
    """When the server alerts its administrators, within seconds, by mail to `admin.addresses` and by a webhook.
    Accounts over their limits and services that are down are always reported."""

    webhook: Webhook | None = Field(default=None, description="A second way beside mail.")
    queue: Annotated[int, *integer_between(1, 100_000)] = Field(
        default=200,
        description="Alert when more messages than this wait in the queue, 1 to 100000.",
        examples=[200],
    )
    disk: Annotated[int, *integer_between(10, 99)] = Field(
        default=85,
        description="Alert when this per cent of a disk's space or inodes is in use, 10 to 99.",
        examples=[85],
    )
    certificate_days: Annotated[int, *integer_between(1, 90)] = Field(
        default=14, description="Alert this many days before the certificate expires, 1 to 90.", examples=[14]
    )
    failed_logins: Annotated[int, *integer_between(10, 1_000_000)] = Field(
        default=300,
        description="Alert when more logins than this fail in ten minutes, from all addresses together, 10 to 1000000.",
        examples=[300],
    )
    weekly: Switch = Field(
        default=True,
        description="A mail of one page on Mondays: what the accounts sent, what was unusual, bans, updates, disk, "
        "certificate, backups, DNS and blocklists. It also says so when all is well.",
        examples=[False],
    )


class Dns(Model):
    """DNS settings that the rest of mail.yml does not determine. `mailkeep dns` prints the records."""

    dmarc: Literal["none", "quarantine", "reject"] = Field(
        default="reject",
        description="What other servers should do with mail that falsely claims to be yours. For a domain that sent "
        "mail before, begin with `none`; `mailkeep dns` says what to check before the next step.",
        examples=["none"],
    )
    reports: Mailbox | None = Field(
        default=None,
        description="Where other servers send reports about your mail (DMARC, TLS-RPT). Default: postmaster at the "
        "host name, which reaches `admin.addresses`. At an address of this server, it reads them: `mailkeep reports`.",
        examples=["reports@example.net"],
    )
    spf: tuple[SpfTerm, ...] = Field(
        default=(),
        max_length=10,
        description="Other servers that send for your domains, as SPF terms. They may also deliver such mail here. "
        "Default with a relay host: `include:` and its name (or `ip4:`, `ip6:` and its address). If that name has no "
        "SPF record, write here what the relay's provider names for SPF.",
        examples=[["include:_spf.example.net"]],
    )
    never_send: tuple[Domain, ...] = Field(
        default=(),
        max_length=100,
        description="Names of yours that send no mail, such as that of a web server; neither mail domains nor the "
        "host. They get records that say so.",
        examples=[["www.example.org"]],
    )
    mta_sts: Literal["off", "testing", "enforce"] = Field(
        default="off",
        description="MTA-STS: other servers deliver to this one over TLS only. Begin with `testing`. It needs a "
        "certificate that the world trusts. The server itself publishes the policy, at https://mta-sts.DOMAIN, unless "
        "`web.mta_sts` is `no`.",
        examples=["testing"],
    )
    caa: tuple[Domain, ...] = Field(
        default=(),
        max_length=10,
        description="The only certificate authorities that may issue for the host, by their names for CAA records. "
        "Default: any; with `tls.mode: acme` and Let's Encrypt, only Let's Encrypt.",
        examples=[["letsencrypt.org"]],
    )


class Inbound(Model):
    """Who may write as whom in mail that comes in on port 25."""

    trusted: tuple[OwnSender, ...] = Field(
        default=(),
        max_length=20,
        description="Servers and devices, beside those of `dns.spf`, that may use your domains as envelope sender and "
        "in `From:` without a login or signature, such as a web shop, a scanner, a second server: addresses, networks, "
        "names or SPF terms.",
        examples=[["192.0.2.77", "scanner.example.org", "include:_spf.example.net"]],
    )
    trusted_sealers: tuple[Domain, ...] = Field(
        default=(),
        max_length=100,
        description="Domains whose ARC seals you believe: of mailing lists and forwarders that check mail before they "
        "change it. What such a one calls genuine is not refused for its domain's DMARC policy.",
        examples=[["lists.example.net"]],
    )
    refused_attachments: tuple[AttachmentKind, ...] = Field(
        default=(),
        max_length=100,
        description="Attachments that are refused, by the extension of their names, while the sender is connected: "
        "`programs`, `macros` (of Microsoft Office), or single ones such as `zip`. What is in an archive is not looked "
        "at. Default: none, because people exchange such files, too.",
        examples=[["programs", "macros", "ace"]],
    )


class Web(Model):
    """What the server itself serves over HTTPS. If nothing, it runs no web server and port 443 is closed. The
    certificate must cover the names served, and the world must trust it."""

    mta_sts: Switch = Field(
        default=True,
        description="Whether the server publishes the MTA-STS policy, if `dns.mta_sts` is on. With `no`, publish what "
        "`mailkeep dns` prints on another web server.",
        examples=[False],
    )
    autoconfig: Switch = Field(
        default=False,
        description="Whether mail programs can set themselves up from the address alone: Thunderbird and others at "
        "https://autoconfig.DOMAIN, Outlook at https://autodiscover.DOMAIN.",
        examples=[True],
    )


class Spam(Model):
    """What is surely spam is refused while its sender is still connected; what is probably spam goes to Junk. In short,
    `spam: full` sets `filter` alone."""

    filter: Literal["off", "light", "full"] = Field(
        default="off",
        description="`off`. `full`: rspamd's rules, and the words that each account has taught, in some 50 MB of "
        "memory. `light`, for machines of 512 MB: the words alone (bogofilter). They take memory only while a message "
        "is delivered.",
        examples=["full"],
    )
    when_down: Literal["defer", "pass"] = Field(
        default="defer",
        description="With `full`: what happens to mail while the filter is down. `defer`: it waits at its sender's "
        "server. `pass`: it comes in, with a header that says that nothing looked at it.",
        examples=["pass"],
    )
    dnsbls: tuple[Domain, ...] = Field(
        default=(),
        max_length=10,
        description="Blocklists in the DNS that are asked about each sending address, by their zones. With `full` a "
        "listing counts as a reason; with `light`, what is listed is refused. Their operators learn who writes to you, "
        "and have terms of use. Default: none is asked.",
        examples=[["zen.spamhaus.org"]],
    )

    @property
    def is_on(self) -> bool:
        return self.filter != "off"


def _expand_spam(value: object) -> object:
    """The short form."""
    return {"filter": value} if isinstance(value, str) else value


AnySpam = Annotated[Spam, BeforeValidator(_expand_spam, json_schema_input_type=Literal["off", "light", "full"] | Spam)]


class UncheckedSettings(Model):
    """All sections. Each is valid by itself; `models.Settings` also checks them against each other."""

    host: Host = Field(description="The server itself.")
    domains: tuple[Domain, ...] = Field(
        min_length=1,
        description="The mail domains: lower case, internationalised ones in their ASCII form (`xn--…`).",
        examples=[["example.org", "example.net"]],
    )
    accounts: tuple[Account, ...] = Field(
        default=(), description="The mailboxes. `mailkeep account add` adds one and sets its password."
    )
    aliases: dict[OwnPattern, Targets] = Field(
        default={},
        description="Addresses without a mailbox, and the addresses to which their mail goes, here or elsewhere. One "
        "`*` stands for letters, digits and `.-_`: `shop-*@example.org`. An exact alias or an account comes first.",
        examples=[{"info@example.org": ["anna@example.org", "bert@example.net"]}],
    )
    members_only: tuple[OwnMailbox, ...] = Field(
        default=(),
        max_length=MAX_CLOSED_LISTS,
        description="Aliases to which only those may write whom they reach: the accounts by their login, others by the "
        "envelope sender, which a stranger can forge. At most 50.",
        examples=[["board@example.org"]],
    )
    catch_all: dict[Domain, Mailbox] = Field(
        default={},
        description="By domain, the address that gets mail to unknown addresses (mostly spam). Default: such mail is "
        "refused.",
        examples=[{"example.org": "anna@example.org"}],
    )
    catch_all_except: tuple[OwnPattern, ...] = Field(
        default=(),
        max_length=1000,
        description="Addresses that `catch_all` does not take, such as a former one that gets spam alone. One `*` "
        "stands for letters, digits and `.-_`. Mail to them is refused.",
        examples=[["shop-2019@example.org", "offer-*@example.org"]],
    )
    admin: Admin = Field(description="The administrators of the server.")
    alerts: Alerts = Field(default=Alerts(), description="When the server alerts its administrators, and how.")
    relay: Relay | None = Field(default=None, description="A smarthost for all outbound mail.")
    tls: Tls = Field(default=Tls(), description="The server's certificate.")
    dns: Dns = Field(default=Dns(), description="DNS settings that the rest of mail.yml does not determine.")
    inbound: Inbound = Field(default=Inbound(), description="Who may write as whom in mail that comes in on port 25.")
    web: Web = Field(default=Web(), description="What the server itself serves over HTTPS.")
    retention: Retention = Field(default=Retention(), description="What the server deletes by itself.")
    backup: Backup | None = Field(
        default=None, description="Backups of all mail, encrypted. Default: the server makes none."
    )
    resolver: Literal["local", "system"] = Field(
        default="local",
        description="`local` runs a validating unbound on the server; `system` uses the provider's resolver.",
        examples=["local"],
    )
    ssh: Ssh = Field(default=Ssh(), description="How you log in to the server.")
    firewall: Firewall = Field(default=Firewall(), description="What reaches the server.")
    forwarders: tuple[AnyNetwork, ...] = Field(
        default=(),
        max_length=64,
        description="Servers elsewhere that forward mail to this one and keep its envelope sender, as networks. From "
        "others, mail whose envelope sender is in your domains is refused: it may be forged. So an account's mail to "
        "an address there would not come back. No DMARC policy refuses what they bring.",
        examples=[["198.51.100.60", "2001:db8:60::/48"]],
    )
    spam: AnySpam = Field(default=Spam(), description="What happens to spam; in short `spam: full`.")
    local_senders: tuple[UserName, ...] = Field(
        default=("root",),
        description="Linux users whose programs may send mail (Postfix's authorized_submit_users).",
        examples=[["root"]],
    )
    guard: Guard = Field(default=Guard(), description="Limits the harm of a stolen password.")
    accepted: tuple[FindingName, ...] = Field(
        default=(),
        max_length=1000,
        description="What `mailkeep verify` may find on the machine without a warning: accounts, keys, rules of sudo, "
        "jobs and files of services that were added after the first deploy. Each by the name that verify shows; "
        "without `@` and the digits after it, whatever the file holds. It changes nothing on the server.",
        examples=[["job:/etc/cron.d/backup", "group:sudo:anna"]],
    )
    message_size: Annotated[int, *size_between("1M", "150M")] = Field(
        default=25 * 2**20,
        description="The largest message, attachments encoded (Postfix's message_size_limit), 1M to 150M.",
        examples=["25M"],
    )

    @property
    def report_address(self) -> str:
        """Where other servers send reports: `dns.reports`, with its default."""
        return self.dns.reports or f"postmaster@{self.host.name}"

    @property
    def complaint_addresses(self) -> tuple[str, ...]:
        """Where other servers complain of mail from here (RFC 2142 section 4). Those that exist get mail."""
        return tuple(f"abuse@{domain}" for domain in (self.host.name, *self.domains))

    @property
    def confirmation_addresses(self) -> dict[str, str]:
        """`confirm_at` by account."""
        return {account.address: account.confirm_at for account in self.accounts if account.confirm_at}

    @property
    def release_address(self) -> str:
        """Where owners reply to end a hold; "" if none of them can."""
        return build_address(self.host.name) if self.confirmation_addresses else ""

    @property
    def reads_reports(self) -> bool:
        """Whether reports arrive at this server, which then reads them."""
        return self.report_address.rpartition("@")[2] in (*self.domains, self.host.name)

    @property
    def forwarding_networks(self) -> tuple[Network, ...]:
        """`host.forwarded_from`, each as a network of one address."""
        return tuple(ip_network(address) for address in self.host.forwarded_from)

    @property
    def never_banned(self) -> tuple[Address | Network, ...]:
        """The server itself, its administrators, and the machine that forwards others' connections."""
        return (*self.host.addresses, *self.admin.networks, *self.forwarding_networks)

    @property
    def backup_targets(self) -> tuple[BackupTarget, ...]:
        """The places that take backups; none without `backup`."""
        return self.backup.targets if self.backup else ()

    def effective_limits(self, limits: Limits) -> dict[str, int]:
        """By name, each of these limits; if it is not set, that of `guard.limits`, then the default."""
        return DEFAULT_LIMITS | self.guard.limits.model_dump(exclude_none=True) | limits.model_dump(exclude_none=True)

    @property
    def spf_terms(self) -> tuple[str, ...]:
        """Others that send for our domains, as SPF terms: those of `dns.spf`, or else the relay host."""
        return self.dns.spf or (self.relay.spf_terms if self.relay else ())

    @property
    def own_sender_terms(self) -> tuple[str, ...]:
        """Who may use our domains without a login, as SPF terms: what SPF names, and `inbound.trusted`."""
        return tuple(dict.fromkeys((*self.spf_terms, *self.inbound.trusted)))

    @property
    def own_sender_networks(self) -> tuple[str, ...]:
        """Those of them that are networks."""
        return tuple(term.partition(":")[2] for term in self.own_sender_terms if term.startswith(("ip4:", "ip6:")))

    @property
    def own_sender_lookups(self) -> tuple[str, ...]:
        """Those of them that need the DNS."""
        return tuple(term for term in self.own_sender_terms if not term.startswith(("ip4:", "ip6:")))

    @property
    def max_leaving(self) -> Ceiling:
        """`guard.leaving`, with its defaults, which may be more than mail.yml may say."""
        server, leaving = self.guard.server, self.guard.leaving
        return Ceiling.model_construct(
            recipients_per_hour=leaving.recipients_per_hour or 2 * server.recipients_per_hour,
            recipients_per_day=leaving.recipients_per_day or 2 * server.recipients_per_day,
        )

    @property
    def max_leaving_connections(self) -> int:
        """`guard.leaving.connections_per_hour`, with its default."""
        return self.guard.leaving.connections_per_hour or 5 * self.max_leaving.recipients_per_hour

    @property
    def serves_mta_sts_policy(self) -> bool:
        """Whether this server publishes the MTA-STS policy."""
        return self.web.mta_sts and self.dns.mta_sts != "off"

    @property
    def https_names(self) -> tuple[str, ...]:
        """The names that the server answers over HTTPS, one for each page; empty without a web server."""
        labels = [
            *(["mta-sts"] if self.serves_mta_sts_policy else []),
            *(["autoconfig", "autodiscover"] if self.web.autoconfig else []),
        ]
        return tuple(f"{label}.{domain}" for domain in self.domains for label in labels)

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The names that the TLS certificate must cover: the host's, and those answered over HTTPS."""
        return (self.host.name, *self.https_names)

    @cached_property
    def own_domains(self) -> frozenset[str]:
        """The mail domains, for look-ups."""
        return frozenset(self.domains)

    @cached_property
    def alias_patterns(self) -> AliasPatterns:
        """The aliases with a `*`, for look-ups."""
        return AliasPatterns(self.aliases)

    def find_alias(self, address: str) -> str:
        """The alias of an address without extension: itself, or the pattern that matches it; "" if there is none."""
        if address in self.aliases or address in self.account_addresses:
            return address if address in self.aliases else ""
        return self.alias_patterns.find(address)

    @cached_property
    def account_addresses(self) -> frozenset[str]:
        """The accounts' own addresses, for look-ups."""
        return frozenset(account.address for account in self.accounts)


def nested_models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models within a setting's type: Account of tuple[Account, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from nested_models(argument)
