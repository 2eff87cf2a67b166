"""What Linux users, containers and crashes cannot do on the server: send past Postfix, stop it, wash its logs away."""

from collections.abc import Iterator

import pytest
from clients import IMAPS, is_accepted, log_in

from mailkeep.lab import Attacker, Internet, Lab, Server, poll
from mailkeep.lab.site import Site

INTRUDER = "nobody"
KILLS = 8  # systemd's start limit is five in ten seconds
SERVICES = ("opendkim", "dovecot", "unbound", "fail2ban", "postfix", "ssh", "mailkeep-guard", "mailkeep-logs")
# As docker makes it: a bridge, a container behind it, and the server's address for what it sends.
CONTAINER = """
set -eu
ip netns add box; ip link add br0 type bridge; ip addr add 172.30.0.1/24 dev br0; ip link set br0 up
ip link add veth0 type veth peer name eth0 netns box; ip link set veth0 master br0 up
ip netns exec box sh -c 'ip addr add 172.30.0.2/24 dev eth0; ip link set eth0 up; ip link set lo up
    ip route add default via 172.30.0.1'
nft -f - <<'RULES'
table ip dockerish {
    chain post {
        type nat hook postrouting priority srcnat;
        ip saddr 172.30.0.0/24 oif != "br0" masquerade
    }
    chain pre {
        type nat hook prerouting priority dstnat;
        iif != "br0" tcp dport 2525 dnat to 172.30.0.2:25
    }
}
RULES
systemd-run --quiet --unit=box-smtp ip netns exec box python3 -c '
import socket
door = socket.create_server(("0.0.0.0", 25))
while True:
    client, _ = door.accept()
    client.sendall(b"220 box ESMTP\\r\\n")
    client.close()'
"""
CONNECT = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).recv(99)[:3])"
# Until unrelated entries, of which journald takes 32 MB each, have pushed the others out.
FLOOD = """
import os, socket
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
journal.connect("/run/systemd/journal/socket")
for _ in range(4000):
    journal.send(b"MESSAGE=x\\nSYSLOG_IDENTIFIER=postfix/smtpd\\nX=" + os.urandom(90_000).hex().encode() + b"\\n")
"""


@pytest.fixture(scope="module")
def shared(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Site]:
    """A server that others share."""
    server = lab.boot_server("shared", hostname="mail.example.test", image=built_image)
    internet.resolve_for(server)
    site = built_site.copy_for(server)
    result = site.deploy()
    assert result.code == 0, result.output
    yield site
    server.remove()


def connect_from_box(server: Server, address: object, port: int, user: str = "root") -> str:
    """`ok`, or the error."""
    done = server.run(f"ip netns exec box runuser -u {user} -- python3 -c '{CONNECT}' {address} {port}", check=False)
    return "ok" if "220" in done.stdout else done.stderr.strip().splitlines()[-1]


def test_a_container_reaches_postfix_and_its_own_clients_but_no_other_mail_server(
    shared: Site, internet: Internet, attacker: Attacker
) -> None:
    server = shared.server
    server.run(CONTAINER)
    assert server.run("cat /proc/sys/net/ipv4/ip_forward").stdout == "1\n", "the lab's machines forward"

    assert "No route to host" in connect_from_box(server, internet.ip, 25)
    assert connect_from_box(server, server.ip, 25) == "ok"
    published = attacker.run_python(CONNECT, str(server.ip), "2525", check=False)
    assert "220" in published.stdout, published.stderr
    # A program of root's, as in a container with the server's own network, and a Linux user's, as in a rootless one.
    for user in ("root", INTRUDER):
        done = server.run(f"runuser -u {user} -- python3 -c '{CONNECT}' {internet.ip} 25", check=False)
        assert "No route to host" in done.stderr, user
    done = server.run(f"runuser -u postfix -- python3 -c '{CONNECT}' {internet.ip} 25")
    assert "220" in done.stdout

    server.run("nft add element inet mailkeep may_send4 { 172.30.0.0/24 }")
    assert connect_from_box(server, internet.ip, 25) == "ok"
    server.run("systemctl reload nftables")
    assert "No route to host" in connect_from_box(server, internet.ip, 25)
    server.run("nft flush chain inet mailkeep forward")
    assert connect_from_box(server, internet.ip, 25) == "ok"
    server.run("systemctl reload nftables")


def test_no_linux_user_washes_the_mail_services_lines_away(shared: Site) -> None:
    server = shared.server
    server.run("logger --tag marker start; sendmail -f root@mail.example.test nobody@localhost </dev/null || true")
    count = "journalctl --quiet --output=cat --unit=postfix --grep=nobody@localhost | wc -l"
    before = int(poll(lambda: int(server.run(count).stdout), 30, "no line of Postfix's"))
    kept = "zgrep -h nobody@localhost /var/log/mailkeep/postfix* | wc -l"
    poll(lambda: int(server.run(kept).stdout) >= before, 30, "not kept")

    server.write("/usr/local/lib/wash.py", FLOOD)
    server.run(f"runuser -u {INTRUDER} -- python3 /usr/local/lib/wash.py", timeout=120)
    poll(lambda: server.run(count).stdout == "0\n", 60, "the journal has more room than the test takes")

    assert int(server.run(kept).stdout) >= before
    assert server.run("grep -c ' x$' /var/log/mailkeep/postfix.log", check=False).stdout == "0\n"
    assert server.run(f"runuser -u {INTRUDER} -- ls /var/log/mailkeep", check=False).returncode != 0


@pytest.mark.parametrize("path", [f"/etc/postfix/{name}" for name in ("aliases", "mailboxes", "sender_login")])
def test_no_linux_user_lists_the_addresses(shared: Site, path: str) -> None:
    assert shared.server.run(f"runuser -u {INTRUDER} -- cat {path}", check=False).stdout == ""


def test_no_linux_user_asks_dovecot_for_accounts_or_takes_its_connections(shared: Site) -> None:
    attack = """
import socket
doors = []
try:
    for _ in range(2000):
        doors.append(socket.socket(socket.AF_UNIX))
        doors[-1].connect("/run/dovecot/auth-userdb")
except OSError as error:
    print(len(doors), error)
"""
    done = shared.server.run(f"runuser -u {INTRUDER} -- python3 -", stdin=attack)
    assert done.stdout == "1 [Errno 13] Permission denied\n"
    address, passphrase = next(iter(shared.passphrases.items()))
    assert is_accepted(log_in(str(shared.server.ip), IMAPS, address, passphrase))
    assert shared.server.run(f"doveadm user {address}").returncode == 0


def test_services_come_back_however_often_they_are_killed(shared: Site) -> None:
    """All at once, each as soon as it runs."""
    kill = f"""
    for service in {" ".join(SERVICES)}; do
        (
            killed=
            for number in $(seq {KILLS}); do
                pid=0
                until [ "$pid" != 0 ] && [ "$pid" != "$killed" ] && kill -KILL $pid; do
                    sleep 0.2
                    pid=$(systemctl show --property=MainPID --value $service)
                done
                killed=$pid
            done
        ) &
    done
    wait"""
    shared.server.run(kill, timeout=300)

    def list_down() -> list[str]:
        return shared.server.run(f"systemctl is-active {' '.join(SERVICES)}", check=False).stdout.split()

    poll(lambda: set(list_down()) == {"active"}, 90, "not all came back")
    restarts = shared.server.run(f"systemctl show --property=NRestarts --value {' '.join(SERVICES)}").stdout.split()
    assert all(int(number) >= KILLS for number in restarts), restarts
