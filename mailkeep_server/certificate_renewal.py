"""The certificate by ACME (RFC 8555), checked every hour by `mailkeep-certificate.timer`.

Is there a certificate of the authority for the server's key and names, with enough of its lifetime left? If not,
lego(1) is asked for one, in a unit of its own: the program that talks to strangers cannot read the key.

A new certificate is checked first, and then replaces key and certificate in one file by rename. Whatever fails, the
present one stays. What the operator must know goes into `troubles.json` for the watch. The renewal needs openssl(1)
and systemctl(1).

Usage: certificate-renewal CONFIG, certificate-renewal --order CONFIG (in lego's unit), or
certificate-renewal --check CONFIG
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailkeep_server.common.certificates import (
    MAX_ERROR_CHARS,
    Certificate,
    CertificateError,
    build_signing_request,
    read_certificate,
    read_public_key,
)
from mailkeep_server.common.files import atomic_write

RENEW_BELOW = 1 / 3  # of the lifetime: a certificate of 90 days is renewed when 30 are left
HOST_ALONE_BELOW = 1 / 6  # of the lifetime: then a certificate for the host name alone is better than none
REPORT_AFTER = 86_400.0  # seconds of failed tries, one each hour, until an alert


class RenewalError(Exception):
    """Why there is no new certificate, for the operator."""


FAILURES = (RenewalError, CertificateError, OSError)


@dataclass(frozen=True)
class RenewalConfig:
    """`acme.json`, as `mailkeep.parts.certificates` writes it."""

    names: list[str]
    """DNS names of the certificate, the host name first."""
    directory_url: str
    """The authority's (RFC 8555 §7.1.1)."""
    contact: str
    challenge: str
    provider: str | None
    """lego's name of the DNS provider, for `dns-01`."""
    pem_file: str
    """Key and certificate chain, as services read them."""
    key_file: str
    credentials_file: str
    """Environment of lego's unit; absent where lego needs none."""
    services: list[str]
    """Units that read the certificate."""
    order_unit: str
    request_file: str
    output_file: str
    """lego's output."""
    account_directory: str
    issued_file: str
    """The chain that lego's unit leaves."""
    state_directory: str

    @property
    def host(self) -> str:
        return self.names[0]


def load_config(file: Path) -> RenewalConfig:
    """Raises OSError, ValueError or TypeError."""
    return RenewalConfig(**json.loads(file.read_text()))


# --- decisions


def find_need(config: RenewalConfig, present: Certificate, public_key: str, issuer_url: str, now: float) -> str:
    """Why a new certificate is needed; empty if it is not. `issuer_url` is the directory of the authority that issued
    the present one."""
    if present.self_signed or issuer_url != config.directory_url:
        return "this authority has issued none yet"
    if present.public_key != public_key:
        return "there is a new key"
    if missing := set(config.names) - present.names:
        return f"the present one is not for {', '.join(sorted(missing))}"
    if present.remaining_fraction(now) < RENEW_BELOW:
        return f"the present one ends in {(present.not_after - now) / 86400:.1f} days"
    return ""


def list_attempts(config: RenewalConfig, present: Certificate, now: float) -> list[list[str]]:
    """The names to ask for: all of them; then, if that fails and time is short, the host name alone. Mail must not
    stop because the DNS of another name is wrong."""
    is_short = not present.is_accepted_for(config.host, now) or present.remaining_fraction(now) < HOST_ALONE_BELOW
    return [config.names, [config.host]] if is_short and len(config.names) > 1 else [config.names]


def must_report(config: RenewalConfig, present: Certificate, failing_since: float, now: float) -> bool:
    """Whether a failure is reported: at once if clients notice it, else once it has lasted a day."""
    is_good = present.is_accepted_for(config.host, now) and set(config.names) <= present.names
    return not is_good or now - failing_since >= REPORT_AFTER


# --- a new certificate


def order_certificate(config: RenewalConfig, names: list[str], public_key: str) -> str:
    """A certificate chain (PEM) for this key and these names, checked. Raises one of FAILURES."""
    Path(config.request_file).write_text(build_signing_request(Path(config.key_file), names))
    output = Path(config.output_file)
    atomic_write(output, "", 0o600)
    if run_systemctl("start", config.order_unit).returncode:
        raise RenewalError(explain_failure(output.read_text(errors="replace"), read_secrets(config.credentials_file)))
    # Nothing but certificates goes into the file from which services read their key.
    chain = "\n".join([*_CERTIFICATE.findall(Path(config.issued_file).read_text()), ""])
    issued = read_certificate(chain)
    if issued.public_key != public_key:
        raise RenewalError("the certificate that came is for another key")
    if missing := set(names) - issued.names:
        raise RenewalError(f"the certificate that came is not for {', '.join(sorted(missing))}")
    if not issued.remaining_fraction(time.time()):  # by the clock of now: it may be valid only since the order
        raise RenewalError("the certificate that came is not valid now: is the clock right?")
    return chain


_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def explain_failure(output: str, secrets: list[str]) -> str:
    """The end of lego's output as one line, without secrets. Parts of it come from the authority: nothing in it may
    control a terminal."""
    lines = [re.sub(r"^[0-9/]{10} [0-9:]{8} ", "", line).strip() for line in output.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.startswith("Could not ")), max(0, len(lines) - 2))
    reason = " ".join(lines[first:]) or "lego ended without a message; see `journalctl -u mailkeep-acme`"
    reason = "".join(filter(str.isprintable, reason))
    for secret in secrets:
        reason = reason.replace(secret, "[not shown]")
    return reason[:MAX_ERROR_CHARS]


def read_secrets(file: str) -> list[str]:
    """The values of a systemd EnvironmentFile as a deploy writes it, the longest first."""
    if not Path(file).exists():
        return []
    quoted = re.findall(r'^\w+="(.+)"$', Path(file).read_text(), re.MULTILINE)
    return sorted((re.sub(r"\\(.)", r"\1", value) for value in quoted), key=len, reverse=True)


def reload_services(services: list[str]) -> None:
    """Has those that run read the certificate anew. Raises RenewalError."""
    for service in services:
        if not run_systemctl("is-active", "--quiet", service).returncode:
            done = run_systemctl("try-reload-or-restart", service)
            if done.returncode:
                raise RenewalError(
                    f"{service} cannot read the new certificate: {done.stderr.strip()[:MAX_ERROR_CHARS]}"
                )


def run_systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


# --- all of it


class Renewer:
    """Its `state` lasts from run to run: `from`, the directory URL of the authority that issued the certificate;
    `reload`, whether services have yet to reload; `failing`, since when renewals fail (0: they do not)."""

    def __init__(self, config: RenewalConfig) -> None:
        self.config = config
        self.directory = Path(config.state_directory)
        self.state_file = self.directory / "state.json"
        self.state: dict[str, Any] = json.loads(self.state_file.read_text()) if self.state_file.exists() else {}
        self.pem_file = Path(config.pem_file)

    def renew_if_needed(self, now: float) -> None:
        """Raises RenewalError, after `troubles.json` is written, if a needed certificate could not be had."""
        try:
            failure = self._renew(now)
        except FAILURES as error:
            failure = str(error)
        since = (self.state.get("failing") or now) if failure else 0
        is_trouble = failure and must_report(self.config, self._read_present(), since, now)
        troubles = {"certificate": failure} if is_trouble else {}
        atomic_write(self.directory / "troubles.json", json.dumps({"troubles": troubles}, indent=1) + "\n")
        self._update_state({"failing": since})
        if failure:
            raise RenewalError(failure)

    def _renew(self, now: float) -> str:
        """What failed, even if only for some of the names."""
        if self.state.get("reload"):  # the last run was killed before
            self._reload_services()
        key, present = read_public_key(Path(self.config.key_file)), self._read_present()
        need = find_need(self.config, present, key, self.state.get("from", ""), now)
        if not need:
            print("No new certificate is needed.")
            return ""
        print(f"A new certificate is needed: {need}.", flush=True)
        failures = []
        for names in list_attempts(self.config, present, now):
            try:
                chain = order_certificate(self.config, names, key)
            except FAILURES as error:
                failures.append(f"There is no new certificate for {', '.join(names)}: {error}")
                continue
            self._install(chain)
            print(f"There is a new certificate for {', '.join(names)}.", flush=True)
            break
        return ". ".join(failures)

    def _read_present(self) -> Certificate:
        """The certificate that services show; where there is none, one that nobody accepts."""
        try:
            return read_certificate(self.pem_file.read_text())
        except (CertificateError, OSError):
            return Certificate("", frozenset(), 0, 0, self_signed=True)

    def _install(self, chain: str) -> None:
        """Whenever this is killed, the next run reloads the services."""
        self._update_state({"reload": True})
        atomic_write(self.pem_file, Path(self.config.key_file).read_text() + chain, 0o600)
        self._update_state({"from": self.config.directory_url})
        self._reload_services()

    def _reload_services(self) -> None:
        reload_services(self.config.services)
        self._update_state({"reload": False})

    def _update_state(self, changes: dict[str, Any]) -> None:
        self.state |= changes
        atomic_write(self.state_file, json.dumps(self.state, indent=1) + "\n", 0o600)


# --- in lego's unit


def run_lego(config: RenewalConfig) -> int:
    """Has lego get a certificate, and copies it to where the renewal can read it. Returns lego's exit code."""
    code = subprocess.run(_lego_command(config), stdin=subprocess.DEVNULL, check=False).returncode
    if not code:
        issued = Path(config.account_directory) / "certificates" / f"{config.host}.crt"
        atomic_write(Path(config.issued_file), issued.read_text())
    return code


def _lego_command(config: RenewalConfig) -> list[str]:
    """`run` registers an account if there is none yet, and gets a certificate in any case."""
    options = [f"--path={config.account_directory}", f"--server={config.directory_url}", f"--email={config.contact}"]
    challenge = ["--http"] if config.challenge == "http-01" else [f"--dns={config.provider}"]
    return ["lego", "--accept-tos", *options, f"--csr={config.request_file}", *challenge, "run"]


def main(arguments: list[str]) -> int:
    config = load_config(Path(arguments[-1]))
    if "--order" in arguments:
        return run_lego(config)
    if "--check" in arguments:
        return 0
    try:
        Renewer(config).renew_if_needed(time.time())
    except RenewalError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
