"""Runs on the mail server, every hour, by itself: has it a certificate of the authority's for its key and its names,
and for long enough? If not, lego(1) is asked for one, in a unit of its own: who talks to the world cannot read the key.

A certificate is put in place, with its key in the same file and by rename, only once it has been looked at. Whatever
goes wrong, the one that is there stays. What the operator must know goes into `troubles.json` for whoever alerts.
Python's standard library, openssl(1) and systemctl(1) only.

Usage: on_server.py CONFIG, on_server.py --order CONFIG (in lego's unit), or on_server.py --check CONFIG
"""

import calendar
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PART_LEFT = 1 / 3  # of its life, below which a certificate is renewed; 30 of 90 days
PART_NEAR = 1 / 6  # below which one for the host name alone is better than none
PATIENCE = 86_400.0  # seconds that it may fail, each hour anew, until the operator hears of it
SAID = 400  # characters of what the authority says


class FailedError(Exception):
    """Why there is no new certificate, for the operator."""


@dataclass(frozen=True)
class Certificate:
    """`key` is its public key (PEM), `issued` whether somebody else than itself has signed it; times are seconds since
    the epoch."""

    key: str
    names: frozenset[str]
    start: float
    end: float
    issued: bool

    def left(self, now: float) -> float:
        """Which part of its life is left; none before and after it."""
        return (self.end - now) / (self.end - self.start) if self.start <= now < self.end else 0.0

    def serves(self, host: str, now: float) -> bool:
        """Whether the world is content with it."""
        return self.issued and host in self.names and self.left(now) > 0


# --- decisions


def need(config: dict[str, Any], present: Certificate, key: str, directory: str, now: float) -> str:
    """Why a new certificate is needed, if it is. `directory` is the authority's that the present one came from."""
    if not present.issued or directory != config["directory"]:
        return "there is none of this authority's yet"
    if present.key != key:
        return "there is a new key"
    if lacking := set(config["names"]) - present.names:
        return f"it is not for {', '.join(sorted(lacking))}"
    if present.left(now) < PART_LEFT:
        return f"it ends in {(present.end - now) / 86400:.1f} days"
    return ""


def tries(config: dict[str, Any], present: Certificate, now: float) -> list[list[str]]:
    """The names to ask for: all; and should that fail and time be short, the host's alone. Mail must not stop because
    the DNS of some other name is wrong."""
    names, host = config["names"], config["names"][0]
    short = not present.serves(host, now) or present.left(now) < PART_NEAR
    return [names, [host]] if short and len(names) > 1 else [names]


def is_told(config: dict[str, Any], present: Certificate, since: float, now: float) -> bool:
    """Whether the operator hears of it: at once if it shows, else only if it has failed `since` long."""
    fine = present.serves(config["names"][0], now) and set(config["names"]) <= present.names
    return not fine or now - since >= PATIENCE


# --- openssl


def read(pem: str) -> Certificate:
    """The first certificate of a PEM. Raises FailedError when there is none."""
    said = openssl(
        "x509", "-noout", "-pubkey", "-subject", "-issuer", "-dates", "-ext", "subjectAltName", *_FORMS, pem=pem
    )
    key, _, rest = said.partition(_END)
    fields = dict(line.split("=", 1) for line in rest.splitlines() if re.match(r"\w+=", line))
    names = re.findall(r"DNS:([^,\s]+)", rest)
    own = fields["subject"] == fields["issuer"]
    return Certificate(
        f"{key}{_END}", frozenset(names), _epoch(fields["notBefore"]), _epoch(fields["notAfter"]), not own
    )


_FORMS = ("-nameopt", "RFC2253", "-dateopt", "iso_8601")
_END = "-----END PUBLIC KEY-----"


def _epoch(written: str) -> float:
    return float(calendar.timegm(time.strptime(written, "%Y-%m-%d %H:%M:%SZ")))


def public(key_file: str) -> str:
    return openssl("pkey", "-pubout", "-in", key_file).strip()


def request(key_file: str, names: list[str]) -> str:
    """A certificate signing request."""
    listed = ",".join(f"DNS:{name}" for name in names)
    return openssl("req", "-new", "-key", key_file, "-subj", "/", "-addext", f"subjectAltName={listed}")


def openssl(*arguments: str, pem: str = "") -> str:
    done = run("openssl", *arguments, stdin=pem)
    if done.returncode:
        raise FailedError(f"openssl {arguments[0]}: {' '.join(done.stderr.split())[:SAID]}")
    return done.stdout


def run(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


# --- a new one


def order(config: dict[str, Any], names: list[str], key: str) -> str:
    """Gets a chain for the key and these names, and looks at it. FailedError says why there is none."""
    Path(config["request"]).write_text(request(config["key"], names))
    said = Path(config["said"])
    put(said, "", 0o600)
    if run("systemctl", "start", config["order"]).returncode:
        raise FailedError(_reason(said.read_text(errors="replace"), _secrets(config["credentials"])))
    # Nothing but certificates goes where services read their key.
    chain = "\n".join([*_CERTIFICATE.findall(Path(config["issued"]).read_text()), ""])
    got = read(chain)
    if got.key != key:
        raise FailedError("the certificate that came is for another key")
    if lacking := set(names) - got.names:
        raise FailedError(f"the certificate that came is not for {', '.join(sorted(lacking))}")
    if not got.left(time.time()):  # it may be valid only since we asked
        raise FailedError("the certificate that came is not valid now: is the clock right?")
    return chain


_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def _reason(said: str, secrets: list[str]) -> str:
    """What lego says at its end, in one line, without what is secret. Some of it is the authority's, who may write for
    a terminal."""
    lines = [re.sub(r"^[0-9/]{10} [0-9:]{8} ", "", line).strip() for line in said.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.startswith("Could not ")), max(0, len(lines) - 2))
    reason = " ".join(lines[first:]) or "lego has ended; `journalctl -u mailkeep-acme` says why"
    reason = "".join(filter(str.isprintable, reason))
    for secret in secrets:
        reason = reason.replace(secret, "[not shown]")
    return reason[:SAID]


def _secrets(file: str) -> list[str]:
    """The values of a systemd EnvironmentFile, as the deploy writes it, the longest first."""
    if not Path(file).exists():
        return []
    quoted = re.findall(r'^\w+="(.+)"$', Path(file).read_text(), re.MULTILINE)
    return sorted((re.sub(r"\\(.)", r"\1", value) for value in quoted), key=len, reverse=True)


def put(file: Path, text: str, mode: int = 0o644) -> None:
    """By rename: who reads it sees the old or the new one."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as out:  # noqa: PTH123
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)


def reload(services: list[str]) -> None:
    """Those that run read the certificate anew."""
    for service in services:
        if not run("systemctl", "is-active", "--quiet", service).returncode:
            done = run("systemctl", "try-reload-or-restart", service)
            if done.returncode:
                raise FailedError(f"{service} does not read the new certificate: {done.stderr.strip()[:SAID]}")


# --- all together


class Keeper:
    """What is known from the last run is in `state`: the authority's directory that the certificate came `from`,
    whether services are yet to `reload` it, and since when it fails, if it does (`failing`)."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.directory = Path(config["state"])
        self.file = self.directory / "state.json"
        self.state: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.pem = Path(config["certificate"])

    def look(self, now: float) -> None:
        """Raises FailedError, once it is written down, when there should be another certificate and is not."""
        try:
            failed = self._look(now)
        except (FailedError, OSError) as error:
            failed = str(error)
        since = (self.state.get("failing") or now) if failed else 0
        told = {"certificate": failed} if failed and is_told(self.config, self._present(), since, now) else {}
        put(self.directory / "troubles.json", json.dumps({"troubles": told}, indent=1) + "\n")
        self._write({"failing": since})
        if failed:
            raise FailedError(failed)

    def _look(self, now: float) -> str:
        """What failed, be it only for some of the names."""
        if self.state.get("reload"):  # the last run was killed before
            self._reload()
        key, present = public(self.config["key"]), self._present()
        why = need(self.config, present, key, self.state.get("from", ""), now)
        if not why:
            print("Nothing to do.")
            return ""
        print(f"A certificate is asked for: {why}.", flush=True)
        failed = []
        for names in tries(self.config, present, now):
            try:
                chain = order(self.config, names, key)
            except (FailedError, OSError) as error:
                failed.append(f"There is no new certificate for {', '.join(names)}: {error}")
                continue
            self._use(chain)
            print(f"There is a new certificate for {', '.join(names)}.", flush=True)
            break
        return ". ".join(failed)

    def _present(self) -> Certificate:
        """What services show; one that is good for nothing where there is none."""
        try:
            return read(self.pem.read_text())
        except (FailedError, OSError):
            return Certificate("", frozenset(), 0, 0, issued=False)

    def _use(self, chain: str) -> None:
        """Killed anywhere in between, the next run reloads."""
        self._write({"reload": True})
        put(self.pem, Path(self.config["key"]).read_text() + chain, 0o600)
        self._write({"from": self.config["directory"]})
        self._reload()

    def _reload(self) -> None:
        reload(self.config["services"])
        self._write({"reload": False})

    def _write(self, news: dict[str, Any]) -> None:
        self.state |= news
        put(self.file, json.dumps(self.state, indent=1) + "\n", 0o600)


# --- in the unit that talks to the authority


def ask(config: dict[str, Any]) -> int:
    """Has lego get a certificate, and lays it where everybody can read it. lego's exit code."""
    code = subprocess.run(_lego(config), stdin=subprocess.DEVNULL, check=False).returncode
    if not code:
        got = Path(config["account"]) / "certificates" / f"{config['names'][0]}.crt"
        put(Path(config["issued"]), got.read_text())
    return code


def _lego(config: dict[str, Any]) -> list[str]:
    """Registers an account the first time; gets a certificate each time."""
    options = [f"--path={config['account']}", f"--server={config['directory']}", f"--email={config['contact']}"]
    challenge = ["--http"] if config["challenge"] == "http-01" else [f"--dns={config['provider']}"]
    return ["lego", "--accept-tos", *options, f"--csr={config['request']}", *challenge, "run"]


def main(arguments: list[str]) -> int:
    config = json.loads(Path(arguments[-1]).read_text())
    if "--order" in arguments:
        return ask(config)
    if "--check" in arguments:
        return 0
    try:
        Keeper(config).look(time.time())
    except FailedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
