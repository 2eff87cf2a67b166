"""Invalid settings are refused with all problems at once: file, line, setting, the actual value and a valid one."""

import pytest
from settings_samples import BY_ACME, COMPLETE, COMPLETE_WITH_FILES, Inventory

from mailkeep.settings.yaml_reader import MAX_SHOWN_PROBLEMS

# Fields: old text, new text, setting, actual value, expected value

AWAY = "away@example.org: someone@elsewhere.example"
BERT = "address: bert@example.net "
CATCH_ALL = "  example.net: bert@example.net"
SEND_AS = "[info@example.org, team@example.net]"
FORWARD = "[anna@elsewhere.example]"
CONFIRM_AT = "at: anna@elsewhere.example"
ONLY, EXCEPT = "[board@example.org]", "[old@example.net]"

REFUSED = [
    (
        "recipients_per_hour: 3100,",
        "recipients_per_hour: 1499,",
        "guard.leaving.recipients_per_hour",
        "1499",
        "at least 1500",
    ),
    (
        "recipients_per_day: 17000",
        "recipients_per_day: 7999",
        "guard.leaving.recipients_per_day",
        "7999",
        "at least 8000",
    ),
    (
        "connections_per_hour: 9000",
        "connections_per_hour: 99",
        "guard.leaving.connections_per_hour",
        "99",
        "at least 1500",
    ),
    ("messages_per_hour: 900", "messages_per_hour: 0", "guard.receiving.messages_per_hour", "0", "from 1 to"),
    ("share: 9,", "share: 101,", "guard.holds.share", "101", "from 1 to 100"),
    ("complaint_share: 5,", "complaint_share: 1001,", "guard.holds.complaint_share", "1001", "from 1 to 1000"),
    ("[198.51.100.70]", "[elsewhere]", "guard.receiving.exempt[0]", "elsewhere", "network"),
    ("messages_per_hour: 3,", "messages_per_hour: 0,", "guard.lists.messages_per_hour", "0", "from 1 to"),
    (
        "recipients_per_hour: 70,",
        "recipients_per_hour: many,",
        "guard.forwards.recipients_per_hour",
        "many",
        "from 1 to",
    ),
    ("resolver: system", "resolvr: system", "resolvr", "resolvr", "resolver"),
    ("quota: 2G", "quotta: 2G", "accounts[0].quotta", "quotta", "quota"),
    ("  port: 2222", "  prot: 2222", "ssh.prot", "prot", "port"),
    ("resolver: system", "zzz: system", "zzz", "zzz", "one of host, domains"),
    ("quota: 2G", "quota: 2 gigs", "accounts[0].quota", '"2 gigs"', "500M or 2G"),
    ("quota: 2G", "quota: -1", "accounts[0].quota", '"-1"', "500M or 2G"),
    ("quota: 2G", "quota: 2", "accounts[0].quota", '"2"', "from 1M to 16T"),
    ("quota: 2G", "quota: 1.5G", "accounts[0].quota", '"1.5G"', "500M or 2G"),
    ("quota: 2G", "quota: [2G]", "accounts[0].quota", "a list", "500M or 2G"),
    ("name: mail.example.org", "name: mail", "host.name", '"mail"', "fully qualified"),
    ("name: mail.example.org", "name: 203.0.113.25", "host.name", '"203.0.113.25"', "fully qualified"),
    ("name: mail.example.org", "name: Mail.example.org", "host.name", '"Mail.example.org"', "mail.example.org"),
    ("name: mail.example.org", "name: mail.example.org.", "host.name", '"mail.example.org."', "final dot"),
    ("name: mail.example.org", "name: mail.localdomain", "host.name", '"mail.localdomain"', "public DNS"),
    ("name: mail.example.org", "name: mail_1.example.org", "host.name", '"mail_1.example.org"', "fully qualified"),
    ("name: mail.example.org", f"name: {'a' * 60}.example", "host.name", "aaaaa", "64 characters"),
    ("- example.net\n", "- -bad.example\n", "domains[1]", '"-bad.example"', "fully qualified"),
    ("- example.net\n", f"- {'a.' * 130}example\n", "domains[1]", "a.a.a.", "fully qualified"),
    ("- example.net\n", "- müller.example\n", "domains[1]", '"müller.example"', "xn--mller-kva.example"),
    ("- example.net\n", "- straße.example\n", "domains[1]", '"straße.example"', "xn--…"),
    ("- example.net\n", "- xn--\u2212.example\n", "domains[1]", "xn--", "ASCII form"),
    ("- example.net\n", "- xn--9999999999.example\n", "domains[1]", "xn--", "internationalised label"),
    ("203.0.113.25", "127.0.0.1", "host.addresses[0]", '"127.0.0.1"', "is loopback"),
    ("203.0.113.25", "10.1.2.3", "host.addresses[0]", '"10.1.2.3"', "is private"),
    ("203.0.113.25", "0.0.0.1", "host.addresses[0]", '"0.0.0.1"', "is unspecified"),
    ("203.0.113.25", "169.254.1.1", "host.addresses[0]", '"169.254.1.1"', "link-local"),
    ("203.0.113.25", "224.0.0.1", "host.addresses[0]", '"224.0.0.1"', "multicast"),
    ("203.0.113.25", "203.0.113.256", "host.addresses[0]", "256", "an IPv4 or IPv6 address"),
    ("2001:db8::25", "::1", "host.addresses[1]", '"::1"', "loopback"),
    ("2001:db8::25", "fe80::1", "host.addresses[1]", '"fe80::1"', "link-local"),
    ("2001:db8::25", "2001:db8::1%eth0", "host.addresses[1]", "%eth0", "an IPv4 or IPv6 address"),
    ("2001:db8::25", "::ffff:203.0.113.25", "host.addresses[1]", "::ffff", "reserved"),
    ("[203.0.113.20,", "[10.1.2.3,", "host.forwarded_from[0]", '"10.1.2.3"', "is private"),
    ("[203.0.113.20,", "[203.0.113.25,", "host.forwarded_from[0]", "which is in host.addresses too", "another machine"),
    ('"2001:db8::20"', "203.0.113.20", "host.forwarded_from[1]", "first in host.forwarded_from[0]", "each once"),
    ("8443, 51820/udp", "10025, 51820/udp", "firewall.open[2]", "10025", "from nobody else"),
    (
        "[198.51.100.128/25]",
        "[203.0.113.16/29]",
        "firewall.block[0]",
        "203.0.113.16/29",
        "previous address 203.0.113.20",
    ),
    ("port: 2222\n", "port: 10993\n", "ssh.port", "10993", "imaps that is forwarded"),
    ("2001:db8::25", "203.0.113.25", "host.addresses[1]", "first in host.addresses[0]", "each once"),
    (BERT, "address: anna@example.org ", "accounts[1].address", "accounts[0].address", "each once"),
    (BERT, "address: Bert@example.net ", "accounts[1].address", "Bert@", "lower case: bert@"),
    (BERT, "address: bert+x@example.net ", "accounts[1].address", "bert+x@", "reaches bert@example.net"),
    (BERT, "address: börti@example.net ", "accounts[1].address", "börti", "SMTPUTF8"),
    (BERT, "address: bert ", "accounts[1].address", '"bert"', "anna@example.org"),
    (BERT, "address: ../bert@example.net ", "accounts[1].address", "../bert", "an address"),
    (BERT, "address: b!t@example.net ", "accounts[1].address", "b!t", "letters, digits"),
    (BERT, "address: a..b@example.net ", "accounts[1].address", "a..b", "an address"),
    (BERT, f"address: {'b' * 65}@example.net ", "accounts[1].address", "bbb", "an address"),
    (SEND_AS, "[x@example.com]", "accounts[0].send_as[0]", "x@example.com", "example.org"),
    (SEND_AS, "[bert@example.net]", "accounts[0].send_as[0]", "bert@", "another account"),
    (SEND_AS, "[x@mail.example.org]", "accounts[0].send_as[0]", "x@mail.", "example.org"),
    (SEND_AS, "info@example.org", "accounts[0].send_as", "text", "a list"),
    (AWAY, "'*@example.org': x@b.example", "aliases[*@example.org]", "*@example.org", "catch_all: {example.org"),
    (AWAY, "a*b*@example.org: x@b.example", "aliases[a*b*@example.org]", "a*b*@", "one `*` at most"),
    (AWAY, "a+*@example.org: x@b.example", "aliases[a+*@example.org]", "a+*@", "without +"),
    (AWAY, "shop-*@example.com: x@b.example", "aliases[shop-*@example.com]", "not in `domains`", "example.org"),
    (AWAY, "shop-*@example.org: shop-1@example.org", "aliases[shop-*@example.org]", "a loop: shop-*@", "end at"),
    (ONLY, "[nobody@example.org]", "members_only[0]", "nobody@", "an exact alias"),
    (ONLY, "[info@example.org]", "members_only[0]", "to which aliases.team@example.net leads", "no other setting"),
    (ONLY, "[board@example.org, board@example.org]", "members_only[1]", "again", "each once"),
    (EXCEPT, "[old@example.org]", "catch_all_except[0]", "old@example.org", "in a domain of `catch_all`"),
    (EXCEPT, "[bert@example.net]", "catch_all_except[0]", "can match as bert@example.net", "without an account"),
    (EXCEPT, "['t*m@example.net']", "catch_all_except[0]", "can match as team@example.net", "without an account"),
    (FORWARD, "[nobody@example.org]", "accounts[0].forward[0]", "nobody@", "no catch_all"),
    (FORWARD, "[root@mail.example.org]", "accounts[0].forward[0]", "root@", "admin.addresses"),
    (FORWARD, "[a@b.example, a@b.example]", "accounts[0].forward[1]", "again", "each once"),
    (FORWARD, "[anna+x@example.org]", "accounts[0].forward[0]", "anna@example.org → anna@example.org", "comes back"),
    (FORWARD, "[info@example.org]", "accounts[0].forward[0]", "a loop: anna@example.org → anna@", "comes back"),
    (FORWARD, f"[{', '.join(f'a{n}@b.example' for n in range(6))}]", "accounts[0].forward", "a list", "at most 5"),
    (FORWARD, "a@b.example", "accounts[0].forward", "text", "a list"),
    (
        CONFIRM_AT,
        "at: bert@example.net",
        "accounts[0].confirm_at",
        "bert@example.net",
        "a thief of the password may read",
    ),
    (CONFIRM_AT, "at: root@mail.example.org", "accounts[0].confirm_at", "root@mail.", "an address elsewhere"),
    (CONFIRM_AT, "at: [a@b.example]", "accounts[0].confirm_at", "a list", "an address"),
    ("name: Anna Example", "name: 'Anna:x'", "accounts[0].name", "Anna:x", "without a colon"),
    ("name: Anna Example", 'name: "Anna\\nx"', "accounts[0].name", r"Anna\nx", "printable"),
    ("name: Anna Example", 'name: "\\e[31mAnna"', "accounts[0].name", r"\u001b[31mAnna", "printable"),
    (AWAY, "anna@example.org: someone@elsewhere.example", "aliases[anna@example.org]", "an account too", "either"),
    (AWAY, "away@example.com: x@elsewhere.example", "aliases[away@example.com]", "not in `domains`", "example.org"),
    (AWAY, "away@example.org: nobody@example.org", "aliases[away@example.org][0]", "nobody@", "no catch_all"),
    (AWAY, "away@example.org: root@mail.example.org", "aliases[away@example.org][0]", "root@", "admin.addresses"),
    (AWAY, "away@example.org: [a@b.example, a@b.example]", "aliases[away@example.org][1]", "again", "each once"),
    (
        AWAY,
        "away@example.org: away@example.org",
        "aliases[away@example.org]",
        "a loop: away@example.org → away@example.org",
        "end at",
    ),
    (AWAY, "'@example.org': x@elsewhere.example", "aliases[@example.org]", "@example.org", "catch_all"),
    (AWAY, "away@example.org: {a: b}", "aliases[away@example.org]", "a mapping", "a list"),
    (AWAY, "away@example.org: []", "aliases[away@example.org]", "an empty list", "at least one"),
    (AWAY, "away@example.org:", "aliases[away@example.org]", "nothing", "a list"),
    (CATCH_ALL, "  example.com: bert@example.net", "catch_all[example.com]", "not in `domains`", "example.net"),
    (CATCH_ALL, "  example.net: ghost@example.net", "catch_all[example.net]", "ghost@", "an account"),
    (CATCH_ALL, "  example.net: x@mail.example.org", "catch_all[example.net]", "x@mail", "admin.addresses"),
    ("addresses: [you@example.com]", "addresses: []", "admin.addresses", "an empty list", "at least one"),
    ("addresses: [you@example.com]", "addresses: [ghost@example.org]", "admin.addresses[0]", "ghost@", "no catch_all"),
    (
        "addresses: [you@example.com]",
        "addresses: [root@mail.example.org]",
        "admin.addresses[0]",
        "root@",
        "admin.addresses",
    ),
    ("addresses: [you@example.com]", "addresses: you@example.com", "admin.addresses", "text", "a list"),
    ("192.0.2.0/24", "192.0.2.5/24", "admin.networks[0]", '"192.0.2.5/24"', "did you mean 192.0.2.0/24?"),
    ("2001:db8:1::/48", "2001:db8:1::1/48", "admin.networks[1]", "2001:db8:1::1/48", "did you mean 2001:db8:1::/48?"),
    ("192.0.2.0/24", "192.0.2.0/33", "admin.networks[0]", '"192.0.2.0/33"', "203.0.113.0/24"),
    ("192.0.2.0/24", "0.0.0.0/0", "admin.networks[0]", '"0.0.0.0/0"', "/8 or smaller"),
    ("192.0.2.0/24", "198.51.100.7/32", "admin.networks[2]", "again", "each once"),
    ("dmarc: quarantine", "dmarc: strict", "dns.dmarc", "strict", "'none', 'quarantine' or 'reject'"),
    (
        "include:_spf.example.com",
        "exists:ours.example.com",
        "dns.spf[0]",
        "exists:",
        "such as include:_spf.example.net",
    ),
    ('"ip6:2001:db8:2::/48"', '"ip4:2001:db8:2::/48"', "dns.spf[1]", "ip4:2001", "ip6:2001:db8:2::/48"),
    *(
        ('"ip6:2001:db8:2::/48"', f"ip4:198.51.100.0/{length}", "dns.spf[1]", length, f"ip4:198.51.100.0/{meant}")
        for length, meant in (("255.255.255.0", "24: SPF"), ("0.0.0.255", "24: SPF"), ("032", "32: SPF"))
    ),
    ("never_send: [www.example.org]", "never_send: [example.org]", "dns.never_send[0]", "example.org", "this one does"),
    ("autoconfig: yes", "autoconfig: maybe", "web.autoconfig", '"maybe"', "true or false"),
    ("port: 2222", "port: 443", "ssh.port", "443", "the web server listens there"),
    ("reports@elsewhere.example", "nobody@example.org", "dns.reports", "nobody@example.org", "an account, an alias"),
    ("[198.51.100.128/25]", "[198.51.100.0/24]", "firewall.block[0]", "198.51.100.0/24", "admin.networks"),
    ("[198.51.100.128/25]", "[203.0.113.0/24]", "firewall.block[0]", "203.0.113.0/24", "own address"),
    (", https, 8443, ", ", imap3, ", "firewall.open[1]", '"imap3"', "imaps"),
    (", https, 8443, ", ", https, 65536, ", "firewall.open[2]", '"65536"', "65535"),
    (", https, 8443, ", ", 'imaps ', ", "firewall.open[1]", '"imaps "', "imaps"),
    ("51820/udp", "51820/sctp", "firewall.open[3]", '"51820/sctp"', "51820/udp"),
    ("51820/udp", "/udp", "firewall.open[3]", '"/udp"', "65535"),
    ("port: 9100", "port: 0", "firewall.open[0].port", '"0"', "65535"),
    ("protocol: tcp", "protocol: icmp", "firewall.open[0].protocol", '"icmp"', "'tcp' or 'udp'"),
    ("[198.51.100.7]", "[anybody]", "firewall.open[0].networks[0]", '"anybody"', "a network such as"),
    ("port: 9100", "port: https", "firewall.open[0].networks", "443/tcp", "another port"),
    ("port: 9100", "port: imaps", "firewall.open[0].networks", "a mail port", "another port"),
    ("port: 9100", "port: 2222", "firewall.open[0].networks", "SSH's", "another port"),
    ("[172.30.0.0/24]", "[172.30.0.1/24]", "firewall.may_send[0]", "172.30.0.1/24", "172.30.0.0/24"),
    ("[172.30.0.0/24]", "[0.0.0.0/0]", "firewall.may_send[0]", "0.0.0.0/0", "/8 or smaller"),
    ("[198.51.100.60,", "[198.51.100.60/24,", "forwarders[0]", "198.51.100.60/24", "did you mean 198.51.100.0/24?"),
    ("[192.0.2.77, ", "[192.0.2.77/24, ", "inbound.trusted[0]", "192.0.2.77/24", "did you mean 192.0.2.0/24?"),
    (
        "[192.0.2.77, ",
        "[everybody, ",
        "inbound.trusted[0]",
        "everybody",
        "an address, a network, a name or an SPF term",
    ),
    ("[192.0.2.77, ", "['include:', ", "inbound.trusted[0]", "include:", "an SPF term"),
    ("[192.0.2.77, ", "['a:scanner.example.org', ", "inbound.trusted[1]", "again", "each once"),
    ("[lists.example.net]", "[lists]", "inbound.trusted_sealers[0]", "lists", "a fully qualified domain name"),
    ("[lists.example.net]", "[a.example.net, a.example.net]", "inbound.trusted_sealers[1]", "again", "each once"),
    ("[programs, ", "[.exe, ", "inbound.refused_attachments[0]", ".exe", "without its dot"),
    ("[programs, ", "[ace, ", "inbound.refused_attachments[2]", "again", "each once"),
    ("[198.51.100.60,", "[2001:db8:60::/48,", "forwarders[1]", "again", "each once"),
    ("path: /srv/backup/mail", "path: srv/mail", "backup.targets[0].path", "srv/mail", "an absolute path"),
    ("path: /srv/backup/mail", "path: /srv/../mail", "backup.targets[0].path", "/srv/../mail", "an absolute path"),
    ("path: /mnt/disk/mail", "path: '/mnt/a b'", "backup.targets[1].path", "/mnt/a b", "an absolute path"),
    ("name: offsite", "name: Off site", "backup.targets[0].name", "Off site", "lower-case letters"),
    ("name: disk,", "name: offsite,", "backup.targets[1].name", "offsite", "each once"),
    ("host: backup.example.net", "host: mail.example.org", "backup.targets[0].host", "mail.example.org", "another"),
    ("host_key: ssh-ed25519 ", "host_key: ", "backup.targets[0].host_key", "AAAA", "type and key"),
    ("name: disk,", "name: disk, host: other.example.net,", "backup.targets[1].host_key", "none", "ssh-keyscan"),
    ("every_hours: 12", "every_hours: 25", "backup.every_hours", '"25"', "from 1 to 24"),
    ("daily: 8", "daily: 0", "backup.keep.daily", '"0"', "from 1 to 366"),
    ("  host: smtp.example.com", "  host: '[smtp.example.com]:587'", "relay.host", "[smtp", "without brackets"),
    ("  host: smtp.example.com", "  host: mail.example.org", "relay.host", "mail.example.org", "another host"),
    ("port: submission", "port: 0", "relay.port", '"0"', "from 1 to 65535"),
    ("user: anna", "user: 'anna:x'", "relay.user", "anna:x", "colons"),
    ("mode: acme", "mode: letsencrypt", "tls.mode", '"letsencrypt"', "'self-signed', 'files' or 'acme'"),
    ("format: slack", "format: teams", "alerts.webhook.format", '"teams"', "'ntfy', 'slack' or 'matrix'"),
    ('"{title}: {text}"', "{text}", "alerts.webhook.template", "no JSON", "placeholders inside of quotes"),
    ('"{title}: {text}"', '"hello"', "alerts.webhook.template", "hello", "a template with {text} or {title} in it"),
    ("queue: 500", "queue: 0", "alerts.queue", '"0"', "from 1 to 100000"),
    ("disk: 90", "disk: 100", "alerts.disk", '"100"', "from 10 to 99"),
    ("certificate_days: 21", "certificate_days: 91", "alerts.certificate_days", '"91"', "from 1 to 90"),
    ("failed_logins: 1000", "failed_logins: many", "alerts.failed_logins", '"many"', "from 10 to 1000000"),
    ("weekly: no", "weekly: monthly", "alerts.weekly", '"monthly"', "true or false"),
    ("journal: 100M", "journal: 1M", "retention.journal", '"1M"', "16M to 64G"),
    ("queue_days: 3", "queue_days: 0", "retention.queue_days", '"0"', "from 1 to 5"),
    ("queue_days: 3", "queue_days: 6", "retention.queue_days", '"6"', "from 1 to 5"),
    ("queue_days: 3", "queue_days: three", "retention.queue_days", '"three"', "from 1 to 5"),
    ("trash_days: 14", "trash_days: 0", "retention.trash_days", '"0"', "from 1 to 3650"),
    ("report_days: 90", "report_days: 4000", "retention.report_days", '"4000"', "from 0 to 3650"),
    ("resolver: system", "resolver: 9.9.9.9", "resolver", '"9.9.9.9"', "'local' or 'system'"),
    ("port: 2222", "port: 25", "ssh.port", "25", "smtp listens there"),
    ("passwords: no", "passwords: never", "ssh.passwords", '"never"', "true or false"),
    ("filter: full", "filter: heavy", "spam.filter", '"heavy"', "'off', 'light' or 'full'"),
    ("when_down: pass", "when_down: drop", "spam.when_down", '"drop"', "'defer' or 'pass'"),
    ("when_down: pass", "dnsbls: [zen.spamhaus.org.]", "spam.dnsbls[0]", '"zen.spamhaus.org."', "final dot"),
    ("when_down: pass", "dnsbls: [zen.spamhaus.org]", "spam.dnsbls", "zen.spamhaus.org", "resolver: system"),
    ("[root, www-data]", "[root, WWW]", "local_senders[1]", '"WWW"', "Linux user"),
    ("[root, www-data]", "[root, root]", "local_senders[1]", "again", "each once"),
    ("[root, www-data]", "root", "local_senders", "text", "a list"),
    ("job:/etc/cron.d/backup", "backup", "accepted[0]", '"backup"', "name of a finding"),
    ("job:/etc/cron.d/backup", "group:sudo:anna", "accepted[1]", "again", "each once"),
    ("message_size: 30M", "message_size: 10G", "message_size", '"10G"', "1M to 150M"),
]


REFUSED_FILES = [
    ("certificate: chain.pem", "certificate: ../chain.pem", "../chain.pem", "beside mail.yml", "certificate:"),
    ("certificate: chain.pem", "certificate: /etc/shadow", "/etc/shadow", "beside mail.yml", "certificate:"),
    ("  certificate: chain.pem\n", "", "nothing", "beside mail.yml", "tls:\n"),
    ("mode: files", "mode: self-signed", "chain.pem", "mode: files", "certificate:"),
]


REFUSED_ELSEWHERE = [
    ("  name: mail.example.org\n", "", "host.name", "nothing", "fully qualified name", "host:\n"),
    ("name: mail.example.org", "name: example.net", "domains[1]", "host.name", "mail domains only", "- example.net"),
    ("  port: 2222\n  passwords: no", "  - port", "ssh", "a list", "setting: value", "ssh:\n"),
]


def check_problem(changed: Inventory, line: int, field: str, actual: str, expected: str) -> None:
    problem = next(problem for problem in changed.problems() if problem.field == field)
    assert problem.line == line
    assert actual in problem.actual
    assert expected in problem.expected
    block = f"{changed.path}:{line}: {field}\n  found  {problem.actual}\n  want   {problem.expected}"
    assert block in changed.message()


@pytest.mark.parametrize(
    ("old", "new", "field", "actual", "expected"), REFUSED, ids=[f"{row[2]}-{row[3]}" for row in REFUSED]
)
def test_each_mistake_is_reported_on_its_line_with_a_valid_value(
    mail_yml: Inventory, old: str, new: str, field: str, actual: str, expected: str
) -> None:
    changed = mail_yml.change(old, new)
    lines = zip(COMPLETE.splitlines(), changed.path.read_text().splitlines(), strict=True)
    check_problem(changed, [before == after for before, after in lines].index(False) + 1, field, actual, expected)


@pytest.mark.parametrize(
    ("old", "new", "field", "actual", "expected", "line"), REFUSED_ELSEWHERE, ids=[row[2] for row in REFUSED_ELSEWHERE]
)
def test_a_missing_or_conflicting_setting_is_reported_at_the_nearest_line(
    mail_yml: Inventory, old: str, new: str, field: str, actual: str, expected: str, line: str
) -> None:
    changed = mail_yml.change(old, new)
    text = changed.path.read_text()
    assert text.count(line) == 1
    check_problem(changed, text[: text.index(line)].count("\n") + 1, field, actual, expected)


@pytest.mark.parametrize(("old", "new", "actual", "expected", "line"), REFUSED_FILES)
def test_a_certificate_needs_mode_files_and_a_file_beside_mail_yml(
    mail_yml: Inventory, old: str, new: str, actual: str, expected: str, line: str
) -> None:
    changed = mail_yml.change(old, new, text=COMPLETE_WITH_FILES)
    text = changed.path.read_text()
    assert text.count(line) == 1
    check_problem(changed, text[: text.index(line)].count("\n") + 1, "tls.certificate", actual, expected)


def test_pages_over_https_need_a_certificate_that_the_world_trusts(mail_yml: Inventory) -> None:
    untrusted = COMPLETE.replace(BY_ACME, "")
    for mode in ("testing", "enforce"):
        problems = mail_yml.write(untrusted.replace("mta_sts: enforce", f"mta_sts: {mode}")).problems()
        assert [problem.field for problem in problems] == ["dns.mta_sts", "web.autoconfig"]
    elsewhere = untrusted.replace("mta_sts: enforce", "mta_sts: testing").replace("mta_sts: yes", "mta_sts: no")
    mail_yml.write(elsewhere.replace("autoconfig: yes", "autoconfig: no")).load()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("name: mail.example.org", "name: autoconfig.example.org", "web.autoconfig"),
        ("name: mail.example.org", "name: mta-sts.example.org", "dns.mta_sts"),
        ("- example.net", "- example.net\n  - autodiscover.example.net", "web.autoconfig"),
    ],
)
def test_a_name_of_a_page_is_neither_a_host_nor_a_mail_domain(
    mail_yml: Inventory, old: str, new: str, field: str
) -> None:
    problems = mail_yml.change(old, new).problems()
    assert [problem.field for problem in problems if "for this alone" in problem.expected] == [field]


def test_all_problems_are_reported_at_once_on_one_screen(mail_yml: Inventory) -> None:
    bad = "".join(f"  - address: user{n}@example.org\n    password: hunter2\n" for n in range(30))
    changed = mail_yml.change("accounts:\n", f"accounts:\n{bad}")
    assert len(changed.problems()) == 30
    message = changed.message()
    assert message.count("\n  found  ") == MAX_SHOWN_PROBLEMS
    assert message.endswith("… and 18 more")
    assert len(message.splitlines()) < 40


def test_one_mistake_is_one_problem(mail_yml: Inventory) -> None:
    # Without anna's address, aliases to it would lead nowhere; a list whose only item is bad would be too short.
    assert mail_yml.change("address: anna@example.org", "address: Anna@example.org").problem()
    assert mail_yml.change("[you@example.com]", "[You]").problem()


def test_long_or_hostile_text_cannot_garble_the_screen(mail_yml: Inventory) -> None:
    message = mail_yml.change("quota: 2G", 'quota: "' + "\\e]0;" * 5000 + '"').message()
    assert len(message) < 500
    assert all(line.isprintable() for line in message.splitlines())
    assert "\\u202e\\u009b" in mail_yml.change("quota: 2G", r'quota: "\u202e\x9b31m"').message()
    key = mail_yml.change("quota: 2G", '"\\e[2J' + "x" * 5000 + '": 1').message()
    assert len(key) < 700
    assert all(line.isprintable() for line in key.splitlines())


# Aliases


def test_a_loop_of_aliases_is_reported_once_with_its_members(mail_yml: Inventory) -> None:
    changed = mail_yml.change(
        AWAY,
        "away@example.org: [x@elsewhere.example, away2@example.org]\n  away2@example.org: away@example.org",
    )
    assert changed.problem().actual == "a loop: away@example.org → away2@example.org → away@example.org"


def test_a_loop_through_a_plus_address_or_a_catch_all_is_a_loop(mail_yml: Inventory) -> None:
    assert "a loop" in mail_yml.change(AWAY, "away@example.org: away+x@example.org").problem().actual
    caught = COMPLETE.replace(AWAY, "away@example.org: unknown@example.net")
    caught = caught.replace(CATCH_ALL, "  example.net: away@example.org")
    assert "a loop" in mail_yml.write(caught).problem().actual


@pytest.mark.slow
def test_a_long_loop_is_shortened_and_found_in_time(mail_yml: Inventory) -> None:
    chain = "".join(f"  a{n}@example.org: a{(n + 1) % 5000}@example.org\n" for n in range(5000))
    problem = mail_yml.change("aliases:\n", f"aliases:\n{chain}").problem()
    assert problem.actual.startswith("a loop: a0@example.org → … → ")
    assert len(problem.actual) < 200


def test_two_aliases_to_one_address_are_no_loop(mail_yml: Inventory) -> None:
    assert mail_yml.change(AWAY, "away@example.org: [info@example.org, team@example.net]").load()
