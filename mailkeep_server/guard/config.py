"""The guard's configuration, written by Mailkeep from mail.yml: `guard.json`, and perhaps `guard-store.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from mailkeep_server.common.alias_reach import AliasReach
from mailkeep_server.common.guard_summary import summarise_config
from mailkeep_server.common.networks import is_in_networks
from mailkeep_server.guard.limits import AccountLimits, Ceiling, ListLimits, ReceivingLimits

Mode = Literal["enforce", "learn"]
T = TypeVar("T")
L = TypeVar("L", AccountLimits, Ceiling)
_HALVED = ("messages", "recipients")


class ConfigError(Exception):
    """The message names the file, the place in it, the value and the expected type."""


@dataclass(frozen=True, slots=True)
class FreezeThresholds:
    """An account that reaches one of these numbers is frozen: no honest user does."""

    refused_tries: int
    """Messages refused over a limit, in ten minutes."""
    foreign_senders: int
    """Messages with an envelope sender or From: of somebody else, in an hour."""
    networks: int
    """Networks beyond its limit from which the account tried to send, in an hour."""
    new_recipients: int
    """Different first-time recipients refused over the limit, in a day."""
    spam_messages: int
    """Messages that the spam filter is sure about, in an hour."""


@dataclass(frozen=True, slots=True)
class HoldThresholds:
    """An account that reaches one of these numbers, and the share, sends no more mail to strangers, or is frozen.

    They count first-time recipients in a week, by voice (`outcomes.count_voice`). Shares are per cent of them, but for
    those of complaints.
    """

    strangeness: int
    """Points of a message to strangers (`habits.Reason`), from which on it is held."""

    dead: int
    """That do not exist."""
    refused: int
    """Whose servers name spam, or too much mail."""
    share: int
    complaints: int
    """That complain, of different messages (`complaints`)."""
    complaint_share: int
    """Per mille."""
    freeze_dead: int
    freeze_refused: int
    freeze_share: int
    freeze_complaints: int
    freeze_complaint_share: int


@dataclass(frozen=True, slots=True)
class GuardConfig:
    mode: Mode
    contact: str
    """The address in refusals, for a refused or frozen user to ask."""
    limits: AccountLimits
    overrides: Mapping[str, AccountLimits]
    """Limits of accounts that have their own."""
    addresses: Mapping[str, tuple[str, ...]]
    """The addresses each account may send from, its own first; lower case."""
    release_address: str
    """Where owners reply to end a hold; "" if no account has `confirm_at`."""
    domains: tuple[str, ...]
    """Those of this server, its host name included. Their mail is signed."""
    completed_domain: str
    """The domain that Postfix adds to a word in From: (postconf(5), myorigin); "" if accounts have it too."""
    server_ceiling: Ceiling
    """For all accounts and programs together."""
    local_ceiling: Ceiling
    """For programs on the server, which send by sendmail(1)."""
    forward_ceiling: Ceiling
    """For mail of strangers that leaves the server again: through lists and Sieve scripts, and as bounces."""
    list_limits: ListLimits
    reach: AliasReach
    """Aliases and catch-alls: who gets mail to an address."""
    freeze_thresholds: FreezeThresholds
    hold_thresholds: HoldThresholds
    receiving: ReceivingLimits
    exempt_networks: tuple[IPv4Network | IPv6Network, ...]
    """Whose mail `receiving` does not limit."""

    def limits_of(self, account: str) -> AccountLimits:
        return self.overrides.get(account, self.limits)

    def script_limits_of(self, account: str) -> AccountLimits:
        """Of its Sieve script: half of the account's. Strangers set it off."""
        return _halve(self.limits_of(account))

    def is_exempt(self, client: str) -> bool:
        """By its IP address."""
        return is_in_networks(client, self.exempt_networks)

    def tighten(self) -> "GuardConfig":
        """For a day after counts were lost: half of what may be sent.

        An honest user meets the tighter limits too, and must not be frozen for it: twice as many tries are allowed.
        First-time recipients are bounded as ever: of an account whose recipients were lost, all are first-time ones.
        """
        return replace(
            self,
            limits=_halve(self.limits),
            overrides={name: _halve(limits) for name, limits in self.overrides.items()},
            server_ceiling=_halve(self.server_ceiling),
            local_ceiling=_halve(self.local_ceiling),
            forward_ceiling=_halve(self.forward_ceiling),
            freeze_thresholds=replace(
                self.freeze_thresholds,
                refused_tries=2 * self.freeze_thresholds.refused_tries,
                new_recipients=2 * self.freeze_thresholds.new_recipients,
            ),
        )


def _halve(limits: L) -> L:
    bounds = {limit.name: max(limit.maximum // 2, 1) for limit in limits.rate_limits if limit.column in _HALVED}
    return replace(limits, **bounds)  # type: ignore[arg-type]


def load_config(path: Path) -> GuardConfig:
    """Raises ConfigError."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return _build_config(_JsonObject(data, "the file"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _build_config(data: "_JsonObject") -> GuardConfig:
    accounts = {name.lower(): account for name, account in data.get_objects("accounts")}
    addresses = {name: (name, *account.get_addresses("addresses")) for name, account in accounts.items()}
    host = data.get_text("contact").rpartition("@")[2].lower()
    aliases = {alias.lower(): targets for alias, targets in data.get_address_lists("aliases").items()}
    catch_all = {domain.lower(): targets[0] for domain, targets in data.get_address_lists("catch_all").items()}
    domains = tuple(data.get_addresses("domains"))
    return GuardConfig(
        mode=data.get_mode("mode"),
        contact=data.get_text("contact"),
        release_address=data.get_text("release_address").lower(),
        limits=data.get_numbers("limits", AccountLimits),
        overrides={
            name: account.get_numbers("limits", AccountLimits)
            for name, account in accounts.items()
            if "limits" in account.members
        },
        addresses=addresses,
        domains=domains,
        completed_domain="" if any(name.endswith(f"@{host}") for name in addresses) else host,
        server_ceiling=data.get_numbers("server", Ceiling),
        local_ceiling=data.get_numbers("local", Ceiling),
        forward_ceiling=data.get_numbers("forwards", Ceiling),
        list_limits=data.get_numbers("lists", ListLimits),
        reach=AliasReach(aliases, catch_all, addresses, frozenset((*domains, "localhost"))),
        freeze_thresholds=data.get_numbers("freeze", FreezeThresholds),
        hold_thresholds=data.get_numbers("holds", HoldThresholds),
        receiving=data.get_numbers("receiving", ReceivingLimits),
        exempt_networks=data.get_networks("exempt_networks"),
    )


def describe_config(config: GuardConfig) -> dict[str, str | int]:
    """What the guard goes by, for `mailkeep verify` to compare with the declared file."""
    accounts = {
        name: {"addresses": addresses[1:], "limits": _list_numbers(config.limits_of(name))}
        for name, addresses in config.addresses.items()
    }
    return summarise_config(
        {
            "mode": config.mode,
            "contact": config.contact,
            "release_address": config.release_address,
            "limits": _list_numbers(config.limits),
            "accounts": accounts,
            "domains": list(config.domains),
            "server": _list_numbers(config.server_ceiling),
            "local": _list_numbers(config.local_ceiling),
            "forwards": _list_numbers(config.forward_ceiling),
            "lists": _list_numbers(config.list_limits),
            "aliases": config.reach.aliases,
            "catch_all": {domain: [target] for domain, target in config.reach.catch_all.items()},
            "freeze": _list_numbers(config.freeze_thresholds),
            "holds": _list_numbers(config.hold_thresholds),
            "receiving": _list_numbers(config.receiving),
            "exempt_networks": [*map(str, config.exempt_networks)],
        }
    )


_Numbers = AccountLimits | Ceiling | ListLimits | ReceivingLimits | FreezeThresholds | HoldThresholds


def _list_numbers(section: _Numbers) -> dict[str, int]:
    return {spec.name: getattr(section, spec.name) for spec in fields(section) if spec.init}


@dataclass(frozen=True, slots=True)
class SharedStoreConfig:
    """The Valkey or Redis in which several mail servers count together."""

    host: str
    port: int
    tls: bool
    user: str
    password: str = field(repr=False)
    """Empty: no login."""


_STORE_FIELDS = [spec.name for spec in fields(SharedStoreConfig)]


def load_shared_store(path: Path) -> SharedStoreConfig | None:
    """None if the file is missing: this server counts alone. Raises ConfigError."""
    try:
        data = json.loads(path.read_bytes())
        return SharedStoreConfig(**{name: data[name] for name in _STORE_FIELDS})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        expected = ", ".join(_STORE_FIELDS)
        raise ConfigError(f"{path}: {type(error).__name__}; expected an object with {expected}") from None


class _JsonObject:
    """A JSON object whose members are taken out by name and type."""

    def __init__(self, members: Any, where: str) -> None:
        if not isinstance(members, dict):
            raise ConfigError(f"{where} is not an object")
        self.members, self.where = members, where

    def _get_member(self, name: str, kind: type) -> Any:
        value = self.members.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{self.where}: {name} is {value!r:.60}, not of type {kind.__name__}")
        return value

    def get_text(self, name: str) -> str:
        return str(self._get_member(name, str))

    def get_addresses(self, name: str) -> list[str]:
        return [str(address).lower() for address in self._get_member(name, list)]

    def get_networks(self, name: str) -> tuple[IPv4Network | IPv6Network, ...]:
        try:
            return tuple(ip_network(network) for network in self._get_member(name, list))
        except ValueError as error:
            raise ConfigError(f"{self.where}: {name}: {error}") from None

    def get_address_lists(self, name: str) -> dict[str, list[str]]:
        members = _JsonObject(self.members.get(name), f"{self.where}: {name}")
        return {key: members.get_addresses(key) for key in members.members}

    def get_mode(self, name: str) -> Mode:
        value = self.get_text(name)
        for mode in get_args(Mode):
            if value == mode:
                return mode  # type: ignore[no-any-return]
        raise ConfigError(f"{self.where}: {name} is {value!r}, not one of {', '.join(get_args(Mode))}")

    def get_objects(self, name: str) -> list[tuple[str, "_JsonObject"]]:
        members = self._get_member(name, dict)
        return [(key, _JsonObject(value, f"{name}.{key}")) for key, value in members.items()]

    def get_numbers(self, name: str, kind: type[T]) -> T:
        """A dataclass of integers."""
        numbers = _JsonObject(self.members.get(name), f"{self.where}: {name}")
        names = [spec.name for spec in fields(kind) if spec.init]  # type: ignore[arg-type]
        return kind(**{number: numbers._get_member(number, int) for number in names})
