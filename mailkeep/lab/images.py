"""The images that the lab's containers boot from.

`base` is a Debian 13 as a provider installs it: systemd, OpenSSH, sudo, apt, Python. It is the registry's
image where one can be pulled, else mmdebstrap makes it from the mirror that this machine's own apt uses.
`internet` adds what plays the outside world. An image is named after what it is made of, so a changed recipe is
a new image.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

from mailkeep.lab.podman import LabError, as_root, machine_flags, podman, say

SUITE = "trixie"
REGISTRY_IMAGE = "debian:13"  # podman knows whose (containers-registries.conf(5), short-name aliases)
BASE_PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "apt",
    "ca-certificates",
    "iproute2",
    "openssh-server",
    "procps",
    "python3-minimal",
    "sudo",
]
INTERNET_PACKAGES = [
    "knot",
    "knot-dnsutils",
    "knot-dnssecutils",
    "python3-aiosmtpd",
    "openssl",
    "pebble",
    "postfix",
    "postfix-mta-sts-resolver",
    "bind9-utils",
    "python3-authheaders",
    "python3-dkim",
    "python3-spf",
    "swaks",
    "unbound",
    "valkey-server",
]

_INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"


def base(state: Path) -> str:
    """The name of the base image; it is made if it is not there (half a minute)."""
    name = _name("base", BASE_PACKAGES)
    with _one_builder(state):
        if not _exists(name):
            say(f"making the base image {name} (once)")
            if _pulled():
                _build(name, REGISTRY_IMAGE, _REGISTRY_IMAGE_AS_A_SERVER)
            else:
                _debootstrap(name)
    return name


def internet(state: Path) -> str:
    """The name of the image that plays the outside world; it is made if it is not there (half a minute)."""
    name, below = _name("internet", BASE_PACKAGES + INTERNET_PACKAGES), base(state)
    with _one_builder(state):
        if not _exists(name):
            say(f"making the internet image {name} (once)")
            _build(name, below, _INTERNET)
    return name


# The registry's image blocks service starts (policy-rc.d) and empties apt's cache (docker-clean).
_REGISTRY_IMAGE_AS_A_SERVER = f"""\
RUN rm -f /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/docker-* \\
 && apt-get update -q && {_INSTALL} {" ".join(BASE_PACKAGES)}
"""
# Postfix is there for smtp-source and smtp-sink; what listens is started when the container plays its role.
_INTERNET = f"""\
RUN apt-get update -q && {_INSTALL} {" ".join(INTERNET_PACKAGES)} \\
 && systemctl disable knot.service unbound.service postfix-mta-sts-resolver.service valkey-server.service \\
 && systemctl mask postfix.service
"""


def _name(kind: str, recipe: list[str]) -> str:
    return f"localhost/mailkeep-lab:{kind}-{hashlib.sha256(' '.join(recipe).encode()).hexdigest()[:8]}"


def _exists(name: str) -> bool:
    return bool(podman("images", "--quiet", "--filter", f"reference={name}"))


@contextmanager
def _one_builder(state: Path) -> Iterator[None]:
    """Labs that start at the same time wait for one another's image instead of building it twice."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pulled() -> bool:
    try:
        podman("pull", "-q", REGISTRY_IMAGE, timeout=300)
    except (LabError, subprocess.TimeoutExpired):
        say(f"{REGISTRY_IMAGE} cannot be pulled; mmdebstrap makes it from this machine's apt mirror")
        return False
    return True


def _build(name: str, below: str, steps: str) -> None:
    podman(
        *("build", *machine_flags(), "--network=host", "-q", "-t", name, "-"),
        stdin=f"FROM {below}\n{steps}".encode(),
    )


def _debootstrap(name: str) -> None:
    sources = _sources()
    make = as_root(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"),
        *(SUITE, "-", *(["-"] if sources else [])),
    )
    made = subprocess.run(make, input="\n".join(sources).encode(), capture_output=True, check=False)
    if made.returncode:
        said = made.stderr.decode(errors="replace").strip()
        raise LabError(f"lab: mmdebstrap: exit {made.returncode}: {said}")
    podman("import", "-q", "-", name, stdin=made.stdout)


def mirror_addresses() -> set[IPv4Address]:
    """Where this machine's apt fetches from; a lab's network must not cover it."""
    hosts = {urlsplit(uri).hostname for uri in _archives()} - {None}
    found: set[IPv4Address] = set()
    for host in hosts:
        with suppress(socket.gaierror):  # no such host: nothing to cover
            found |= {IPv4Address(a[4][0]) for a in socket.getaddrinfo(host, 80, socket.AF_INET)}
    return found


def _sources() -> list[str]:
    """sources.list lines for Debian from this machine's mirrors; on an Ubuntu none, and mmdebstrap's own."""
    suites = {"debian": (SUITE, f"{SUITE}-updates"), "debian-security": (f"{SUITE}-security",)}
    mirrors = {uri.rstrip("/").rsplit("/", 1)[-1]: uri for uri in reversed(_archives())}
    if "debian" not in mirrors:
        return []
    return [
        f"deb {mirrors[archive]} {suite} main"
        for archive, of_archive in suites.items()
        if archive in mirrors
        for suite in of_archive
    ]


def _archives() -> list[str]:
    """The URIs of this machine's apt sources, in their order; none where there is no apt."""
    if not shutil.which("apt-get"):
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
