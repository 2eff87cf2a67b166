"""The reader's own machine: a directory with inventories, a home directory, and the commands of the documentation."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import date
from pathlib import Path
from shlex import quote

import pytest
import yaml
from documents import Command, Settings, steps

from mailkeep.cli import app
from mailkeep.inventory import tls_certificate

PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
PASSPHRASE = re.compile(r"[a-z2-9]{4}(?:-[a-z2-9]{4}){3}")
# What is typed when a command asks; elsewhere PASSWORD. Nothing answers at this URL, which `alert-test` says by 1.
TYPED = {
    "mailkeep webhook": "https://ntfy.example.org/a-secret-topic",
    "mailkeep acme": "RFC2136_NAMESERVER=192.0.2.53",
}
# `plan` says by 2 that there is something to do.
GOOD = {"mailkeep plan": (0, 2), "mailkeep alert-test": (0, 1)}


class Desk:
    """`names` are what to put in place of addresses of the documentation: those of a real server. `quick` is for who
    has none: `mailkeep` runs without a shell and a process of its own."""

    def __init__(self, root: Path, names: Mapping[str, str] | None = None, *, quick: bool = False) -> None:
        self.names, self.quick = dict(names or {}), quick
        self.clone, self.home = root / "clone", root / "home"
        self.passphrases: dict[str, str] = {}
        (self.clone / "inventories").mkdir(parents=True)
        (self.home / ".ssh").mkdir(parents=True)
        # A certificate as an authority would have issued it, and its key.
        chain, key = tls_certificate.split(tls_certificate.self_signed("mail.example.org", date.today()))
        (self.clone / "fullchain.pem").write_bytes(chain)
        (self.clone / "privkey.pem").write_bytes(key)
        programs = root / "bin"
        programs.mkdir()
        # OpenSSH looks for its configuration where the user's home is by /etc/passwd, whatever HOME says.
        (programs / "ssh").write_text('#!/bin/sh\nexec /usr/bin/ssh -F "$HOME/.ssh/config" "$@"\n')
        (programs / "ssh").chmod(0o755)
        self.environment = {
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @property
    def config(self) -> Path:
        return self.home / ".config"

    @property
    def settings_file(self) -> Path:
        return self.clone / "inventories" / "home" / "mail.yml"

    def take_over(self, other: "Desk") -> None:
        """The inventory of another desk, with its key, in place of what is here."""
        for theirs, ours in ((other.clone / "inventories", self.clone / "inventories"), (other.config, self.config)):
            shutil.rmtree(ours, ignore_errors=True)
            shutil.copytree(theirs, ours)
        self.passphrases = dict(other.passphrases)

    def named(self, text: str) -> str:
        longest_first = sorted(map(re.escape, self.names), key=len, reverse=True)
        return re.sub("|".join(longest_first), lambda ours: self.names[ours[0]], text) if longest_first else text

    def run(self, command: Command) -> str:
        """What the command prints; AssertionError unless it ends well. Who is asked for something types it."""
        text = self.named(command.text)
        typed = next((typed for start, typed in TYPED.items() if text.startswith(start)), PASSWORD)
        if command.place == "server":
            code, said = self._shell("ssh", "mail.example.org", "--", f"bash -o pipefail -ec {quote(text)}")
        elif self.quick and re.fullmatch(r"mailkeep [^|<>&;$~*\n]+", text):
            code, said = self._within(shlex.split(text), typed)
        else:
            code, said = self._shell("bash", "-o", "pipefail", "-ec", text, stdin=f"{typed}\n")
        good = next((codes for start, codes in GOOD.items() if text.startswith(start)), (0,))
        assert code in good, f"{command.where}: {text}\nexit {code}: {said}"
        assert "Traceback" not in said, f"{command.where}: {text}\n{said}"
        self._remember(text, said)
        return said

    def _shell(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        done = subprocess.run(
            arguments,
            input=stdin,
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout + done.stderr

    def _within(self, words: list[str], typed: str) -> tuple[int, str]:
        """`mailkeep` in this process: starting Python takes longer than most of its commands."""
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.chdir(self.clone)
            for name in ("XDG_CONFIG_HOME", "MAILKEEP_IDENTITY"):
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "stdin", io.StringIO(f"{typed}\n"))
            with pytest.raises(SystemExit) as ended:
                app.main()
        return int(ended.value.code or 0), said.getvalue()

    def write(self, settings: Settings) -> None:
        """Does in mail.yml what the documentation says to write there."""
        new = yaml.safe_load(self.named(settings.text))
        now = yaml.safe_load(self.settings_file.read_text())
        (now["accounts"][0] if settings.text.startswith(" ") else now).update(new)
        self.settings_file.write_text(yaml.safe_dump(now, sort_keys=False))

    def _remember(self, command: str, said: str) -> None:
        """Whose passphrase was shown or password typed."""
        made = re.search(r"mailkeep (?:init .*--account|account (?:add|passwd) home) (\S+@\S+)", command)
        if made:
            shown = PASSPHRASE.search(said)
            self.passphrases[made[1]] = shown[0] if shown else PASSWORD


def init() -> Command:
    """How the README makes an inventory."""
    [found] = [step for step in steps("README.md") if isinstance(step, Command) and "mailkeep init" in step.text]
    return found
