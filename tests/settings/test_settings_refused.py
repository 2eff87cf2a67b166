"""Invalid files are refused with all problems at once: file, line, setting, the actual value and a valid one."""

import os
import socket
from pathlib import Path

import pytest
from settings_samples import BY_ACME, COMPLETE, COMPLETE_WITH_FILES, HASH, Inventory, line_of

from mailkeep.settings.load import load_settings
from mailkeep.settings.yaml_reader import MAX_SHOWN_PROBLEMS, SettingsError

# The file


def actual_in(path: Path) -> str:
    with pytest.raises(SettingsError) as raised:
        load_settings(path)
    (problem,) = raised.value.problems
    assert str(raised.value).startswith(f"{path}:")
    return problem.actual


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert actual_in(tmp_path / "mail.yml") == "no such file or directory"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert actual_in(tmp_path) == "a directory"


def test_a_socket_or_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in actual_in(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "not a regular file" in actual_in(tmp_path / "socket")


def test_a_path_through_a_file_is_refused(mail_yml: Inventory) -> None:
    assert actual_in(mail_yml.path / "mail.yml") == "not a directory"


def test_a_file_beyond_ten_megabytes_is_not_read(mail_yml: Inventory) -> None:
    with mail_yml.path.open("r+b") as file:
        file.truncate(11 * 2**20)
    assert mail_yml.problem().actual == "11 MB"


@pytest.mark.parametrize(
    ("content", "line", "actual"),
    [
        (b"", 0, "an empty file"),
        (b"# nothing but this\n", 0, "an empty file"),
        (b"---\n...\n", 0, "an empty file"),
        (b"just text\n", 0, "text at the top"),
        (b"- a\n- b\n", 0, "a list at the top"),
        (b"a: 1\nb: \xff\n", 2, "byte 0xff, which is not UTF-8"),
        ("a: é\n".encode("latin-1"), 1, "byte 0xe9, which is not UTF-8"),
        ("a: 1\n".encode("utf-16"), 1, "byte 0xff, which is not UTF-8"),
        (b"a: 1\n\nb: \x00\n", 3, "the control character 0x00"),
        ("é: é\nb: \x07\n".encode(), 2, "the control character 0x07"),
        (b"a: &x 1\nb: 2\n", 1, "a YAML anchor (&)"),
        (b"a: 1\nb: *x\n", 2, "a YAML alias (*)"),
        (b"a: 1\n*x : 2\n", 2, "a key that is a list, a mapping or an alias"),
        (b"a: 1\nb: !!python/object:os.system x\n", 2, "a YAML tag (!)"),
        (b"a: 1\n---\nb: 2\n", 2, "a second document (---)"),
        (b"a: 1\n? [b]\n: 2\n", 2, "a key that is a list, a mapping or an alias"),
        (b"a: " + b"[" * 100_000, 1, "deep nesting"),
        (b"a: " + b"{b: " * 5_000, 1, "deep nesting"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_line(
    mail_yml: Inventory, content: bytes, line: int, actual: str
) -> None:
    problem = mail_yml.write(content).problem()
    assert (problem.line, problem.actual) == (line, actual)


def test_aliases_that_would_fill_the_memory_are_refused_at_the_first(mail_yml: Inventory) -> None:
    laughs = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{p}, *{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert mail_yml.write(laughs).problem().actual == "a YAML anchor (&)"


def test_a_tab_in_the_indentation_is_named(mail_yml: Inventory) -> None:
    problem = mail_yml.change("  name: mail.example.org", "\tname: mail.example.org").problem()
    assert problem.line == line_of(COMPLETE, "name: mail.example.org")
    assert "a tab" in problem.expected


def test_a_syntax_error_names_its_line(mail_yml: Inventory) -> None:
    problem = mail_yml.change("resolver: system", "resolver: system: 1").problem()
    assert (problem.line, problem.field) == (line_of(COMPLETE, "resolver:"), "not YAML")


@pytest.mark.parametrize(
    ("whole", "open_"),
    [
        ('[203.0.113.25, "2001:db8::25"]', '[203.0.113.25, "2001:db8::25"'),
        ("send_as: [info@example.org, team@example.net]", "send_as: [info@example.org"),
        ("webhook:\n    format: slack", "webhook: {"),
        ("resolver: system", 'resolver: "system'),
    ],
)
def test_an_unclosed_bracket_or_quote_is_reported_where_it_begins(mail_yml: Inventory, whole: str, open_: str) -> None:
    text = COMPLETE.replace(whole, open_)
    problem = mail_yml.write(text).problem()
    assert (problem.line, problem.field) == (line_of(text, open_), "not YAML")
    assert "bracket" in problem.expected


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("marks", [("<<<<<<< HEAD", "=======", ">>>>>>> other"), ("=======",), (">>>>>>> 1a2b3c",)])
def test_a_merge_conflict_is_named(mail_yml: Inventory, marks: tuple[str, ...], line_break: str) -> None:
    text = COMPLETE.replace("resolver: system\n", "\n".join((*marks, "resolver: system\n")))
    problem = mail_yml.write(text.replace("\n", line_break)).problem()
    assert problem.line == line_of(text, marks[0])
    assert "a merge conflict" in problem.actual
    assert marks[0] in problem.actual


def test_a_hash_without_quotes_is_reported_as_that(mail_yml: Inventory) -> None:
    problem = mail_yml.change(f"'{HASH}'\n    name", f"{HASH}\n    name").problem()
    assert problem.line == line_of(COMPLETE, "address: anna@") + 1
    assert "quotes" in problem.expected


def test_a_second_key_of_the_same_name_is_refused_with_both_lines(mail_yml: Inventory) -> None:
    text = COMPLETE + "ssh:\n  port: 22\n  port: 23\n"
    again, port = mail_yml.write(text).problems()
    assert (again.line, again.field) == (len(text.splitlines()) - 2, "ssh")
    assert again.actual == f"a second time; first on line {line_of(COMPLETE, 'ssh:')}"
    assert port.field == "ssh.port"


# Fields: old text, new text, setting, actual value, expected value

AWAY = "away@example.org: someone@elsewhere.example"
BERT = "address: bert@example.net "
CATCH_ALL = "  example.net: bert@example.net"
SEND_AS = "[info@example.org, team@example.net]"

REFUSED = [
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
    ("[https, 8443]", "[imap3]", "firewall.open[0]", '"imap3"', "imaps"),
    ("[https, 8443]", "[https, 65536]", "firewall.open[1]", '"65536"', "65535"),
    ("[https, 8443]", "['imaps ']", "firewall.open[0]", '"imaps "', "imaps"),
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
    ("journal: 100M", "journal: 1M", "retention.journal", '"1M"', "16M to 64G"),
    ("queue_days: 3", "queue_days: 0", "retention.queue_days", '"0"', "from 1 to 5"),
    ("queue_days: 3", "queue_days: 6", "retention.queue_days", '"6"', "from 1 to 5"),
    ("queue_days: 3", "queue_days: three", "retention.queue_days", '"three"', "from 1 to 5"),
    ("trash_days: 14", "trash_days: 0", "retention.trash_days", '"0"', "from 1 to 3650"),
    ("resolver: system", "resolver: 9.9.9.9", "resolver", '"9.9.9.9"', "'local' or 'system'"),
    ("port: 2222", "port: 25", "ssh.port", "25", "smtp listens there"),
    ("passwords: no", "passwords: never", "ssh.passwords", '"never"', "true or false"),
    ("[root, www-data]", "[root, WWW]", "local_senders[1]", '"WWW"', "Linux user"),
    ("[root, www-data]", "[root, root]", "local_senders[1]", "again", "each once"),
    ("[root, www-data]", "root", "local_senders", "text", "a list"),
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


def test_a_long_loop_is_shortened_and_found_in_time(mail_yml: Inventory) -> None:
    chain = "".join(f"  a{n}@example.org: a{(n + 1) % 5000}@example.org\n" for n in range(5000))
    problem = mail_yml.change("aliases:\n", f"aliases:\n{chain}").problem()
    assert problem.actual.startswith("a loop: a0@example.org → … → ")
    assert len(problem.actual) < 200


def test_two_aliases_to_one_address_are_no_loop(mail_yml: Inventory) -> None:
    assert mail_yml.change(AWAY, "away@example.org: [info@example.org, team@example.net]").load()


# Passwords

SALT_AND_DIGEST = HASH.rpartition("p=1$")[2]


def phc(parameters: str, rest: str = SALT_AND_DIGEST) -> str:
    return f"{{ARGON2ID}}$argon2id$v=19${parameters}${rest}"


@pytest.mark.parametrize(
    "password",
    [
        "hunter2-clear-text",
        "{PLAIN}hunter2-clear-text",
        "{SHA512-CRYPT}$6$hunter2",
        HASH.removeprefix("{ARGON2ID}"),
        HASH.replace("ARGON2ID", "argon2id"),
        HASH.replace("argon2id", "argon2i"),
        HASH[:-30],
        HASH[:-1],
        HASH + "!",
        HASH + "\n",
        phc("m=64,t=1,p=1"),
        phc("m=7168,t=4,p=1"),
        phc("m=4096,t=10,p=1"),
        phc("m=1048576,t=2,p=1"),
        phc("m=19456,t=100,p=1"),
        phc("m=19456,t=2,p=64"),
        phc("m=19456,t=2,p=0"),
        phc("m=99999999999999,t=2,p=1"),
    ],
)
def test_an_unsound_hash_is_refused_unseen_with_the_command_to_set_it(mail_yml: Inventory, password: str) -> None:
    quoted = '"' + password.replace("\n", "\\n") + '"'
    changed = mail_yml.change(f"'{HASH}'\n    name", f"{quoted}\n    name")
    assert changed.problem().field == "accounts[0].password"
    message = changed.message()
    assert "mailkeep account passwd NAME anna@example.org" in message
    for secret in (password, "hunter2", SALT_AND_DIGEST, SALT_AND_DIGEST[:20]):
        assert secret not in message


@pytest.mark.parametrize("parameters", ["m=7168,t=5,p=1", "m=19456,t=2,p=1", "m=65536,t=2,p=1", "m=47104,t=1,p=4"])
def test_the_parameters_of_owasp_and_libsodium_are_accepted(mail_yml: Inventory, parameters: str) -> None:
    changed = mail_yml.change(f"'{HASH}'\n    name", f"'{phc(parameters)}'\n    name")
    assert changed.load().accounts[0].password == phc(parameters)


@pytest.mark.parametrize(
    "written",
    [
        "hunter2",
        "*hunter2",
        "&hunter2",
        "&hunter2 x",
        "!hunter2",
        "!hunter2 x",
        "%hunter2",
        "@hunter2",
        "`hunter2",
        "{hunter2}",
        "{hunter2: x, hunter2: y}",
        "{hunter2: &a x}",
        "[hunter2]",
        "[hunter2, [hunter2]]",
        "hunter2: x",
        "{ARGON2ID}$hunter2",
        "'hunter2",
        "|\n      hunter2",
        "\n      hunter2: x",
        '"\\hunter2"',
        "? hunter2",
        "<<hunter2",
        "# hunter2",
    ],
)
def test_a_clear_text_password_is_never_repeated_whatever_yaml_makes_of_it(mail_yml: Inventory, written: str) -> None:
    assert "hunter2" not in mail_yml.change(f"'{HASH}'\n    name", f"{written}\n    name").message()


@pytest.mark.parametrize("line", ["pasword: hunter2", "passwd: hunter2", "Password: hunter2"])
def test_a_password_under_a_misspelt_key_is_not_repeated(mail_yml: Inventory, line: str) -> None:
    assert "hunter2" not in mail_yml.change("quota: 2G", line).message()
    assert (
        "hunter2" not in mail_yml.change("  - address: bert@example.net ", "  - bert@example.net hunter2 #").message()
    )
