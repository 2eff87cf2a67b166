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
from documents import Command, SettingsBlock, read_steps

from mailkeep.cli import app
from mailkeep.inventory import tls_certificate

PASSWORD = "violet-kettle-9-orbit-lamp"  # noqa: S105
PASSPHRASE = re.compile(r"[a-z2-9]{4}(?:-[a-z2-9]{4}){3}")
# The answer that is typed when a command asks; PASSWORD for all others. Nothing listens at this URL, so `alert-test`
# ends with 1.
TYPED = {
    "mailkeep webhook": "https://ntfy.example.org/a-secret-topic",
    "mailkeep acme": "RFC2136_NAMESERVER=192.0.2.53",
}
# `plan` exits with 2 when there are changes, `status` with 3 or 4 when not all is well.
ACCEPTED_EXIT_CODES = {"mailkeep plan": (0, 2), "mailkeep alert-test": (0, 1), "mailkeep status": (0, 3, 4)}


class Workstation:
    """`substitutes` replace addresses of the documentation by those of a real server. With `in_process`, for tests
    without a server, `mailkeep` runs without a shell and without a process of its own."""

    def __init__(self, root: Path, substitutes: Mapping[str, str] | None = None, *, in_process: bool = False) -> None:
        self.substitutes, self.in_process = dict(substitutes or {}), in_process
        self.clone, self.home = root / "clone", root / "home"
        self.passphrases: dict[str, str] = {}
        (self.clone / "inventories").mkdir(parents=True)
        (self.home / ".ssh").mkdir(parents=True)
        # A certificate as an authority would have issued it, and its key.
        chain, key = tls_certificate.split_pem(tls_certificate.create_self_signed("mail.example.org", date.today()))
        (self.clone / "fullchain.pem").write_bytes(chain)
        (self.clone / "privkey.pem").write_bytes(key)
        shutil.copy(Path(__file__).parent / "journal.txt", self.clone / "mail.log")
        programs = root / "bin"
        programs.mkdir()
        # OpenSSH takes the home directory of /etc/passwd for its configuration and ignores HOME.
        (programs / "ssh").write_text('#!/bin/sh\nexec /usr/bin/ssh -F "$HOME/.ssh/config" "$@"\n')
        (programs / "ssh").chmod(0o755)
        self.environment = {
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    @property
    def user_config(self) -> Path:
        return self.home / ".config"

    @property
    def settings_file(self) -> Path:
        return self.clone / "inventories" / "home" / "mail.yml"

    def read_inventory(self) -> dict[str, bytes]:
        """The content of each file of the inventory, by its path."""
        paths = sorted(path for path in self.settings_file.parent.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in paths}

    def copy_inventory(self, source: "Workstation") -> None:
        """Replaces this machine's inventories and age identity by those of `source`."""
        for source_directory, target_directory in (
            (source.clone / "inventories", self.clone / "inventories"),
            (source.user_config, self.user_config),
        ):
            shutil.rmtree(target_directory, ignore_errors=True)
            shutil.copytree(source_directory, target_directory)
        self.passphrases = dict(source.passphrases)

    def substitute(self, text: str) -> str:
        longest_first = sorted(map(re.escape, self.substitutes), key=len, reverse=True)
        return (
            re.sub("|".join(longest_first), lambda match: self.substitutes[match[0]], text) if longest_first else text
        )

    def run(self, command: Command) -> str:
        """Returns the command's output. AssertionError if it fails. Types an answer if the command asks."""
        text = self.substitute(command.text)
        typed = next((typed for prefix, typed in TYPED.items() if text.startswith(prefix)), PASSWORD)
        if command.place == "server":
            code, output = self._run_process("ssh", "mail.example.org", "--", f"bash -o pipefail -ec {quote(text)}")
        elif self.in_process and re.fullmatch(r"mailkeep [^|<>&;$~*\n]+", text):
            code, output = self._run_in_process(shlex.split(text), typed)
        else:
            code, output = self._run_process("bash", "-o", "pipefail", "-ec", text, stdin=f"{typed}\n")
        accepted = next((codes for prefix, codes in ACCEPTED_EXIT_CODES.items() if text.startswith(prefix)), (0,))
        assert code in accepted, f"{command.where}: {text}\nexit {code}: {output}"
        assert "Traceback" not in output, f"{command.where}: {text}\n{output}"
        self._remember_passphrase(text, output)
        return output

    def _run_process(self, *arguments: str, stdin: str = "") -> tuple[int, str]:
        process = subprocess.run(
            arguments,
            input=stdin,
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return process.returncode, process.stdout + process.stderr

    def _run_in_process(self, words: list[str], typed: str) -> tuple[int, str]:
        """Runs `mailkeep` in this process: starting Python takes longer than most of its commands."""
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
            patch.chdir(self.clone)
            for name in ("XDG_CONFIG_HOME", "MAILKEEP_IDENTITY", "MAILKEEP_HOME"):
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", words)
            patch.setattr(sys, "stdin", io.StringIO(f"{typed}\n"))
            with pytest.raises(SystemExit) as ended:
                app.main()
        return int(ended.value.code or 0), output.getvalue()

    def write_settings(self, block: SettingsBlock) -> None:
        """Changes mail.yml as the documentation says."""
        changes = yaml.safe_load(self.substitute(block.text))
        settings = yaml.safe_load(self.settings_file.read_text())
        (settings["accounts"][0] if block.text.startswith(" ") else settings).update(changes)
        self.settings_file.write_text(yaml.safe_dump(settings, sort_keys=False))

    def _remember_passphrase(self, command: str, output: str) -> None:
        """Keeps the passphrase that a command printed, or the password that it asked for."""
        if account := re.search(r"mailkeep (?:init .*--account|account (?:add|passwd) home) (\S+@\S+)", command):
            printed = PASSPHRASE.search(output)
            self.passphrases[account[1]] = printed[0] if printed else PASSWORD


def read_init_command() -> Command:
    """The command by which the README makes an inventory."""
    [command] = [step for step in read_steps("README.md") if isinstance(step, Command) and "mailkeep init" in step.text]
    return command
