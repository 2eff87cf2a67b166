"""Things on a machine that are not Mailkeep's: how each gets there, and what must be said of it.

Rules of other programs are written as these programs write them. Programs that only listen are imitated by one that
bears their name; a comment says so where more is imitated.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Thing:
    """`plan` are phrases that the preflight says of it. `verify` has phrases by check; a check with a question mark
    warns, the others fail. `watch` is a phrase of a trouble that the watch reports."""

    name: str
    script: str
    plan: tuple[str, ...] = ()
    verify: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    watch: str = ""


PRELUDE = r"""
set -eu
cat >/run/listen.py <<'PROGRAM'
import pathlib, socket, sys, time
mark, name, *places = sys.argv[1:]
pathlib.Path("/proc/self/comm").write_text(name)
doors = []
for door in places:
    protocol, _, local = door.partition("/")
    address, _, port = local.rpartition(":")
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    doors.append(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind))
    doors[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    doors[-1].bind((address, int(port)))
    if protocol == "tcp":
        doors[-1].listen()
pathlib.Path(mark).touch()
time.sleep(3600)
PROGRAM
listeners=0
# A program of this name listens at `tcp/ADDRESS:PORT` and `udp/ADDRESS:PORT`.
listen() {
    listeners=$((listeners + 1))
    systemd-run --quiet --unit="listener-$listeners" python3 /run/listen.py "/run/listens-$listeners" "$@"
}
# WireGuard's socket is the kernel's, without a process. So is that of VXLAN, which the lab's kernel has.
listen_in_kernel() { ip link add wg0 type vxlan id 1 dstport "$1" dev lo; ip link set wg0 up; }
"""
WAIT = """
until [ "$(ls /run | grep -c '^listens-')" = "$listeners" ]; do sleep 0.1; done
"""


def join_scripts(things: Iterable[Thing]) -> str:
    return "\n".join((PRELUDE, *(thing.script for thing in things), WAIT))


# --- firewalls --------------------------------------------------------------------------------------------------------

# docker.io 26, with one container whose port 80 is published as 8080; of docker 28 the rule in `raw`.
DOCKER = """
ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
iptables-restore --noflush <<'RULES'
*raw
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
RULES
listen docker-proxy tcp/0.0.0.0:8080"""
# Tailscale's chains and those of a kubelet, beside docker's; and an operator's bounds for each address.
TAILSCALE_AND_KUBELET = """
iptables-restore --noflush <<'RULES'
*filter
:ts-input - [0:0]
:KUBE-FIREWALL - [0:0]
-I INPUT 1 -j ts-input
-A INPUT -j KUBE-FIREWALL
-A ts-input -s 100.100.7.7/32 -i lo -j ACCEPT
-A ts-input -s 100.115.92.0/23 ! -i tailscale0 -j RETURN
-A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP
-A ts-input -i tailscale0 -j ACCEPT
-A ts-input -p udp -m udp --dport 41641 -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
RULES"""
CONNECTION_BOUNDS = """
nft -f - <<'RULES'
table inet bounds {
    set greedy { type ipv4_addr; flags dynamic, timeout; timeout 5m; }
    set connections { type ipv4_addr; flags dynamic; }
    chain input {
        type filter hook input priority -3; policy accept;
        tcp dport 22 ct state new add @greedy { ip saddr limit rate over 300/minute burst 300 packets } drop
        tcp dport { 25, 465, 587 } ct state new add @connections { ip saddr ct count over 500 } reject
        ip saddr @greedy drop
    }
}
RULES"""
# As podman's netavark 1.14 and libvirt 11 make them, with one network each.
PODMAN_AND_LIBVIRT = """
ip link add podman0 type bridge; ip link add virbr0 type bridge
nft -f - <<'RULES'
table inet netavark {
    chain INPUT {
        type filter hook input priority filter; policy accept;
        ip saddr 10.88.0.0/16 meta l4proto { tcp, udp } th dport 53 accept
    }
    chain FORWARD {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop
        jump NETAVARK-ISOLATION-1
        ip daddr 10.88.0.0/16 ct state { established, related } accept
        ip saddr 10.88.0.0/16 accept
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        meta mark & 0x00002000 == 0x00002000 masquerade
        ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade
    }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump NETAVARK-HOSTPORT-DNAT
    }
    chain NETAVARK-HOSTPORT-DNAT {
        tcp dport 9000 dnat ip to 10.88.0.2:9000
    }
    chain NETAVARK-ISOLATION-1 {
        iifname "podman0" oifname != "podman0" jump NETAVARK-ISOLATION-2
    }
    chain NETAVARK-ISOLATION-2 {
        oifname "podman0" drop
    }
}
table ip libvirt_network {
    chain forward {
        type filter hook forward priority filter; policy accept;
        jump guest_input
    }
    chain guest_input {
        oif "virbr0" ip daddr 192.168.122.0/24 ct state established,related accept
        oif "virbr0" reject
    }
    chain guest_nat {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 masquerade
    }
}
RULES"""
BLOCKLISTS = """
nft -f - <<'RULES'
table ip crowdsec {
    set crowdsec-blacklists { type ipv4_addr; flags timeout; elements = { 203.0.113.66 timeout 4h } }
    chain crowdsec-chain {
        type filter hook input priority filter - 10; policy accept;
        ip saddr @crowdsec-blacklists drop
    }
}
table netdev bogons {
    set bogons { type ipv4_addr; flags interval; elements = { 0.0.0.0/8, 10.0.0.0/8, 192.168.0.0/16 } }
    chain ingress {
        type filter hook ingress device "eth0" priority -500; policy accept;
        ip saddr @bogons drop
        tcp flags & (fin | syn) == fin | syn drop
    }
}
RULES"""
# As Debian's firewalld makes it for its zone `public`, without empty chains. The package takes 20 seconds to install.
FIREWALLD = """
nft -f - <<'RULES'
table inet firewalld {
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept;
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        ct state { established, related } accept
        ct status dnat accept
        iifname "lo" accept
        ct state invalid drop
        jump filter_INPUT_POLICIES
        reject with icmpx admin-prohibited
    }
    chain filter_INPUT_POLICIES {
        jump filter_IN_policy_allow-host-ipv6
        jump filter_IN_public
        reject with icmpx admin-prohibited
    }
    chain filter_IN_policy_allow-host-ipv6 {
        icmpv6 type { nd-neighbor-advert, nd-neighbor-solicit, nd-router-advert, nd-redirect } accept
    }
    chain filter_IN_public {
        jump filter_IN_public_allow
        meta l4proto { icmp, ipv6-icmp } accept
    }
    chain filter_IN_public_allow {
        tcp dport 22 accept
        ip6 daddr fe80::/64 udp dport 546 accept
    }
}
RULES"""
# As csf 14 begins its chains with TCP_IN = "22,25,80,443": the mail ports above 25 are closed.
CSF = """
iptables-restore --noflush <<'RULES'
*filter
:LOCALINPUT - [0:0]
:LOGDROPIN - [0:0]
:DENYIN - [0:0]
-A INPUT ! -i lo -j LOCALINPUT
-A INPUT -i lo -j ACCEPT
-A INPUT ! -i lo -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT ! -i lo -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT
-A INPUT ! -i lo -p tcp -m conntrack --ctstate NEW -m tcp --dport 25 -j ACCEPT
-A INPUT ! -i lo -j LOGDROPIN
-A LOCALINPUT ! -i lo -j DENYIN
-A DENYIN -s 203.0.113.99/32 ! -i lo -j DROP
-A LOGDROPIN -p tcp -m tcp --dport 23 -j DROP
-A LOGDROPIN -j DROP
COMMIT
RULES"""
# A container's port 143, as docker forwards it without its proxy.
FORWARDED_PORT = """
nft -f - <<'RULES'
table ip forwarding {
    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local tcp dport 143 dnat to 172.17.0.9:143
    }
}
RULES"""

# --- jails and agents -------------------------------------------------------------------------------------------------

JAIL = """
mkdir -p -m 750 /var/log/shop; chown www-data:adm /var/log/shop
install -o www-data -g adm -m 640 /dev/null /var/log/shop/error.log
printf '[shop]\\nenabled = true\\nbackend = polling\\nfilter = nginx-http-auth\\nport = http,https\\n%s\\n' \\
    'logpath = /var/log/shop/error.log' >/etc/fail2ban/jail.d/shop.conf
systemctl restart fail2ban"""
DEAD_JAIL = JAIL.replace("port = http,https", "port = imap3")
AGENT = """
useradd --system --no-create-home agent
printf '[Service]\\nUser=agent\\nExecStart=/usr/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' \\
    >/etc/systemd/system/agent.service
systemctl enable --quiet --now agent
mkdir -p /etc/cron.d; echo '*/5 * * * * agent /usr/bin/true' >/etc/cron.d/agent
echo 'agent ALL=(root) NOPASSWD: /usr/bin/mailq' >/etc/sudoers.d/agent; chmod 440 /etc/sudoers.d/agent"""

# --- before the first deploy ------------------------------------------------------------------------------------------

PACKAGES = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq install -y nftables ufw 2>&1"
# Packages without a program, for dpkg: exim itself would take port 25, which another thing has here.
INSTALL_EMPTY = """
install_empty() {
    mkdir -p "/run/$1/DEBIAN"
    printf '%s\\n' "Package: $1" 'Version: 4.98' 'Architecture: all' "Provides: $2" \\
        'Maintainer: root <root@localhost>' 'Description: no program' >"/run/$1/DEBIAN/control"
    dpkg-deb --build "/run/$1" "/run/$1.deb" >/dev/null && dpkg --install "/run/$1.deb" >/dev/null
}"""
# iptables-persistent cannot be installed beside ufw. These are rules that it would load, in a table that ufw has not.
IPTABLES_PERSISTENT = """
mkdir -p /etc/iptables
printf '%s\\n' '*raw' '-A PREROUTING -i eth0 -p tcp -m multiport --dports 465,993 -j DROP' COMMIT \\
    >/etc/iptables/rules.v4
iptables-restore --noflush </etc/iptables/rules.v4"""
OWN_RULES = """
nft -f - <<'RULES'
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iif lo accept
        ct state established,related accept
        tcp dport { 22, 25, 80, 443 } accept
    }
}
RULES"""
RESOLVED = """
mkdir -p /run/systemd/resolve; printf 'nameserver 127.0.0.53\\noptions edns0 trust-ad\\n' \\
    >/run/systemd/resolve/stub-resolv.conf
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf"""
CLOUD_INIT_HOSTS = """
printf '%s\\n' '# Your system has configured "manage_etc_hosts" as True.' '127.0.1.1 mail.example.test mail' \\
    '127.0.0.1 localhost' '::1 localhost ip6-localhost ip6-loopback' >/etc/hosts"""
NOEXEC_TMP = "mount -o remount,noexec /tmp"
SMALL_VAR = """
mkdir /run/var; mount -t tmpfs -o size=600M tmpfs /run/var; cp -ax /var/. /run/var; mount --bind /run/var /var"""
# As with ipv6.disable=1: every service sees that there is no address family of IPv6.
NO_IPV6 = """
mkdir -p /etc/systemd/system/service.d
printf '[Service]\\nRestrictAddressFamilies=~AF_INET6\\n' >/etc/systemd/system/service.d/no6.conf
sed -i '/:/d' /etc/hosts; systemctl daemon-reload; systemctl restart ssh"""

BEFORE = (
    Thing("packages", PACKAGES),
    Thing("a web server", "listen nginx tcp/0.0.0.0:80 tcp/:::443", ("nginx (tcp 0.0.0.0:80)", "nginx (tcp *:443)")),
    Thing(
        "a Dovecot with POP3",
        "listen dovecot tcp/0.0.0.0:995",
        ("dovecot (tcp 0.0.0.0:995)", "Mailkeep's Dovecot serves IMAP and ManageSieve only"),
    ),
    Thing("WireGuard", "listen_in_kernel 51820", ("the kernel, such as WireGuard (udp 0.0.0.0:51820)",)),
    Thing("avahi", "listen avahi-daemon udp/0.0.0.0:5353", ("avahi-daemon (udp 0.0.0.0:5353)",)),
    Thing("node_exporter", "listen node_exporter tcp/0.0.0.0:9100", ("node_exporter (tcp 0.0.0.0:9100)",)),
    Thing("a database on loopback", "listen mysqld tcp/127.0.0.1:3306"),
    Thing("a DHCP client", "listen dhclient udp/0.0.0.0:68"),
    Thing("empty packages", INSTALL_EMPTY),
    Thing(
        "chrony",
        "install_empty chrony time-daemon; listen chronyd udp/127.0.0.1:323",
        ("chrony sets the clock. The deploy installs systemd-timesyncd, and APT removes chrony",),
    ),
    Thing(
        "exim",
        "install_empty exim4-daemon-light mail-transport-agent",
        ("exim4-daemon-light, another mail server, is installed",),
    ),
    Thing("a container at port 25", "listen docker-proxy tcp/0.0.0.0:25", ("Port 25 is taken by docker-proxy",)),
    Thing("dnsmasq", "listen dnsmasq udp/127.0.0.1:53", ("Port 53 is taken by dnsmasq (udp 127.0.0.1:53)",)),
    Thing(
        "ufw",
        "ufw allow 22/tcp; ufw --force enable",
        ("the chain INPUT in the table ip filter of ufw", "the chain INPUT in the table ip6 filter of ufw"),
    ),
    Thing("firewalld", FIREWALLD, ("the chain filter_INPUT in the table inet firewalld of firewalld",)),
    Thing(
        "iptables-persistent",
        IPTABLES_PERSISTENT,
        ("the chain PREROUTING in the table ip raw, packets to TCP 465, 993.",),
    ),
    Thing(
        "own rules of nft",
        OWN_RULES,
        ("the chain input in the table inet filter, packets to TCP 143, 465, 587, 993, 4190.",),
    ),
    Thing(
        "docker with a published port",
        DOCKER,
        ("docker-proxy (tcp 0.0.0.0:8080)", "these no longer connect to port 25 of other mail servers"),
    ),
    Thing(
        "own values for our jails",
        """
        mkdir -p /etc/fail2ban/jail.d; printf '[sshd]\\nmaxretry = 3\\n' >/etc/fail2ban/jail.local
        printf '[dovecot]\\nmaxretry = 100\\n' >/etc/fail2ban/jail.d/zz.local""",
        (
            "/etc/fail2ban/jail.local sets maxretry of the jail sshd: Mailkeep's own settings",
            "/etc/fail2ban/jail.d/zz.local sets maxretry of the jail dovecot: it overrides Mailkeep's jail",
        ),
    ),
    Thing(
        "systemd-resolved", f"{RESOLVED}\nlisten systemd-resolve udp/127.0.0.53:53 tcp/127.0.0.53:53 udp/0.0.0.0:5355"
    ),
    Thing("cloud-init's hosts, with 127.0.1.1", CLOUD_INIT_HOSTS),
    Thing("a /tmp without programs", NOEXEC_TMP),
    Thing("a small /var", SMALL_VAR, ("MiB are free on /var; 2048 MiB are needed",)),
    Thing("no IPv6 in the kernel", f"{WAIT}\n{NO_IPV6}", ("Its kernel has no IPv6, but mail.yml declares 2001:db8:",)),
)

# --- on a built server ------------------------------------------------------------------------------------------------

HARMLESS = (
    Thing("docker with a published port that is declared", DOCKER),
    Thing("Tailscale's rules and a kubelet's", TAILSCALE_AND_KUBELET),
    Thing("bounds for each address", CONNECTION_BOUNDS),
    Thing("podman and libvirt", PODMAN_AND_LIBVIRT),
    Thing("crowdsec, and a filter of bogons", BLOCKLISTS),
    Thing("a web server that is declared", "listen nginx tcp/0.0.0.0:80 tcp/:::443"),
    Thing("node_exporter on loopback", "listen node_exporter tcp/127.0.0.1:9100"),
    Thing("WireGuard", "listen_in_kernel 51820"),
    Thing("a DHCP client", "listen dhclient udp/0.0.0.0:68"),
    Thing("chrony", "listen chronyd udp/127.0.0.1:323"),
    Thing(
        "further addresses, one as SLAAC gives it",
        """
        ip addr add 203.0.113.7/32 dev eth0
        prefix=$(ip -6 -o addr show dev eth0 scope global | sed -E 's/.* inet6 (([0-9a-f]*:){4}).*/\\1/')
        ip -6 addr add "${prefix}a:b:c:d/64" dev eth0 nodad""",
    ),
    Thing("cloud-init's hosts, with 127.0.1.1", CLOUD_INIT_HOSTS),
    Thing("a /tmp without programs", NOEXEC_TMP),
    Thing(
        "a jail for a web shop",
        JAIL,
        verify={"nothing_was_added_to_the_services?": ("setting:/etc/fail2ban/jail.d/shop.conf@",)},
    ),
    Thing(
        "a monitoring agent with its own user, unit, job and line for sudo",
        AGENT,
        verify={"nobody_new_can_become_root?": ("job:/etc/cron.d/agent@", "sudo:/etc/sudoers.d/agent@")},
    ),
)

TROUBLESOME = (
    Thing(
        "firewalld",
        FIREWALLD,
        verify={
            "no_other_firewall_closes_our_ports": (
                "the table inet firewalld of firewalld drops packets to port 25, 80",
            ),
            "strangers_reach_every_service": tuple(f"port {port}: " for port in (25, 143, 465, 587, 993, 4190)),
        },
        watch="lets in: the chain filter_INPUT in the table inet firewalld of firewalld",
    ),
    Thing(
        "csf",
        CSF,
        verify={"no_other_firewall_closes_our_ports": ("the table ip filter of csf drops packets to port 80, 143",)},
        watch="lets in: the chain INPUT in the table ip filter of csf",
    ),
    Thing(
        "a port that a container took",
        FORWARDED_PORT,
        verify={"no_other_firewall_closes_our_ports": ("in the table ip forwarding drops packets to port 143",)},
        watch="lets in: the chain prerouting in the table ip forwarding",
    ),
    Thing(
        "a jail with a port that does not exist",
        DEAD_JAIL,
        verify={
            "jails_of_the_operator_ban_too?": ("no service is called imap3",),
            "nothing_was_added_to_the_services?": ("setting:/etc/fail2ban/jail.d/shop.conf@",),
        },
        watch="The jail shop, which is not Mailkeep's, does not ban: no service is called imap3",
    ),
    Thing(
        "node_exporter and avahi, for everybody",
        "listen node_exporter tcp/0.0.0.0:9100; listen avahi-daemon udp/0.0.0.0:5353",
        verify={"nothing_else_listens": ("TCP port 9100 (node_exporter)", "UDP port 5353 (avahi-daemon)")},
    ),
    # Its unit alone, where a package has it: the package would replace /etc/resolv.conf, as the next thing does.
    Thing(
        "systemd-resolved",
        """
        printf '[Service]\\nExecStart=/usr/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' \\
            >/usr/lib/systemd/system/systemd-resolved.service
        systemctl daemon-reload; systemctl enable --quiet --now systemd-resolved""",
        verify={"services_run_and_start_at_boot": ("systemd-resolved.service: active, enabled",)},
    ),
    Thing(
        "cloud-init's resolv.conf",
        "printf 'search hoster.example\\nnameserver OUTSIDE\\n' >/etc/resolv.conf",
        verify={
            "the_resolver_validates_and_is_private": (
                "resolver in use: OUTSIDE",
                "OUTSIDE does not validate",
                "no `options trust-ad`",
            )
        },
        watch="/etc/resolv.conf names OUTSIDE, not this machine's own resolver",
    ),
    Thing(
        "an address that was taken away",
        "ip -6 addr del ADDRESS6/64 dev eth0",
        verify={
            "the_server_has_the_declared_addresses": (
                "ADDRESS6: this machine does not have it; mail leaves from nowhere",
            )
        },
        watch="does not have the address ADDRESS6",
    ),
    Thing(
        "a mailbox restored with another owner",
        """
        install -d -o vmail -g vmail -m 700 /var/vmail/example-two.test
        install -d -o 6000 -g 6000 -m 700 /var/vmail/example-two.test/ben""",
        verify={"every_mailbox_can_be_written": ("belongs to user 6000, not to vmail",)},
        watch="/var/vmail/example-two.test/ben belongs to user 6000",
    ),
    Thing(
        "keys restored with another owner",
        "chown 5000:5000 /etc/opendkim/keys/*.pem; systemctl restart opendkim",
        verify={
            "mail_is_signed": ("OpenDKIM refuses it for now after the headers: it cannot use its keys or tables",),
            "only_root_changes_the_configuration": ("/etc/opendkim/keys/",),
        },
        watch="is not signed, and cannot be sent",
    ),
)
