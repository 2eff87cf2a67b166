"""The server serves its pages over HTTPS to exact requests, and independent clients understand them.

It closes the connection on any other request, and leaves nothing behind when it is switched off.
"""

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


def change_settings(on: Site, **changes: Any) -> None:
    on.settings_file.write_text(yaml.safe_dump(yaml.safe_load(on.settings_file.read_text()) | changes, sort_keys=False))


def assert_success(result: DeployResult) -> DeployResult:
    assert result.code == 0, result.output
    return result


@pytest.fixture(scope="module")
def web_site(
    lab: Lab, built_site: Site, built_image: str, internet: Internet, certificate_directory: Path
) -> Iterator[Site]:
    """A copy of the built server that serves every page, with a certificate that the internet container trusts."""
    server = lab.boot_server("web", hostname="mail.example.test", image=built_image)
    site = built_site.copy_for(server)
    change_settings(
        site,
        dns={"mta_sts": "enforce"},
        web={"autoconfig": True},
        tls={"mode": "files", "certificate": "tls.pem"},
    )
    bring_certificate(site, internet, certificate_directory)
    assert_success(site.deploy())
    site.publish(internet)
    yield site
    internet.run(f"rm {TRUSTED}; update-ca-certificates --fresh")
    built_site.publish(internet)
    server.remove()


@pytest.fixture(scope="module")
def certificate_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the certificate `web.pem`, which some tests trust, and its key."""
    return tmp_path_factory.mktemp("certificate")


def bring_certificate(site: Site, internet: Internet, certificate_directory: Path) -> None:
    names = ",".join(f"DNS:{name}" for name in site.settings.certificate_names)
    internet.run(f"""cd /root
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout web.key -out web.pem -days 30 \\
  -subj /CN=web -addext subjectAltName={names} 2>&1
install -m 644 web.pem {TRUSTED}
update-ca-certificates""")
    for name in ("web.pem", "web.key"):
        (certificate_directory / name).write_text(internet.run(f"cat /root/{name}").stdout)
    import_certificate(
        site.settings, site.inventory, certificate_directory / "web.pem", certificate_directory / "web.key"
    )


def find_page(site: Site, kind: str, domain: str = "example.test") -> web.Page:
    return next(page for page in web.list_pages(site.settings) if page.name == f"{kind}.{domain}")


def compose_request(page: web.Page, method: str = "GET", *, path: str = "", host: str = "", body: str = "") -> str:
    """An HTTP request for this page, or with another path or host."""
    lines = (f"{method} {path or page.path} HTTP/1.1", f"Host: {host or page.name}", f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in (*lines, "Connection: close", "")) + body


def is_served(site: Site, page: web.Page, request: str = "") -> bool:
    """Whether the server answers a request for this page with its content."""
    answer = request_https(str(site.server.ip), page.name, request or compose_request(page))
    head, _, body = answer.partition("\r\n\r\n")
    return (
        head.startswith("HTTP/1.1 200 ")
        and f"Content-Type: {page.media_type}" in head
        and body == page.content.decode()
    )


# --- requests that are answered


def test_every_declared_text_is_served_over_both_protocols(web_site: Site) -> None:
    for page in web.list_pages(web_site.settings):
        assert is_served(web_site, page)
        assert request_https(str(web_site.server.ip6), page.name, compose_request(page)).endswith(page.content.decode())


def test_the_live_check_finds_the_policy_and_every_record(
    web_site: Site, internet: Internet, certificate_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate_directory / "web.pem"))

    def find_problems() -> set[tuple[str, str, str]]:
        observation = observe.observe_server(
            web_site.settings, web_site.secrets, client.make_resolver(internet.resolver)
        )
        return {
            (finding.level, finding.name, finding.type)
            for finding in judge.judge_observation(web_site.settings, web_site.secrets, observation)
        }

    assert find_problems() == set()
    names = {"autoconfig.example.test", "autodiscover.example.test"}
    published = [*own_zone_records(web_site.settings, web_site.secrets), *reverse_records(web_site.settings)]
    internet.publish(format_zone_file(record for record in published if record.name not in names))
    missing = find_problems()
    web_site.publish(internet)
    assert {("instruction", name, kind) for name in names for kind in ("A", "AAAA")} <= missing


# Postfix with postfix-mta-sts-resolver, as most servers that follow MTA-STS run it.
START_SENDER = """
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
# The resolver's cache of policies is removed too.
FORGET_POLICIES = """
systemctl stop postfix-mta-sts-resolver
rm -f /var/lib/mta-sts/cache.db*
systemctl start postfix-mta-sts-resolver
journalctl --rotate --vacuum-time=1s
"""
STOP_SENDER = """
systemctl stop postfix postfix-mta-sts-resolver
systemctl mask --quiet postfix
postsuper -d ALL
rm -rf /etc/postfix && mv /root/postfix /etc/postfix
"""


@pytest.fixture
def send_from_internet(internet: Internet) -> Iterator[Callable[[str], str]]:
    """Sends a message with this subject from the internet to Anna; the log lines about its delivery and TLS."""
    internet.run(START_SENDER)

    def send_message(subject: str) -> str:
        internet.run(FORGET_POLICIES)
        internet.run(f"sendmail -f {OUTSIDE} {ANNA}", stdin=f"Subject: {subject}\n\nHello.\n")
        log = "journalctl --unit postfix --output cat | grep -B9 status="
        return poll(lambda: internet.run(log, check=False).stdout, 30, "it is not sent")

    yield send_message
    internet.run(STOP_SENDER)


def test_an_independent_client_accepts_the_policy_and_postfix_delivers_by_it(
    web_site: Site, internet: Internet, send_from_internet: Callable[[str], str]
) -> None:
    output = internet.run("mta-sts-query example.test").stdout
    assert "VALID" in output
    assert "'mail.example.test'" in output

    output = send_from_internet("by the policy")
    assert "Verified TLS connection established to mail.example.test" in output
    assert "status=sent" in output
    inbox = partial(read_mailbox, str(web_site.server.ip), 993, ANNA, web_site.passphrases[ANNA])
    poll(lambda: any(b"Subject: by the policy" in mail for mail in inbox()), 10, "it is not in the mailbox")

    # With another server in the policy the sender refuses ours, so it is the policy that it follows.
    policy = f"{web.PAGES}/mta-sts.example.test"
    web_site.server.run(f"sed -i 's/^mx: .*/mx: mx.evil.test\\r/' {policy}")
    output = send_from_internet("not by the policy")
    assert_success(web_site.deploy())
    assert "status=deferred (Server certificate not verified)" in output


def test_thunderbird_gets_addresses_and_ports_where_an_account_can_log_in(web_site: Site) -> None:
    page = find_page(web_site, "autoconfig")
    answer = request_https(
        str(web_site.server.ip), page.name, compose_request(page, path=f"{page.path}?emailaddress=anna%40example.test")
    )
    provider = ElementTree.fromstring(answer.partition("\r\n\r\n")[2])[0]  # noqa: S314 - of our own server
    servers = [*provider.findall("incomingServer"), *provider.findall("outgoingServer")]
    assert len(servers) == 4
    for server in servers:
        assert server.findtext("hostname") == web_site.settings.host.name
        user = str(server.findtext("username")).replace("%EMAILADDRESS%", ANNA)
        port = int(str(server.findtext("port")))
        assert is_accepted(log_in(str(web_site.server.ip), port, user, web_site.passphrases[ANNA]))


# As Outlook asks ([MS-OXDSCLI] section 4.1), in its spelling of the path.
OUTLOOK = f"""<?xml version="1.0" encoding="utf-8"?>
<Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/requestschema/2006"><Request>
<EMailAddress>{ANNA}</EMailAddress><AcceptableResponseSchema>
http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a
</AcceptableResponseSchema></Request></Autodiscover>"""


def test_outlook_gets_addresses_and_ports_where_an_account_can_log_in(web_site: Site) -> None:
    page = find_page(web_site, "autodiscover")
    for path in ("/autodiscover/autodiscover.xml", "/Autodiscover/Autodiscover.xml"):
        assert is_served(web_site, page, compose_request(page, "POST", path=path, body=OUTLOOK))
    for protocol in ElementTree.fromstring(page.content).findall(".//{*}Protocol"):  # noqa: S314 - our own
        user = f"anna@{protocol.findtext('{*}DomainName')}"
        port = int(str(protocol.findtext("{*}Port")))
        assert is_accepted(log_in(str(web_site.server.ip), port, user, web_site.passphrases[ANNA]))


# --- requests that are not answered


def test_any_other_request_gets_no_answer(web_site: Site) -> None:
    ip = str(web_site.server.ip)
    policy, config, outlook = (find_page(web_site, kind) for kind in ("mta-sts", "autoconfig", "autodiscover"))
    refused = {
        "no name": request_https(ip, "", compose_request(policy)),
        "the host's name": request_https(ip, "mail.example.test", compose_request(policy, host="mail.example.test")),
        "a mail domain": request_https(ip, "example.test", compose_request(policy, host="example.test")),
        "another host": request_https(ip, policy.name, compose_request(policy, host="mail.example.test")),
        "the address as host": request_https(ip, policy.name, compose_request(policy, host=ip)),
        "no host": request_https(ip, policy.name, f"GET {policy.path} HTTP/1.0\r\n\r\n"),
        "two hosts": request_https(
            ip, policy.name, f"GET {policy.path} HTTP/1.1\r\nHost: {policy.name}\r\nHost: x\r\n\r\n"
        ),
        "another's path": request_https(ip, policy.name, compose_request(policy, path=config.path)),
        "the root": request_https(ip, policy.name, compose_request(policy, path="/")),
        "another spelling": request_https(ip, policy.name, compose_request(policy, path=policy.path.upper())),
        "a path that leads out": request_https(
            ip, policy.name, compose_request(policy, path=f"{policy.path}/../../../nginx.conf")
        ),
        "a path out of the root": request_https(ip, policy.name, compose_request(policy, path="/../../etc/passwd")),
        "what nginx uses itself": request_https(ip, outlook.name, compose_request(outlook, path="/answer")),
        **{
            f"{method} of {page.name}": request_https(ip, page.name, compose_request(page, method))
            for page, methods in ((policy, "POST PUT HEAD OPTIONS DELETE TRACE"), (outlook, "PUT HEAD OPTIONS"))
            for method in methods.split()
        },
        "a large body": request_https(ip, outlook.name, compose_request(outlook, "POST", body="x" * 20_000)),
        "a large header": request_https(ip, policy.name, compose_request(policy)[:-2] + f"X: {'x' * 9000}\r\n\r\n"),
        "not HTTP": request_https(ip, policy.name, "EHLO mx.evil.test\r\n\r\n"),
        "HTTP/2": request_https(ip, policy.name, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "no TLS": request_https(ip, None, compose_request(policy)),
    }
    assert {asked: answer for asked, answer in refused.items() if answer} == {}
    assert is_served(web_site, policy)


CROWD = """
import signal, socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
connections = []
for number in range(600):
    connection = socket.create_connection(("{ip}", 443), 10)
    if number < 100:
        connection = context.wrap_socket(connection, server_hostname="{name}")
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: ")
    connections.append(connection)
print("held", flush=True)
signal.pause()
"""


def test_600_silent_connections_do_not_keep_other_clients_out(web_site: Site, attacker: Attacker) -> None:
    page = find_page(web_site, "mta-sts")
    attacker.write("/root/crowd.py", CROWD.format(ip=web_site.server.ip, name=page.name))
    attacker.run("systemd-run --quiet --unit=crowd --collect python3 /root/crowd.py")
    try:
        poll(lambda: "held" in attacker.run("journalctl -u crowd -o cat").stdout, 20, "the crowd is not there")
        assert poll(lambda: is_served(web_site, page), 10, "others are kept out")
    finally:
        attacker.run("systemctl stop crowd")


def find_weaknesses(site: Site) -> set[str]:
    """The powers of an attacker who took over the process that talks to clients, tried from inside its sandbox."""
    worker = "pgrep --full '^nginx: worker process$'"
    [pid] = poll(lambda: site.server.run(worker, check=False).stdout.split(), 10, "nginx has no worker")
    status = dict(line.split(":\t", 1) for line in site.server.run(f"cat /proc/{pid}/status").stdout.splitlines())
    as_worker = f"nsenter --target {pid} --mount setpriv --reuid {status['Uid'].split()[0]} --clear-groups"

    def succeeds(command: str) -> bool:
        return not site.server.run(f"{command} 2>&1", check=False).returncode

    return {
        name
        for name, is_weak in {
            "it has capabilities": int(status["CapEff"], 16) != 0,
            "it can gain privileges": status["NoNewPrivs"] != "1",
            "even root can write there": succeeds(f"nsenter --target {pid} --mount touch /usr/x /etc/x /var/lib/x"),
            "it reads the key": succeeds(f"{as_worker} cat {certificates.PEM}"),
            "it reads what is at home": succeeds(f"{as_worker} ls /root/.ssh"),
        }.items()
        if is_weak
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


def test_an_attacker_who_takes_over_the_web_server_has_no_power(web_site: Site) -> None:
    assert find_weaknesses(web_site) == set()
    web_site.server.run(NO_SANDBOX)
    without = find_weaknesses(web_site)
    web_site.server.run(f"rm -r /run/systemd/system/{web.SERVICE}.d /usr/x /etc/x /var/lib/x; systemctl daemon-reload")
    assert_success(web_site.deploy())
    web_site.server.run(f"systemctl restart {web.SERVICE}")
    assert len(without) == 5
    assert find_weaknesses(web_site) == set()


def test_verify_passes_and_notices_wrong_pages_extra_answers_and_weak_tls(web_site: Site) -> None:
    def list_failed() -> set[str]:
        return {
            outcome.check for outcome in verify_inventory(web_site.inventory) if outcome.status in ("failed", "warning")
        }

    assert list_failed() == set()
    web_site.server.run(f"""
sed -i 's/return 444;/return 200 "Hello.";/' {web.CONF}
sed -i 's/TLSv1.2 TLSv1.3/TLSv1 TLSv1.1 TLSv1.2/; s/^\\(.ssl_ciphers\\) .*/\\1 ALL:@SECLEVEL=0;/' {web.CONF}
echo 'mode: none' > {web.PAGES}/mta-sts.example.test
systemctl reload mailkeep-web""")
    broken = list_failed()
    assert_success(web_site.deploy())
    assert broken == {
        "what_is_served_over_https_can_be_had",
        "nothing_else_is_served_over_https",
        "old_tls_is_refused",
        "weak_ciphers_are_refused",
    }


# --- changes


def read_main_pid(site: Site) -> str:
    return site.server.run(f"systemctl show --value --property=MainPID {web.SERVICE}").stdout.strip()


def test_a_broken_configuration_reaches_neither_the_disk_nor_the_service(web_site: Site, tmp_path: Path) -> None:
    before, page = read_main_pid(web_site), find_page(web_site, "mta-sts")
    good = web_site.server.run(f"cat {web.CONF}").stdout
    (tmp_path / "broken").write_text(json.dumps({web.CONF: good.replace("return 444;", "return four;", 1)}))
    command = web_site.deploy_command(BROKEN_DEPLOY)
    result = subprocess.run(
        [*command, "--data", f"broken={tmp_path / 'broken'}"], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert f"web: refused, and nothing was put in place: {web.CONF}" in result.stdout + result.stderr
    assert "invalid return code" in result.stdout + result.stderr
    assert web_site.server.run(f"cat {web.CONF}").stdout == good

    # A configuration that is broken on the server itself fails the reload, and changes nothing.
    web_site.server.run(f"echo nonsense >> {web.CONF}")
    assert web_site.server.run(f"systemctl reload {web.SERVICE}", check=False).returncode != 0
    assert is_served(web_site, page)
    assert_success(web_site.deploy())
    assert is_served(web_site, page)
    assert read_main_pid(web_site) == before


def test_a_new_certificate_and_a_removed_page_need_only_a_reload(
    web_site: Site, internet: Internet, certificate_directory: Path
) -> None:
    before, config = read_main_pid(web_site), find_page(web_site, "autoconfig")
    bring_certificate(web_site, internet, certificate_directory)
    change_settings(web_site, web={"autoconfig": False})
    assert_success(web_site.deploy())
    brought = (certificate_directory / "web.pem").read_text()
    hello = f"openssl s_client -connect {web_site.server.ip}:443 -servername mta-sts.example.test < /dev/null"
    shown = f"{hello} 2> /dev/null | openssl x509"
    poll(lambda: internet.run(shown, check=False).stdout == brought, 10, "another certificate is shown")
    assert poll(
        lambda: not request_https(str(web_site.server.ip), config.name, compose_request(config)),
        5,
        "it is still served",
    )
    assert is_served(web_site, find_page(web_site, "mta-sts"))
    assert read_main_pid(web_site) == before


def test_the_web_server_runs_again_after_a_reboot(web_site: Site) -> None:
    web_site.server.restart()
    assert is_served(web_site, find_page(web_site, "mta-sts"))
    assert not web_site.server.run("ss -Hlnt 'sport = :80'").stdout


def test_mail_does_not_depend_on_the_web_server(web_site: Site) -> None:
    web_site.server.run(f"systemctl stop {web.SERVICE}; rm /usr/sbin/nginx; systemctl restart postfix dovecot")
    assert is_accepted(log_in(str(web_site.server.ip), 465, ANNA, web_site.passphrases[ANNA]))
    assert is_accepted(log_in(str(web_site.server.ip), 993, ANNA, web_site.passphrases[ANNA]))
    web_site.server.run("apt-get -qq install --reinstall -y nginx 2>&1")
    assert_success(web_site.deploy())
    assert is_served(web_site, find_page(web_site, "mta-sts"))


def test_nothing_of_the_web_server_is_left_when_it_is_switched_off(web_site: Site, attacker: Attacker) -> None:
    """Comes last: from here on this module's server has no web server."""
    assert run_on(attacker, open_ports, str(web_site.server.ip), 443, 443) == [443]
    change_settings(web_site, dns={}, web={})
    assert_success(web_site.deploy())
    assert run_on(attacker, open_ports, str(web_site.server.ip), 443, 443) == []
    left = web_site.server.run("""
find /etc/mailkeep/web /run/mailkeep-web ! -type d
find /etc/systemd /run/systemd -name '*mailkeep-web*'
pgrep -l nginx
nft list chain inet mailkeep input | grep 443
systemctl is-enabled nginx mailkeep-web 2>&1
true""").stdout
    assert left.split() == ["disabled", "not-found"]
    assert assert_success(web_site.deploy()).changed == []
    assert {
        outcome.check for outcome in verify_inventory(web_site.inventory) if outcome.status in ("failed", "warning")
    } == set()
