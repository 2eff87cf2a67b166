"""What the server serves over HTTPS is had by who asks for exactly that, and found by software that others wrote; all
else is hung up on; and when it is switched off, nothing of it is left."""

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from clients import is_accepted, log_in, open_ports, read_mailbox, request_https, run_on

from mailkeep.dns import client, judge, observe
from mailkeep.dns.formats import format_zone_file
from mailkeep.dns.records import own_zone_records, reverse_records
from mailkeep.inventory.tls_keys import import_certificate
from mailkeep.lab import Attacker, Internet, Lab, poll
from mailkeep.lab.site import DeployResult, Site
from mailkeep.parts import certificates, web
from mailkeep.verify.verification import verify_inventory

ANNA, OUTSIDE = "anna@example.test", "x@outside.test"
TRUSTED = "/usr/local/share/ca-certificates/web.crt"
BROKEN_DEPLOY = str(Path(__file__).with_name("broken_deploy.py"))


def declare(on: Site, **changes: Any) -> None:
    on.settings_file.write_text(yaml.safe_dump(yaml.safe_load(on.settings_file.read_text()) | changes, sort_keys=False))


def succeeded(said: DeployResult) -> DeployResult:
    assert said.code == 0, said.output
    return said


@pytest.fixture(scope="module")
def serving(lab: Lab, built_site: Site, built_image: str, internet: Internet, directory: Path) -> Iterator[Site]:
    """A copy of the built server that serves all it can, with a certificate that the outside world trusts."""
    server = lab.boot_server("web", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    declare(
        site,
        dns={"mta_sts": "enforce"},
        web={"autoconfig": True},
        host={"name": "mail.example.test", "addresses": [str(server.ip), str(server.ip6)]},
        tls={"mode": "files", "certificate": "tls.pem"},
    )
    bring_certificate(site, internet, directory)
    succeeded(site.deploy())
    site.publish(internet)
    yield site
    internet.run(f"rm {TRUSTED}; update-ca-certificates --fresh")
    built_site.publish(internet)
    server.remove()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `web.pem` is, for who trusts it here, and its key."""
    return tmp_path_factory.mktemp("certificate")


def bring_certificate(site: Site, internet: Internet, directory: Path) -> None:
    names = ",".join(f"DNS:{name}" for name in site.settings.certificate_names)
    internet.run(f"""cd /root
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout web.key -out web.pem -days 30 \\
  -subj /CN=web -addext subjectAltName={names} 2>&1
install -m 644 web.pem {TRUSTED}
update-ca-certificates""")
    for name in ("web.pem", "web.key"):
        (directory / name).write_text(internet.run(f"cat /root/{name}").stdout)
    import_certificate(site.settings, site.inventory, directory / "web.pem", directory / "web.key")


def page(site: Site, kind: str, domain: str = "example.test") -> web.Page:
    return next(one for one in web.list_pages(site.settings) if one.name == f"{kind}.{domain}")


def get(one: web.Page, method: str = "GET", *, path: str = "", host: str = "", body: str = "") -> str:
    """A request for this page, or for another path or host instead of its own."""
    lines = (f"{method} {path or one.path} HTTP/1.1", f"Host: {host or one.name}", f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")) + body


def served(site: Site, one: web.Page, request: str = "") -> bool:
    """Whether who asks for this page is given it."""
    answer = request_https(str(site.server.ip), one.name, request or get(one))
    head, _, body = answer.partition("\r\n\r\n")
    return (
        head.startswith("HTTP/1.1 200 ") and f"Content-Type: {one.media_type}" in head and body == one.content.decode()
    )


# --- who should be answered


def test_every_declared_text_is_served_over_both_protocols(serving: Site) -> None:
    for one in web.list_pages(serving.settings):
        assert served(serving, one)
        assert request_https(str(serving.server.ip6), one.name, get(one)).endswith(one.content.decode())


def test_the_live_check_finds_the_policy_and_every_record(
    serving: Site, internet: Internet, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(directory / "web.pem"))

    def findings() -> set[tuple[str, str, str]]:
        seen = observe.observe_server(serving.settings, serving.secrets, client.make_resolver(internet.resolver))
        return {
            (one.level, one.name, one.type) for one in judge.judge_observation(serving.settings, serving.secrets, seen)
        }

    assert findings() == set()
    names = {"autoconfig.example.test", "autodiscover.example.test"}
    listed = [*own_zone_records(serving.settings, serving.secrets), *reverse_records(serving.settings)]
    internet.publish(format_zone_file(record for record in listed if record.name not in names))
    missing = findings()
    serving.publish(internet)
    assert {("instruction", name, kind) for name in names for kind in ("A", "AAAA")} <= missing


# Postfix as whoever follows MTA-STS runs it, with the resolver that most of them use.
SENDER = """
set -eu
[ -d /root/postfix ] || cp -a /etc/postfix /root/postfix
cat > /etc/postfix/main.cf <<'MAIN'
compatibility_level = 3.10
myhostname = mx.outside.test
inet_interfaces = loopback-only
smtp_tls_security_level = may
smtp_tls_loglevel = 1
smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt
smtp_tls_policy_maps = socketmap:inet:127.0.0.1:8461:postfix
MAIN
sed -i '/^smtp *inet/d' /etc/postfix/master.cf
systemctl unmask --quiet postfix
systemctl start postfix
"""
# What it has seen of policies, too.
FORGET = """
systemctl stop postfix-mta-sts-resolver
rm -f /var/lib/mta-sts/cache.db*
systemctl start postfix-mta-sts-resolver
journalctl --rotate --vacuum-time=1s
"""
NO_SENDER = """
systemctl stop postfix postfix-mta-sts-resolver
systemctl mask --quiet postfix
postsuper -d ALL
rm -rf /etc/postfix && mv /root/postfix /etc/postfix
"""


@pytest.fixture
def sender(internet: Internet) -> Iterator[Callable[[str], str]]:
    """Sends a message of this subject to Anna; the line of the log that says what came of it, and that on TLS."""
    internet.run(SENDER)

    def send(subject: str) -> str:
        internet.run(FORGET)
        internet.run(f"sendmail -f {OUTSIDE} {ANNA}", stdin=f"Subject: {subject}\n\nHello.\n")
        said = "journalctl --unit postfix --output cat | grep -B9 status="
        return poll(lambda: internet.run(said, check=False).stdout, 30, "it is not sent")

    yield send
    internet.run(NO_SENDER)


def test_an_independent_client_takes_the_policy_and_postfix_delivers_by_it(
    serving: Site, internet: Internet, sender: Callable[[str], str]
) -> None:
    said = internet.run("mta-sts-query example.test").stdout
    assert "VALID" in said
    assert "'mail.example.test'" in said

    said = sender("by the policy")
    assert "Verified TLS connection established to mail.example.test" in said
    assert "status=sent" in said
    inbox = partial(read_mailbox, str(serving.server.ip), 993, ANNA, serving.passphrases[ANNA])
    poll(lambda: any(b"Subject: by the policy" in mail for mail in inbox()), 10, "it is not in the mailbox")

    # That it is the policy which they go by: with another server in it, none of ours will do.
    policy = f"{web.PAGES}/mta-sts.example.test"
    serving.server.run(f"sed -i 's/^mx: .*/mx: mx.evil.test\\r/' {policy}")
    said = sender("not by the policy")
    succeeded(serving.deploy())
    assert "status=deferred (Server certificate not verified)" in said


def test_thunderbird_is_told_where_one_can_log_in(serving: Site) -> None:
    one = page(serving, "autoconfig")
    answer = request_https(
        str(serving.server.ip), one.name, get(one, path=f"{one.path}?emailaddress=anna%40example.test")
    )
    provider = ElementTree.fromstring(answer.partition("\r\n\r\n")[2])[0]  # noqa: S314 - of our own server
    servers = [*provider.findall("incomingServer"), *provider.findall("outgoingServer")]
    assert len(servers) == 4
    for server in servers:
        assert server.findtext("hostname") == serving.settings.host.name
        user = str(server.findtext("username")).replace("%EMAILADDRESS%", ANNA)
        port = int(str(server.findtext("port")))
        assert is_accepted(log_in(str(serving.server.ip), port, user, serving.passphrases[ANNA]))


# As Outlook asks ([MS-OXDSCLI] section 4.1), in its spelling of the path.
OUTLOOK = f"""<?xml version="1.0" encoding="utf-8"?>
<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"><Request>
<EMailAddress>{ANNA}</EMailAddress><AcceptableResponseSchema>
http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a
</AcceptableResponseSchema></Request></Autodiscover>"""


def test_outlook_is_told_where_one_can_log_in(serving: Site) -> None:
    one = page(serving, "autodiscover")
    for path in ("/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"):
        assert served(serving, one, get(one, "POST", path=path, body=OUTLOOK))
    for protocol in ElementTree.fromstring(one.content).findall(".//{*}Protocol"):  # noqa: S314 - our own
        user = f"anna@{protocol.findtext('{*}DomainName')}"
        port = int(str(protocol.findtext("{*}Port")))
        assert is_accepted(log_in(str(serving.server.ip), port, user, serving.passphrases[ANNA]))


# --- who should not


def test_everything_else_is_hung_up_on(serving: Site) -> None:
    ip = str(serving.server.ip)
    policy, config, outlook = (page(serving, kind) for kind in ("mta-sts", "autoconfig", "autodiscover"))
    refused = {
        "no name": request_https(ip, "", get(policy)),
        "the host's name": request_https(ip, "mail.example.test", get(policy, host="mail.example.test")),
        "a mail domain": request_https(ip, "example.test", get(policy, host="example.test")),
        "another host": request_https(ip, policy.name, get(policy, host="mail.example.test")),
        "the address as host": request_https(ip, policy.name, get(policy, host=ip)),
        "no host": request_https(ip, policy.name, f"GET {policy.path} HTTP/1.0\r\n\r\n"),
        "two hosts": request_https(
            ip, policy.name, f"GET {policy.path} HTTP/1.1\r\nHost: {policy.name}\r\nHost: x\r\n\r\n"
        ),
        "another's path": request_https(ip, policy.name, get(policy, path=config.path)),
        "the root": request_https(ip, policy.name, get(policy, path="/")),
        "another spelling": request_https(ip, policy.name, get(policy, path=policy.path.upper())),
        "a path that leads out": request_https(ip, policy.name, get(policy, path=f"{policy.path}/../../../nginx.conf")),
        "a path out of the root": request_https(ip, policy.name, get(policy, path="/../../etc/passwd")),
        "what nginx uses itself": request_https(ip, outlook.name, get(outlook, path="/answer")),
        **{
            f"{method} of {one.name}": request_https(ip, one.name, get(one, method))
            for one, methods in ((policy, "POST PUT HEAD OPTIONS DELETE TRACE"), (outlook, "PUT HEAD OPTIONS"))
            for method in methods.split()
        },
        "a large body": request_https(ip, outlook.name, get(outlook, "POST", body="x" * 20_000)),
        "a large header": request_https(ip, policy.name, get(policy)[:-2] + f"X: {'x' * 9000}\r\n\r\n"),
        "not HTTP": request_https(ip, policy.name, "EHLO mx.evil.test\r\n\r\n"),
        "HTTP/2": request_https(ip, policy.name, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "no TLS": request_https(ip, None, get(policy)),
    }
    assert {asked: answer for asked, answer in refused.items() if answer} == {}
    assert served(serving, policy)


CROWD = """
import signal, socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
held = []
for number in range(600):
    connection = socket.create_connection(("{ip}", 443), 10)
    if number < 100:
        connection = context.wrap_socket(connection, server_hostname="{name}")
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: ")
    held.append(connection)
print("held", flush=True)
signal.pause()
"""


def test_a_crowd_that_stays_and_says_nothing_does_not_keep_others_out(serving: Site, attacker: Attacker) -> None:
    one = page(serving, "mta-sts")
    attacker.write("/root/crowd.py", CROWD.format(ip=serving.server.ip, name=one.name))
    attacker.run("systemd-run --quiet --unit=crowd --collect python3 /root/crowd.py")
    try:
        poll(lambda: "held" in attacker.run("journalctl -u crowd -o cat").stdout, 20, "the crowd is not there")
        assert poll(lambda: served(serving, one), 10, "others are kept out")
    finally:
        attacker.run("systemctl stop crowd")


def weaknesses(site: Site) -> set[str]:
    """What whoever took over the process that talks to clients could do, seen from where it is."""
    worker = "pgrep --full '^nginx: worker process$'"
    [pid] = poll(lambda: site.server.run(worker, check=False).stdout.split(), 10, "nginx has no worker")
    status = dict(line.split(":\t", 1) for line in site.server.run(f"cat /proc/{pid}/status").stdout.splitlines())
    as_it = f"nsenter --target {pid} --mount setpriv --reuid {status['Uid'].split()[0]} --clear-groups"

    def works(command: str) -> bool:
        return not site.server.run(f"{command} 2>&1", check=False).returncode

    return {
        name
        for name, found in {
            "it has capabilities": int(status["CapEff"], 16) != 0,
            "it can gain privileges": status["NoNewPrivs"] != "1",
            "even root can write there": works(f"nsenter --target {pid} --mount touch /usr/x /etc/x /var/lib/x"),
            "it reads the key": works(f"{as_it} cat {certificates.PEM}"),
            "it reads what is at home": works(f"{as_it} ls /root/.ssh"),
        }.items()
        if found
    }


NO_SANDBOX = f"""
mkdir /run/systemd/system/{web.SERVICE}.d
cat > /run/systemd/system/{web.SERVICE}.d/open.conf <<'OPEN'
[Service]
CapabilityBoundingSet=~
NoNewPrivileges=no
ProtectSystem=no
ProtectHome=no
OPEN
sed -i 's/^user .*/user root;/' {web.CONF}
systemctl daemon-reload
systemctl restart {web.SERVICE}
"""


def test_who_breaks_into_it_has_nothing(serving: Site) -> None:
    assert weaknesses(serving) == set()
    serving.server.run(NO_SANDBOX)
    without = weaknesses(serving)
    serving.server.run(f"rm -r /run/systemd/system/{web.SERVICE}.d /usr/x /etc/x /var/lib/x; systemctl daemon-reload")
    succeeded(serving.deploy())
    serving.server.run(f"systemctl restart {web.SERVICE}")
    assert len(without) == 5
    assert weaknesses(serving) == set()


def test_verify_passes_and_sees_what_is_missing_or_too_much(serving: Site) -> None:
    def failed() -> set[str]:
        return {one.check for one in verify_inventory(serving.inventory) if one.status in ("failed", "warning")}

    assert failed() == set()
    serving.server.run(f"""
sed -i 's/return 444;/return 200 "Hello.";/' {web.CONF}
sed -i 's/TLSv1.2 TLSv1.3/TLSv1 TLSv1.1 TLSv1.2/; s/^\\(.ssl_ciphers\\) .*/\\1 ALL:@SECLEVEL=0;/' {web.CONF}
echo 'mode: none' > {web.PAGES}/mta-sts.example.test
systemctl reload mailkeep-web""")
    broken = failed()
    succeeded(serving.deploy())
    assert broken == {
        "what_is_served_over_https_can_be_had",
        "nothing_else_is_served_over_https",
        "old_tls_is_refused",
        "weak_ciphers_are_refused",
    }


# --- changes


def process(site: Site) -> str:
    return site.server.run(f"systemctl show --value --property=MainPID {web.SERVICE}").stdout.strip()


def test_a_broken_configuration_reaches_neither_the_disk_nor_the_service(serving: Site, tmp_path: Path) -> None:
    before, one = process(serving), page(serving, "mta-sts")
    good = serving.server.run(f"cat {web.CONF}").stdout
    (tmp_path / "broken").write_text(json.dumps({web.CONF: good.replace("return 444;", "return four;", 1)}))
    command = serving.deploy_command(BROKEN_DEPLOY)
    said = subprocess.run(
        [*command, "--data", f"broken={tmp_path / 'broken'}"], capture_output=True, text=True, check=False
    )
    assert said.returncode != 0
    assert f"web: refused, and nothing was put in place: {web.CONF}" in said.stdout + said.stderr
    assert "invalid return code" in said.stdout + said.stderr
    assert serving.server.run(f"cat {web.CONF}").stdout == good

    # Broken on the server itself: a reload says so, and changes nothing.
    serving.server.run(f"echo nonsense >> {web.CONF}")
    assert serving.server.run(f"systemctl reload {web.SERVICE}", check=False).returncode != 0
    assert served(serving, one)
    succeeded(serving.deploy())
    assert served(serving, one)
    assert process(serving) == before


def test_a_new_certificate_and_less_to_serve_are_a_reload(serving: Site, internet: Internet, directory: Path) -> None:
    before, config = process(serving), page(serving, "autoconfig")
    bring_certificate(serving, internet, directory)
    declare(serving, web={"autoconfig": False})
    succeeded(serving.deploy())
    brought = (directory / "web.pem").read_text()
    hello = f"openssl s_client -connect {serving.server.ip}:443 -servername mta-sts.example.test < /dev/null"
    shown = f"{hello} 2> /dev/null | openssl x509"
    poll(lambda: internet.run(shown, check=False).stdout == brought, 10, "another certificate is shown")
    assert poll(lambda: not request_https(str(serving.server.ip), config.name, get(config)), 5, "it is still served")
    assert served(serving, page(serving, "mta-sts"))
    assert process(serving) == before


def test_a_reboot_brings_it_back(serving: Site) -> None:
    serving.server.restart()
    assert served(serving, page(serving, "mta-sts"))
    assert not serving.server.run("ss -Hlnt 'sport = :80'").stdout


def test_mail_does_not_depend_on_it(serving: Site) -> None:
    serving.server.run(f"systemctl stop {web.SERVICE}; rm /usr/sbin/nginx; systemctl restart postfix dovecot")
    assert is_accepted(log_in(str(serving.server.ip), 465, ANNA, serving.passphrases[ANNA]))
    assert is_accepted(log_in(str(serving.server.ip), 993, ANNA, serving.passphrases[ANNA]))
    serving.server.run("apt-get -qq install --reinstall -y nginx 2>&1")
    succeeded(serving.deploy())
    assert served(serving, page(serving, "mta-sts"))


def test_switched_off_nothing_of_it_is_left(serving: Site, attacker: Attacker) -> None:
    """The last one: the server of this module serves nothing any more."""
    assert run_on(attacker, open_ports, str(serving.server.ip), 443, 443) == [443]
    declare(serving, dns={}, web={})
    succeeded(serving.deploy())
    assert run_on(attacker, open_ports, str(serving.server.ip), 443, 443) == []
    left = serving.server.run("""
find /etc/mailkeep/web /run/mailkeep-web ! -type d
find /etc/systemd /run/systemd -name '*mailkeep-web*'
pgrep -l nginx
nft list chain inet mailkeep input | grep 443
systemctl is-enabled nginx mailkeep-web 2>&1
true""").stdout
    assert left.split() == ["disabled", "not-found"]
    assert succeeded(serving.deploy()).changed == []
    assert {one.check for one in verify_inventory(serving.inventory) if one.status in ("failed", "warning")} == set()
