"""What the old machine is told to forward, and what is said when it cannot."""

import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mailkeep.errors import UserError
from mailkeep.host.remote import RemoteHost
from mailkeep.moving_house import forwarding
from mailkeep.settings.models import Settings
from mailkeep.settings.numbers import PROXY_PORTS

OLD4, OLD6, NEW4, NEW6 = "192.0.2.8", "2001:db8::8", "192.0.2.30", "2001:db8::30"
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin")


def declare(*addresses: str, **more: object) -> Settings:
    declared = {
        "host": {"name": "mail.example.org", "addresses": addresses},
        "domains": ["example.org"],
        "admin": {"addresses": ["ann@example.net"]},
    }
    return Settings.model_validate(declared | more)


def render(settings: Settings, *new: str, local: tuple[str, ...] = (), web: bool = True) -> list[str]:
    config = forwarding.render_config(settings, map(ip_address, new), local, web=web)
    return [line.strip() for line in config.decode().splitlines()]


def test_every_mail_port_goes_to_its_counterpart_with_the_clients_address() -> None:
    lines = render(declare(OLD4), NEW4, local=(OLD4,))
    assert [line for line in lines if line.startswith("bind")] == [
        f"bind 0.0.0.0:{port}" for port in (25, 143, 465, 587, 993, 4190)
    ]
    assert [line for line in lines if line.startswith("server")] == [
        f"server new {NEW4}:{port} send-proxy-v2 source {OLD4}" for port in PROXY_PORTS.values()
    ]


def test_it_listens_on_ipv6_where_the_old_machine_has_that_and_prefers_ipv4_to_reach_the_new_one() -> None:
    lines = render(declare(OLD4, OLD6), NEW6, NEW4, local=(OLD4, OLD6))
    assert "bind [::]:993 v6only" in lines
    assert "bind 0.0.0.0:993" in lines
    assert f"server new {NEW4}:10993 send-proxy-v2 source {OLD4}" in lines
    lines = render(declare(OLD4, OLD6), NEW6, local=(OLD4, OLD6))
    assert f"server new [{NEW6}]:10993 send-proxy-v2 source [{OLD6}]" in lines


def test_behind_nat_the_kernel_chooses_the_source() -> None:
    assert f"server new {NEW4}:10025 send-proxy-v2" in render(declare(OLD4), NEW4, local=("10.0.0.2",))


def test_machines_without_a_common_kind_of_address_are_named() -> None:
    with pytest.raises(UserError, match="no kind of address in common"):
        render(declare(OLD4), NEW6)


def test_the_web_ports_go_along_in_clear_where_they_are_served() -> None:
    served = declare(OLD4, web={"autoconfig": True}, tls={"mode": "acme"})
    assert [line for line in render(served, NEW4) if line.startswith("server")][6:] == [
        f"server new {NEW4}:80",
        f"server new {NEW4}:443",
    ]
    for settings, web in ((declare(OLD4), True), (served, False)):
        assert not [line for line in render(settings, NEW4, web=web) if line.endswith((":80", ":443"))]


@pytest.mark.skipif(not HAPROXY, reason="haproxy is not installed")
def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    settings = declare(OLD4, OLD6, web={"autoconfig": True}, tls={"mode": "acme"})
    for new in (NEW4, NEW6):
        config.write_bytes(forwarding.render_config(settings, [ip_address(new)], [OLD4, OLD6]))
        done = subprocess.run([str(HAPROXY), "-c", "-f", config], capture_output=True, text=True, check=False)
        assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


@dataclass
class FakeMachine:
    """Answers every command with the same result, and keeps the commands."""

    code: int = 0
    stdout: str = ""
    stderr: str = ""
    name: str = "old"
    commands: list[str] = field(default_factory=list)

    def run(self, command: str) -> Any:
        self.commands.append(command)
        return SimpleNamespace(rc=self.code, stdout=self.stdout, stderr=self.stderr)


def as_remote(machine: FakeMachine) -> RemoteHost:
    return cast(RemoteHost, machine)


def test_a_port_that_another_program_has_is_named_with_the_program() -> None:
    machine = FakeMachine(1, "busy 25 (master)\nbusy 993 (dovecot)\n")
    with pytest.raises(UserError, match=r"^old: other programs .* 25 \(master\), 993 \(dovecot\)\. Stop and disable"):
        forwarding.start_forwarding(as_remote(machine))


def test_another_failure_is_told_with_the_machines_own_words() -> None:
    machine = FakeMachine(1, stderr="nothing is prepared to forward them")
    with pytest.raises(UserError, match=r"^old: it does not forward its ports: nothing is prepared to forward them\.$"):
        forwarding.start_forwarding(as_remote(machine))


def test_ports_of_the_new_server_that_cannot_be_reached_are_named(
    tmp_path: Path,
) -> None:
    config = tmp_path / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = {"is open": server.getsockname()[1], "is closed": closed.getsockname()[1]}
        closed.close()
        config.write_text(
            f"\tserver new 127.0.0.1:{ports['is open']} send-proxy-v2 source 127.0.0.1\n"
            f"\tserver new 127.0.0.1:{ports['is closed']} send-proxy-v2\n"
            f"\tserver new [::1]:{ports['is open']} source [::1]\n"
        )
        script = forwarding._TRY_PORTS.replace(forwarding.CONFIG, str(config))
        output = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(ports["is closed"]), str(ports["is open"])]
    assert forwarding.find_unreachable_ports(as_remote(FakeMachine(stdout=output))) == sorted(ports.values())


def test_every_script_is_one_that_sh_can_read() -> None:
    machine = FakeMachine()
    forwarding.prepare_forwarding(as_remote(machine), declare(OLD4), [ip_address(NEW4)])
    forwarding.start_forwarding(as_remote(machine))
    forwarding.stop_forwarding(as_remote(machine))
    forwarding.remove_forwarding(as_remote(machine))
    assert forwarding.find_unreachable_ports(as_remote(machine)) == []
    assert len(machine.commands) == 7
    for command in machine.commands:
        subprocess.run(["sh", "-n"], input=command, text=True, check=True)


def test_debians_own_haproxy_is_masked_before_it_is_installed() -> None:
    machine = FakeMachine()
    forwarding.prepare_forwarding(as_remote(machine), declare(OLD4), [ip_address(NEW4)])
    script = next(command for command in machine.commands if "apt-get" in command)
    assert script.index(f"[ ! -x {forwarding.PROGRAM} ]") < script.index("mask haproxy") < script.index("install --no")
