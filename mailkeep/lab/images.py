"""The images that the lab's containers boot from.

The base image is a Debian as a provider installs it: systemd, OpenSSH, sudo, apt, Python. It is built from the
registry's image; where that cannot be pulled, mmdebstrap builds it from the mirror of this machine's own apt. Servers
are of Debian 13; a machine that somebody moves from may be of an older one. The Internet image adds the programs of the
outside world. The hash of its packages is part of an image's name, so a changed list of packages makes a new image.
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

from mailkeep.lab.podman import LabError, as_root, machine_flags, podman, print_progress

SUITE, OLDER_SUITE = "trixie", "bookworm"
REGISTRY_IMAGES = {SUITE: "debian:13", OLDER_SUITE: "debian:12"}
"""podman resolves the short names (containers-registries.conf(5))."""
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
    "borgbackup",
    "python3-authheaders",
    "python3-dkim",
    "python3-spf",
    "swaks",
    "unbound",
    "valkey-server",
]

_INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"


def base_image(state: Path, suite: str = SUITE) -> str:
    """The name of the base image of this release, which is built unless it exists (half a minute)."""
    name = _image_name("base" if suite == SUITE else suite, BASE_PACKAGES)
    with _build_lock(state):
        if not _image_exists(name):
            print_progress(f"building the base image {name} (once)")
            if _pull_registry_image(REGISTRY_IMAGES[suite]):
                _build_image(name, REGISTRY_IMAGES[suite], _BASE_STEPS)
            else:
                _bootstrap_image(name, suite)
    return name


def internet_image(state: Path) -> str:
    """The name of the image of the outside world, which is built unless it exists (half a minute)."""
    name, parent = _image_name("internet", BASE_PACKAGES + INTERNET_PACKAGES), base_image(state)
    with _build_lock(state):
        if not _image_exists(name):
            print_progress(f"building the Internet image {name} (once)")
            _build_image(name, parent, _INTERNET_STEPS)
    return name


# The registry's image blocks service starts (policy-rc.d) and empties apt's cache (docker-clean).
_BASE_STEPS = f"""\
RUN rm -f /usr/sbin/policy-rc.d /etc/apt/apt.conf.d/docker-* \\
 && apt-get update -q && {_INSTALL} {" ".join(BASE_PACKAGES)}
"""
# Postfix is installed for smtp-source and smtp-sink alone. `Internet.start_servers` starts what a lab needs.
_INTERNET_STEPS = f"""\
RUN apt-get update -q && {_INSTALL} {" ".join(INTERNET_PACKAGES)} \\
 && systemctl disable knot.service unbound.service postfix-mta-sts-resolver.service valkey-server.service \\
 && systemctl mask postfix.service
"""


def _image_name(kind: str, packages: list[str]) -> str:
    return f"localhost/mailkeep-lab:{kind}-{hashlib.sha256(' '.join(packages).encode()).hexdigest()[:8]}"


def _image_exists(name: str) -> bool:
    return bool(podman("images", "--quiet", "--filter", f"reference={name}"))


@contextmanager
def _build_lock(state: Path) -> Iterator[None]:
    """Labs that start together wait for the first one's image instead of building it twice."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pull_registry_image(image: str) -> bool:
    try:
        podman("pull", "-q", image, timeout=300)
    except (LabError, subprocess.TimeoutExpired):
        print_progress(f"{image} cannot be pulled; mmdebstrap builds the image from this machine's apt mirror")
        return False
    return True


def _build_image(name: str, parent: str, steps: str) -> None:
    podman(
        *("build", *machine_flags(), "--network=host", "-q", "-t", name, "-"),
        stdin=f"FROM {parent}\n{steps}".encode(),
    )


def _bootstrap_image(name: str, suite: str) -> None:
    sources = _source_lines(suite)
    command = as_root(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}"),
        *(suite, "-", *(["-"] if sources else [])),
    )
    done = subprocess.run(command, input="\n".join(sources).encode(), capture_output=True, check=False)
    if done.returncode:
        error = done.stderr.decode(errors="replace").strip()
        raise LabError(f"lab: mmdebstrap: exit {done.returncode}: {error}")
    podman("import", "-q", "-", name, stdin=done.stdout)


def mirror_addresses() -> set[IPv4Address]:
    """The addresses of this machine's apt mirrors. A lab's network must not contain them."""
    hosts = {urlsplit(uri).hostname for uri in _archive_uris()} - {None}
    addresses: set[IPv4Address] = set()
    for host in hosts:
        with suppress(socket.gaierror):  # no such host, no address to spare
            addresses |= {IPv4Address(info[4][0]) for info in socket.getaddrinfo(host, 80, socket.AF_INET)}
    return addresses


def _source_lines(suite: str = SUITE) -> list[str]:
    """Lines of sources.list(5) for this machine's Debian mirrors. On Ubuntu none: mmdebstrap has a default."""
    suites = {"debian": (suite, f"{suite}-updates"), "debian-security": (f"{suite}-security",)}
    mirrors = {uri.rstrip("/").rsplit("/", 1)[-1]: uri for uri in reversed(_archive_uris())}
    if "debian" not in mirrors:
        return []
    return [
        f"deb {mirrors[archive]} {archive_suite} main"
        for archive, archive_suites in suites.items()
        if archive in mirrors
        for archive_suite in archive_suites
    ]


def _archive_uris() -> list[str]:
    """The URIs of this machine's apt sources, in order; none on a machine without apt."""
    if not shutil.which("apt-get"):
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
