"""The attack of a container: it speaks SMTP to another server past Postfix, by a packet that this machine forwards.

It is tried in network namespaces of its own, with the rules that are loaded. So the server's own network is left alone,
and the result is the same whether this machine forwards at present or not.
"""

import json
import subprocess
from typing import Any

from .commands import run_command

LIST_TABLE = ("nft", "-s", "-t", "list", "table", "inet", "mailkeep")
"""Without the elements of sets, which are compared elsewhere: the networks of the attack are in none of them."""
CONTROL_PORT = 26
"""Nobody forbids it: that packets arrive there proves that the one to port 25 would."""
TRY_SECONDS = 30.0
# A bridge with one container behind it, as docker makes it, on a router with this server's rules, and a mail server
# elsewhere. The addresses are those of benchmarks and of documentation.
SCRIPT = r"""
set -eu
mount --make-rprivate /
mount -o remount,bind,rw /proc/sys 2>/dev/null || true  # read-only in a container
forward() { [ "$(cat "/proc/sys/net/$1" 2>/dev/null)" = 1 ] || echo 1 2>/dev/null >"/proc/sys/net/$1" || true; }
place() { nsenter --net="/proc/$1/ns/net" -- ip "$2" address add "$3" dev eth0 $4; }
route() { nsenter --net="/proc/$1/ns/net" -- ip "$2" route add default via "$3"; }
forward ipv4/ip_forward
forward ipv6/conf/all/forwarding
unshare --net sleep 60 & box=$!
unshare --net sleep 60 & outside=$!
server=
trap 'kill $box $outside $server' EXIT
until [ "$(readlink /proc/$box/ns/net)" != "$(readlink /proc/$$/ns/net)" ] &&
    [ "$(readlink /proc/$outside/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
ip link add br0 type bridge
ip link add box0 type veth peer name eth0 netns $box
ip link add out0 type veth peer name eth0 netns $outside
ip link set box0 master br0
for link in lo br0 box0 out0; do ip link set $link up; done
for pid in $box $outside; do
    nsenter --net=/proc/$pid/ns/net -- sh -c 'ip link set lo up; ip link set eth0 up'
done
ip address add 198.18.0.1/24 dev br0
ip address add 203.0.113.1/24 dev out0
place $box -4 198.18.0.2/24 ''; route $box -4 198.18.0.1
place $outside -4 203.0.113.2/24 ''; route $outside -4 203.0.113.1
if ip -6 address add 2001:db8:18::1/64 dev br0 nodad 2>/dev/null; then
    ip -6 address add 2001:db8:113::1/64 dev out0 nodad
    place $box -6 2001:db8:18::2/64 nodad; route $box -6 2001:db8:18::1
    place $outside -6 2001:db8:113::2/64 nodad; route $outside -6 2001:db8:113::1
fi
nft -f -
nsenter --net=/proc/$outside/ns/net -- python3 -Ic "$SERVER" & server=$!
nsenter --net=/proc/$box/ns/net -- python3 -Ic "$CLIENT"
"""
SERVER = f"""
import socket, time
doors = [socket.create_server(("0.0.0.0", port)) for port in (25, {CONTROL_PORT})]
try:
    doors += [socket.create_server(("::", port), family=socket.AF_INET6) for port in (25, {CONTROL_PORT})]
except OSError:
    pass
time.sleep(20)
"""
CLIENT = f"""
import json, socket, time
def knock(address, port):
    try:
        socket.create_connection((address, port), 1).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return "connected"
results = {{}}
for version, address in (("4", "203.0.113.2"), ("6", "2001:db8:113::2")):
    for _ in range(20):
        if (control := knock(address, {CONTROL_PORT})) == "connected" or "family not supported" in control:
            break
        time.sleep(0.1)
    results[version] = {{"control": control, "smtp": knock(address, 25)}}
print(json.dumps(results))
"""


def try_forwarding() -> dict[str, Any]:
    """The attack against the loaded rules."""
    return attack_through(run_command(*LIST_TABLE))


def attack_through(rules: str) -> dict[str, Any]:
    """By IP version, the result of a connection from the container to port 25 elsewhere (`smtp`), and to another port
    (`control`): `connected`, or the error. `rules` are for nft."""
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", SCRIPT],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "SERVER": SERVER, "CLIENT": CLIENT},
        input=rules,
        capture_output=True,
        text=True,
        check=False,
        timeout=TRY_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"a container could not be imitated: {done.stderr.strip()[-300:]}")
    results: dict[str, Any] = json.loads(done.stdout)
    return results
