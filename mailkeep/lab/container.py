"""A container that behaves as a machine: systemd as PID 1, an address of its own, SSH."""

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
from mailkeep.lab.shortage import find_shortages, read_load

NEEDLESS_GENERATORS = ("debug", "getty", "gpt-auto", "hibernate-resume", "run", "ssh", "system-update", "tpm2")
"""They look for what a container never has. Without them, `systemctl daemon-reload` takes half the time."""
BOOT_TIMEOUT = 60.0  # seconds
MAX_SOCKET_PATH = 90  # bytes: of the 108 of unix(7), ssh adds 17 to the path while it creates a control socket


@dataclass(frozen=True)
class Container:
    """`id` is podman's name of the container, `name` its name in the lab and in the SSH configuration."""

    lab: str  # the lab's prefix
    name: str
    hostname: str
    ip: IPv4Address
    ip6: IPv6Address
    state: Path  # the lab's directory: its SSH key, and each machine's SSH configuration

    @property
    def id(self) -> str:
        return f"{self.lab}-{self.name}"

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`, testinfra and pyinfra (`ssh_config_file`). Its hosts are `name` and `hostname`."""
        return self.state / f"{self.name}.ssh_config"

    @property
    def control_socket(self) -> Path:
        """OpenSSH's ControlPath: all commands share a connection (8 ms a command instead of 190)."""
        return self.state / f"{self.name}.ssh"

    def run(
        self, command: str, *, check: bool = True, stdin: str | bytes | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` in root's shell, over SSH. With `check`, raises LabError unless it exits 0."""
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        done = self._run_ssh(self.name, "--", command, stdin=data, timeout=timeout)
        result = subprocess.CompletedProcess(
            command,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )
        if check and result.returncode:
            output = (result.stdout + result.stderr).strip()
            raise LabError(f"lab: on {self.name}: {command}\nexit {result.returncode}: {output}")
        return result

    def ask_service(self, port: int, question: bytes, timeout: float = 300) -> bytes:
        """What the service on this port of the machine's loopback answers until it closes. It needs no shell there."""
        done = self._run_ssh("-W", f"127.0.0.1:{port}", self.name, stdin=question, timeout=timeout)
        if done.returncode:
            raise LabError(f"lab: port {port} of {self.name}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Replace `path` by a regular file with this content, owned by root; by rename."""
        self.run(
            f"umask 077 && cat > '{path}.new' && chmod {mode:o} '{path}.new' && mv '{path}.new' '{path}'",
            stdin=content,
        )

    def unpack(self, files: dict[str, tuple[bytes, int]]) -> None:
        """Write files by one command. Keys are paths without the leading slash, values (content, mode)."""
        self.run("tar --extract --directory=/ --no-overwrite-dir", stdin=_pack_tar(files))

    def restart(self) -> None:
        """Reboot: stop everything, and boot from the disk as it is."""
        self._disconnect()
        podman("restart", "-t", "10", self.id)
        self.wait_until_booted()

    def start(self) -> None:
        """Boot the machine unless it runs."""
        podman("start", self.id)
        self.wait_until_booted()

    def remove(self) -> None:
        self._disconnect()
        podman("rm", "--force", "--ignore", "--volumes", "--time", "0", self.id)
        self.ssh_config.unlink(missing_ok=True)

    def bake(self, tag: str) -> str:
        """Save the disk as an image of this lab. Returns its name, an `image` for `Lab.boot_server`."""
        image = f"localhost/{self.lab}:{tag}"
        podman("commit", "-q", "--pause=false", "--change", f"LABEL {LABEL}={self.lab}", self.id, image)
        return image

    def boot(self, image: str, network: str, nameservers: list[str]) -> None:
        """Replace the container of this name by a new one from `image`. Returns when all its units run."""
        self.remove()
        podman(
            *("create", "--name", self.id, "--hostname", self.hostname, *machine_flags()),
            # Without SYS_ADMIN units start, but ProtectSystem=strict is not enforced; needrestart needs SYS_PTRACE.
            *("--systemd=always", "--cap-add=NET_ADMIN,SYS_ADMIN,SYS_PTRACE"),
            # podman would bind-mount /etc/hosts and /etc/resolv.conf. On a server both can be replaced by rename.
            *("--no-hosts", "--dns=none"),
            *("--network", network, "--ip", str(self.ip), "--ip6", str(self.ip6), "-p", "127.0.0.1::22"),
            # With a new address at each boot, the neighbours' ARP caches would keep the old one for up to a minute.
            *("--mac-address", f"02:00:{self.ip.packed.hex(':')}"),
            *("--label", f"{LABEL}={self.lab}", "--label", f"{LABEL}.name={self.name}"),
            *("--label", f"{LABEL}.ip={self.ip}", "--label", f"{LABEL}.ip6={self.ip6}"),
            *(image, "/sbin/init"),
        )
        podman("cp", "-", f"{self.id}:/", stdin=_pack_tar(self._first_files(nameservers)))
        self.start()

    def wait_until_booted(self) -> None:
        """Raises LabError when the boot takes longer than BOOT_TIMEOUT or a unit fails; it names what is short."""
        port = podman("port", self.id, "22/tcp").rsplit(":", 1)[-1]
        self.ssh_config.write_text(self._ssh_config_text(int(port)))
        start = time.monotonic()

        def read_final_state() -> str | None:
            state = self.run("systemctl is-system-running", check=False).stdout.strip()
            return state if state in ("running", "degraded") else None

        try:
            state = poll(read_final_state, BOOT_TIMEOUT, f"{self.name} has not booted")
        except LabError as error:
            raise self._boot_error(str(error), time.monotonic() - start) from None
        if state == "degraded":
            units = self.run("systemctl list-units --failed --plain --no-legend").stdout
            raise self._boot_error(f"lab: {self.name} has booted with failed units:\n{units}", time.monotonic() - start)
        # podman mounts /etc/hostname. On a server it is a file that can be replaced by rename.
        self.run(f"! mountpoint -q /etc/hostname || {{ umount /etc/hostname; echo {self.hostname} > /etc/hostname; }}")

    def _boot_error(self, message: str, boot_seconds: float) -> LabError:
        """First what this machine is short of, as failed units are a mere consequence; then `message`."""
        sentences = find_shortages(read_load(boot_seconds))
        return LabError("\n".join((*(f"lab: {self.name}: {sentence}" for sentence in sentences), message)))

    def _disconnect(self) -> None:
        if self.control_socket.exists():
            self._run_ssh("-O", "exit", self.name)  # exit code 255: the connection is gone already

    def _run_ssh(
        self, *arguments: str, stdin: bytes = b"", timeout: float | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        command = ["ssh", "-F", str(self.ssh_config), *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout)

    def _first_files(self, nameservers: list[str]) -> dict[str, tuple[bytes, int]]:
        short = self.hostname.split(".", 1)[0]
        names = self.hostname if short == self.hostname else f"{self.hostname} {short}"
        hosts = f"127.0.0.1 localhost\n::1 localhost\n{self.ip} {names}\n{self.ip6} {names}\n"
        resolvers = "".join(f"nameserver {server}\n" for server in nameservers)
        return {
            "etc/hosts": (hosts.encode(), 0o644),
            "etc/resolv.conf": (resolvers.encode(), 0o644),
            "root/.ssh/authorized_keys": ((self.state / "id.pub").read_bytes(), 0o600),
        } | {
            # An empty file masks the generator of the same name (systemd.generator(7)).
            f"etc/systemd/system-generators/systemd-{name}-generator": (b"", 0o644)
            for name in NEEDLESS_GENERATORS
        }

    def _ssh_config_text(self, port: int) -> str:
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
        if len(str(self.control_socket)) <= MAX_SOCKET_PATH:
            lines += ["  ControlMaster auto", f"  ControlPath {self.control_socket}", "  ControlPersist 60"]
        return "\n".join(lines) + "\n"


def _pack_tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, (content, mode) in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(content), mode, time.time()
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def list_containers(lab: str, state: Path) -> list[Container]:
    """The containers of this lab, running or stopped."""
    rows = json.loads(podman("ps", "--all", "--filter", f"label={LABEL}={lab}", "--format", "json") or "[]")
    return [
        Container(
            lab=lab,
            name=labels[f"{LABEL}.name"],
            hostname=podman("inspect", "--format", "{{.Config.Hostname}}", row["Id"]),
            ip=IPv4Address(labels[f"{LABEL}.ip"]),
            ip6=IPv6Address(labels[f"{LABEL}.ip6"]),
            state=state,
        )
        for row in rows
        for labels in [row["Labels"]]
    ]
