"""A container that is a machine: systemd as PID 1, an address, SSH."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from mailkeep.lab.podman import LABEL, LabError, machine_flags, podman, poll

BOOT_SECONDS = 60.0


@dataclass(frozen=True)
class Container:
    """One machine of a lab. `id` is podman's name for it, `name` the lab's and the SSH config's."""

    lab: str  # the lab's prefix
    name: str
    hostname: str
    ip: IPv4Address
    ip6: IPv6Address
    state: Path  # the lab's directory: SSH key, SSH configs

    @property
    def id(self) -> str:
        return f"{self.lab}-{self.name}"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`, testinfra, pyinfra (`ssh_config_file`); the host is called `name` or `hostname`."""
        return self.state / f"{self.name}.ssh_config"

    @property
    def control_socket(self) -> Path:
        """OpenSSH's ControlPath: one connection for all commands (8 ms a command instead of 190)."""
        return self.state / f"{self.name}.ssh"

    def run(
        self, command: str, *, check: bool = True, stdin: str | bytes | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`command` in the shell of root, over SSH. With `check`, LabError unless it exits 0."""
        done = subprocess.run(
            ["ssh", "-F", str(self.ssh_config), self.name, "--", command],
            input=stdin.encode() if isinstance(stdin, str) else stdin or b"",
            capture_output=True,
            check=False,
            timeout=timeout,
        )
        result = subprocess.CompletedProcess(
            command,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and result.returncode:
            said = (result.stdout + result.stderr).strip()
            raise LabError(f"lab: on {self.name}: {command}\nexit {result.returncode}: {said}")
        return result

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Make `path` a regular file with this content, as root and by rename."""
        self.run(
            f"umask 077 && cat > '{path}.new' && chmod {mode:o} '{path}.new' && mv '{path}.new' '{path}'",
            stdin=content,
        )

    def unpack(self, files: dict[str, tuple[bytes, int]]) -> None:
        """Write these files (path without the leading slash: content, mode) in one go."""
        self.run("tar --extract --directory=/ --no-overwrite-dir", stdin=_tar(files))

    def restart(self) -> None:
        """Reboot: everything is stopped, and booted from the disk as it is."""
        self._disconnect()
        podman("restart", "-t", "10", self.id)
        self.wait_until_booted()

    def start(self) -> None:
        """Boot it unless it runs."""
        podman("start", self.id)
        self.wait_until_booted()

    def remove(self) -> None:
        self._disconnect()
        podman("rm", "--force", "--ignore", "--volumes", "--time", "0", self.id)
        self.ssh_config.unlink(missing_ok=True)

    def bake(self, tag: str) -> str:
        """Save the disk as an image of this lab; its name is an `image` for `Lab.server`."""
        image = f"localhost/{self.lab}:{tag}"
        podman("commit", "-q", "--pause=false", "--change", f"LABEL {LABEL}={self.lab}", self.id, image)
        return image

    def boot(self, image: str, network: str, nameservers: list[str]) -> None:
        """Replace the container of this name by one from `image`; returns when systemd says `running`."""
        self.remove()
        podman(
            *("create", "--name", self.id, "--hostname", self.hostname, *machine_flags()),
            # Without SYS_ADMIN units start, but ProtectSystem=strict is not enforced; needrestart needs SYS_PTRACE.
            *("--systemd=always", "--cap-add=NET_ADMIN,SYS_ADMIN,SYS_PTRACE"),
            # podman would bind-mount the machine's own; a server's can be replaced by rename.
            *("--no-hosts", "--dns=none"),
            *("--network", network, "--ip", str(self.ip), "--ip6", str(self.ip6), "-p", "127.0.0.1::22"),
            # Else every boot has a new one, and the neighbours' ARP caches keep the old for up to a minute.
            *("--mac-address", f"02:00:{self.ip.packed.hex(':')}"),
            *("--label", f"{LABEL}={self.lab}", "--label", f"{LABEL}.name={self.name}"),
            *("--label", f"{LABEL}.ip={self.ip}", "--label", f"{LABEL}.ip6={self.ip6}"),
            *(image, "/sbin/init"),
        )
        podman("cp", "-", f"{self.id}:/", stdin=_tar(self._first_files(nameservers)))
        self.start()

    def wait_until_booted(self) -> None:
        port = podman("port", self.id, "22/tcp").rsplit(":", 1)[-1]
        self.ssh_config.write_text(self._ssh_config(int(port)))

        def settled() -> str | None:
            said = self.run("systemctl is-system-running", check=False).stdout.strip()
            return said if said in ("running", "degraded") else None

        if poll(settled, BOOT_SECONDS, f"{self.name} has not booted") == "degraded":
            failed = self.run("systemctl list-units --failed --plain --no-legend").stdout
            raise LabError(f"lab: {self.name} has booted with failed units:\n{failed}")
        # podman mounts /etc/hostname; on a server it is a file like any other.
        self.run(f"! mountpoint -q /etc/hostname || {{ umount /etc/hostname; echo {self.hostname} > /etc/hostname; }}")

    def _disconnect(self) -> None:
        if self.control_socket.exists():
            # Exit 255: the connection is already gone, which is what we want.
            subprocess.run(
                ["ssh", "-F", str(self.ssh_config), "-O", "exit", self.name], capture_output=True, check=False
            )

    def _first_files(self, nameservers: list[str]) -> dict[str, tuple[bytes, int]]:
        short = self.hostname.split(".", 1)[0]
        names = self.hostname if short == self.hostname else f"{self.hostname} {short}"
        hosts = f"127.0.0.1 localhost\n::1 localhost\n{self.ip} {names}\n{self.ip6} {names}\n"
        resolvers = "".join(f"nameserver {server}\n" for server in nameservers)
        return {
            "etc/hosts": (hosts.encode(), 0o644),
            "etc/resolv.conf": (resolvers.encode(), 0o644),
            "root/.ssh/authorized_keys": ((self.state / "id.pub").read_bytes(), 0o600),
        }

    def _ssh_config(self, port: int) -> str:
        lines = [
            f"Host {' '.join(dict.fromkeys((self.name, self.hostname)))}",
            "  HostName 127.0.0.1",
            f"  Port {port}",
            "  User root",
            f"  IdentityFile {self.state / 'id'}",
            "  IdentitiesOnly yes",
            "  StrictHostKeyChecking no",
            "  UserKnownHostsFile /dev/null",
            "  ConnectTimeout 5",
            "  LogLevel ERROR",
        ]
        # A socket's path has 108 bytes at most, and ssh adds 17 while it makes one.
        if len(str(self.control_socket)) <= 90:
            lines += ["  ControlMaster auto", f"  ControlPath {self.control_socket}", "  ControlPersist 60"]
        return "\n".join(lines) + "\n"


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, (content, mode) in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(content), mode, time.time()
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def containers(lab: str, state: Path) -> list[Container]:
    """The containers of this lab, running or not."""
    listed = json.loads(podman("ps", "--all", "--filter", f"label={LABEL}={lab}", "--format", "json") or "[]")
    return [
        Container(
            lab=lab,
            name=labels[f"{LABEL}.name"],
            hostname=podman("inspect", "--format", "{{.Config.Hostname}}", found["Id"]),
            ip=IPv4Address(labels[f"{LABEL}.ip"]),
            ip6=IPv6Address(labels[f"{LABEL}.ip6"]),
            state=state,
        )
        for found in listed
        for labels in [found["Labels"]]
    ]
