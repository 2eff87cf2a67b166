"""What the guard goes by: `/etc/mailkeep/guard.json`, which Mailkeep writes from mail.yml."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from mailkeep_server.guard.limits import Ceiling, Limits

Mode = Literal["enforce", "learn"]
T = TypeVar("T")


def base(address: str) -> str:
    """The address that owns this one: lower case, without its +extension (Postfix's recipient_delimiter)."""
    local_part, _, domain = address.lower().rpartition("@")
    return f"{local_part.partition('+')[0]}@{domain}"


class ConfigError(Exception):
    """The message names the file, the place in it and what is wanted there."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """What no honest user does. From that many on, the account is frozen."""

    refused_tries: int
    """Messages refused over a limit, in ten minutes."""
    foreign_senders: int
    """Messages as somebody else (envelope sender or From:), in an hour."""
    networks: int
    """Networks beyond its limit that an account tries to send from, in an hour."""
    new_recipients: int
    """Different first-time recipients refused over the limit, in a day."""


@dataclass(frozen=True, slots=True)
class Config:
    mode: Mode
    contact: str
    """Whom a refused or frozen user is told to ask."""
    limits: Limits
    overrides: Mapping[str, Limits]
    addresses: Mapping[str, tuple[str, ...]]
    """Which addresses each account owns, its own among them; lower case."""
    server: Ceiling
    local: Ceiling
    """Of programs on the server itself, which send by sendmail(1)."""
    freeze: Freeze

    def limits_of(self, account: str) -> Limits:
        return self.overrides.get(account, self.limits)


def load(path: Path) -> Config:
    """Raises ConfigError."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return _config(_Object(data, "the file"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _config(data: "_Object") -> Config:
    accounts = {name.lower(): account for name, account in data.objects("accounts")}
    limits = data.numbers("limits", Limits)
    return Config(
        mode=data.choice("mode"),
        contact=data.text("contact"),
        limits=limits,
        overrides={name: one.numbers("limits", Limits) for name, one in accounts.items() if "limits" in one.data},
        addresses={name: (name, *one.texts("addresses")) for name, one in accounts.items()},
        server=data.numbers("server", Ceiling),
        local=data.numbers("local", Ceiling),
        freeze=data.numbers("freeze", Freeze),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where the store is that several mail servers count in; without a password, nobody logs in there."""

    host: str
    port: int
    tls: bool
    user: str
    password: str = field(repr=False)


def load_place(path: Path) -> Place | None:
    """None where there is no such file: this server counts for itself. Raises ConfigError."""
    try:
        data = json.loads(path.read_bytes())
        return Place(**{one.name: data[one.name] for one in fields(Place)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: {type(error).__name__}, where {', '.join(_PLACE)} should be") from None


_PLACE = [one.name for one in fields(Place)]


class _Object:
    """A JSON object whose members are taken out by name and kind."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise ConfigError(f"{where} is not an object")
        self.data, self.where = data, where

    def _member(self, name: str, kind: type) -> Any:
        value = self.data.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{self.where}: {name} is {value!r:.60}, not of type {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        return str(self._member(name, str))

    def texts(self, name: str) -> list[str]:
        return [str(one).lower() for one in self._member(name, list)]

    def choice(self, name: str) -> Mode:
        value = self.text(name)
        for known in get_args(Mode):
            if value == known:
                return known  # type: ignore[no-any-return]
        raise ConfigError(f"{self.where}: {name} is {value!r}, not one of {', '.join(get_args(Mode))}")

    def objects(self, name: str) -> list[tuple[str, "_Object"]]:
        return [(key, _Object(one, f"{name}.{key}")) for key, one in self._member(name, dict).items()]

    def numbers(self, name: str, kind: type[T]) -> T:
        data = _Object(self.data.get(name), f"{self.where}: {name}")
        return kind(**{one.name: data._member(one.name, int) for one in fields(kind) if one.init})  # type: ignore[arg-type]
