"""The DKIM keys with which a foreign server signs: those of OpenDKIM, Rspamd and Amavis."""

import fnmatch
import json
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mailkeep.moving_in.observed import Observed

_RSPAMD_FILES = ("/etc/rspamd/override.d/dkim_signing.conf", "/etc/rspamd/local.d/dkim_signing.conf")
_RSPAMD_PATH = "/var/lib/rspamd/dkim/$domain.$selector.key"  # the module's default, as is the selector
_RSPAMD_SELECTOR = "dkim"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`path` is the file of the private key on the old server. `pem` is empty if it was not there."""

    domain: str
    selector: str
    path: str
    program: str
    pem: bytes = field(default=b"", repr=False)


def find_signing_keys(observed: Observed, domains: Iterable[str]) -> list[SigningKey]:
    """For each domain the key that signs comes first; each domain and selector once."""
    domains = tuple(domains)
    keys = [
        *_read_opendkim(observed, domains),
        *_read_docker_mailserver(observed, domains),
        *_read_rspamd(observed, domains),
        *_read_mailcow(observed),
        *_read_amavis(observed),
    ]
    unique: dict[tuple[str, str], SigningKey] = {}
    for key in keys:
        name = (key.domain, key.selector.lower())
        if name not in unique or (key.pem and not unique[name].pem):
            unique[name] = key
    return list(unique.values())


def _read_key(observed: Observed, domain: str, selector: str, path: str, program: str) -> SigningKey:
    return SigningKey(domain.lower(), selector, path, program, observed.files.get(path, b""))


# --- OpenDKIM


def _read_opendkim(observed: Observed, domains: tuple[str, ...]) -> Iterator[SigningKey]:
    lines = (line.split(None, 1) for line in observed.read_text("/etc/opendkim.conf").splitlines())
    conf = {words[0].lower(): words[1].strip() for words in lines if len(words) == 2 and not words[0].startswith("#")}
    if "keytable" in conf:
        key_rows = _read_rows(observed.read_text(_strip_kind(conf["keytable"])))
        signing_rows = _read_rows(observed.read_text(_strip_kind(conf.get("signingtable", ""))))
        for domain, selector, path in _match_tables(key_rows, signing_rows, domains):
            yield _read_key(observed, domain, selector, path, "OpenDKIM")
    elif "keyfile" in conf and "selector" in conf:
        value = conf.get("domain", "")
        text = observed.read_text(_strip_kind(value)) if "/" in value else value
        for domain in re.split(r"[,\s]+", text.strip()):
            if "." in domain and "*" not in domain:
                yield _read_key(observed, domain, conf["selector"], conf["keyfile"], "OpenDKIM")


def _strip_kind(value: str) -> str:
    """`refile:/etc/opendkim/signing.table` is that file (opendkim(8), DATA SETS)."""
    return re.sub(r"^[a-z]+:", "", value)


def _read_rows(text: str) -> list[tuple[str, str]]:
    words = (line.split() for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [(row[0], row[1]) for row in words if len(row) > 1]


def _match_tables(
    key_rows: list[tuple[str, str]], signing_rows: list[tuple[str, str]], domains: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    """(domain, selector, path). A row of the key table is `NAME DOMAIN:SELECTOR:PATH`, one of the signing table
    `PATTERN NAME`; a DOMAIN of % is that of the message (opendkim.conf(5))."""
    keys = {name: fields for name, value in key_rows if len(fields := value.split(":", 2)) == 3}
    signing = [(pattern.rpartition("@")[2], name) for pattern, name in signing_rows]
    for domain in domains:
        for pattern, name in signing:
            if fnmatch.fnmatch(domain, pattern) and name in keys:
                yield keys[name][0].replace("%", domain), keys[name][1], keys[name][2]
    for key_domain, selector, path in keys.values():
        if key_domain != "%":
            yield key_domain, selector, path


def _read_docker_mailserver(observed: Observed, domains: tuple[str, ...]) -> Iterator[SigningKey]:
    """Its configuration is on the host what is /tmp/docker-mailserver and /etc/opendkim in the container."""
    for table in [path for path in observed.files if path.endswith("/opendkim/KeyTable")]:
        directory = posixpath.dirname(table)
        if directory == "/etc/opendkim":
            continue
        signing_rows = _read_rows(observed.read_text(f"{directory}/SigningTable"))
        for domain, selector, path in _match_tables(_read_rows(observed.read_text(table)), signing_rows, domains):
            mapped = path.replace("/etc/opendkim/", f"{directory}/")
            yield _read_key(observed, domain, selector, mapped, "docker-mailserver")
    for file in [path for path in observed.files if path.endswith("/rspamd/override.d/dkim_signing.conf")]:
        directory = file.removesuffix("/rspamd/override.d/dkim_signing.conf")
        if directory != "/etc":
            for domain, selector, path in _parse_rspamd(observed, file, domains):
                mapped = path.replace("/tmp/docker-mailserver/", f"{directory}/")  # noqa: S108 - a path of its container
                yield _read_key(observed, domain, selector, mapped, "docker-mailserver")


# --- Rspamd


def _read_rspamd(observed: Observed, domains: tuple[str, ...]) -> Iterator[SigningKey]:
    for file in _RSPAMD_FILES:
        for domain, selector, path in _parse_rspamd(observed, file, domains):
            key = _read_key(observed, domain, selector, path, "Rspamd")
            if key.pem:
                yield key


def _parse_rspamd(observed: Observed, file: str, domains: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """The blocks of `domain { … }` first, then path and selector of all domains, where `$domain` stands for each."""
    text = re.sub(r"(?m)#.*$", "", observed.read_text(file))
    if not text.strip():
        return
    block = re.search(r"\bdomain\s*\{(.*)", text, re.DOTALL)
    for name, body in re.findall(r"([\w.-]+\.[\w-]+)\s*\{(.*?)\}", block[1] if block else "", re.DOTALL):
        if (path := _read_ucl(body, "path")) and (selector := _read_ucl(body, "selector")):
            yield name, selector, _fill(path, name, selector)
    general = text[: block.start()] if block else text
    path, selector = _read_ucl(general, "path") or _RSPAMD_PATH, _read_ucl(general, "selector") or _RSPAMD_SELECTOR
    selectors = _read_map(observed, _read_ucl(general, "selector_map"))
    paths = _read_map(observed, _read_ucl(general, "path_map"))
    for domain in domains:
        own_selector = selectors.get(domain, selector)
        yield domain, own_selector, _fill(paths.get(domain, path), domain, own_selector)


def _read_ucl(text: str, name: str) -> str:
    match = re.search(rf"\b{name}\s*[=:]\s*\"?([^\";\n]+)", text)
    return match[1].strip() if match else ""


def _read_map(observed: Observed, path: str) -> dict[str, str]:
    return dict(_read_rows(observed.read_text(path)))


def _fill(path: str, domain: str, selector: str) -> str:
    return path.replace("$domain", domain).replace("$selector", selector)


def _read_mailcow(observed: Observed) -> Iterator[SigningKey]:
    """In Redis: DKIM_SELECTORS has the selector of each domain, DKIM_PRIV_KEYS the key of each `SELECTOR.DOMAIN`."""
    selectors = _read_json(observed, "redis-DKIM_SELECTORS")
    keys = _read_json(observed, "redis-DKIM_PRIV_KEYS")
    for domain, selector in selectors.items():
        pem = keys.get(f"{selector}.{domain}", "")
        yield SigningKey(
            domain.lower(), selector, f"Redis, DKIM_PRIV_KEYS {selector}.{domain}", "mailcow", pem.encode()
        )


def _read_json(observed: Observed, name: str) -> dict[str, str]:
    try:
        value = json.loads(observed.outputs.get(name) or "{}")
    except ValueError:
        return {}
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}


# --- Amavis


def _read_amavis(observed: Observed) -> Iterator[SigningKey]:
    for file in observed.files:
        if file.startswith(("/etc/amavis/", "/etc/amavisd/")):
            text = re.sub(r"(?m)^\s*#.*$", "", observed.read_text(file))
            for domain, selector, path in re.findall(
                r"dkim_key\(\s*['\"]([^'\"]+)['\"]\s*,\s*['\"]([^'\"]+)['\"]\s*,\s*['\"]([^'\"]+)['\"]", text
            ):
                yield _read_key(observed, domain, selector, path, "Amavis")
