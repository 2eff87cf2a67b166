"""A deploy over a server of version 0.1.0 leaves none of its old files behind, and loses nothing that the server holds.

Version 0.1.0 comes from the history of this clone and deploys with its own code, so these tests need a full clone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clients import IMAPS, STRANGER, SUBMISSIONS, compose_message, deliver_message, is_accepted, open_imap, read_mailbox

from mailkeep.lab import Internet, Lab, LabError, Server, poll
from mailkeep.lab.internet import DIRECTORY
from mailkeep.lab.site import DeployResult, Site
from mailkeep.verify.verification import verify_inventory
from mailkeep_server.common.networks import ban_target
from mailkeep_server.common.paths import ADOPTED

CLONE = Path(__file__).resolve().parents[2]
COMMIT = "b7a50b585d14d1ac6d3e852c7d080c81af6c3a8e"  # version 0.1.0
HOST, ANNA, BEN = "mail.example.test", "anna@example.test", "ben@example-two.test"
WAITS = "defer@outside.test"  # the outside world never accepts its mail
BANNED, BANNED6 = "203.0.113.250", "2001:db8:9:9::7"
SETTINGS = f"""
tls: {{mode: acme, acme: {{directory: "{DIRECTORY}"}}}}
dns: {{mta_sts: testing}}
"""
HOSTS = """\
from pathlib import Path

directory = Path(__file__).resolve().parent
hosts = [("{name}", {{"mailkeep": str(directory / "mail.yml"), "ssh_config_file": "{ssh_config}"}})]
"""
CREATE_INVENTORY = """\
import sys
from pathlib import Path

from mailkeep import demo

demo.materialise(*map(Path, sys.argv[1:]))
"""
LIST_PATHS = """
find /etc /usr/local /usr/lib/mailkeep* /var/lib/mailkeep* /var/lib/private -xdev ! -path '/etc/ssl/certs/*' | sort
systemctl list-unit-files --no-legend --plain | cut -d' ' -f1,2 | sort
systemctl list-units --all --no-legend --plain 'mailkeep*' | cut -d' ' -f1 | sort
find /run -xdev -path '/run/mailkeep*' -type d | sort
getent passwd | cut -d: -f1,6,7 | sort
"""
OLD_PLACES = ("/usr/lib/mailkeep/guard", "/usr/lib/mailkeep-acme", "/usr/lib/mailkeep-dns")
READ_MAILBOXES = "cd /var/vmail && find . -type f -path '*/new/*' -o -type f -path '*/cur/*' | sort | xargs sha256sum"


@dataclass(frozen=True)
class HeldState:
    """The data of a server that no deploy may change."""

    mailboxes: list[str]
    queue: dict[str, tuple[str, str]]
    """Sender and queue of each message, by its queue id."""
    used: dict[str, dict[str, int]]
    """How much each account has used of each of its limits."""
    frozen: str
    samples: str
    banned: str
    dns: Any
    renewal: Any
    certificate: str


@dataclass(frozen=True)
class Upgrade:
    """A server of version 0.1.0 after the deploy of this version, and its state before and after."""

    site: Site
    result: DeployResult
    before: HeldState
    after: HeldState
    new_paths: set[str]
    """The paths, units and users of a server that this version built with the same inventory."""

    def compare_paths(self) -> tuple[set[str], set[str]]:
        """What only this server has, and what only the new one has. Samples of mail lie where mail was held."""
        paths = list_paths(self.site.server)
        samples = {path for path in paths if path.startswith("/var/lib/mailkeep-watch/samples")}
        return paths - self.new_paths - samples, self.new_paths - paths


@pytest.fixture(scope="module")
def former_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of version 0.1.0."""
    tree = tmp_path_factory.mktemp("version-0.1.0")
    archive = subprocess.run(["git", "archive", COMMIT], cwd=CLONE, capture_output=True, check=False)
    if archive.returncode:
        reason = archive.stderr.decode(errors="replace").strip()
        pytest.fail(f"version 0.1.0 is not in this clone's history; `git fetch --unshallow`: {reason}", pytrace=False)
    subprocess.run(["tar", "--extract", "--directory", str(tree)], input=archive.stdout, check=True)
    return tree


def run_former(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the code of version 0.1.0, which comes before this version on Python's path."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=900)


def create_former_inventory(tree: Path, lab: Lab, server: Server) -> Site:
    """An inventory for `server` that version 0.1.0 creates, with every part: ACME and the HTTPS server too."""
    source, target = lab.state / "former-declared", lab.state / "former-inventory"
    source.mkdir(parents=True)
    text = (tree / "inventories" / "demo" / "mail.yml").read_text() + SETTINGS
    text = text.replace("198.51.100.10", str(server.ip)).replace("2001:db8:100::10", str(server.ip6))
    (source / "mail.yml").write_text(text.replace("198.51.100.1/32", f"{lab.ipv4_address(1)}/32"))
    (source / "inventory.py").write_text(HOSTS.format(name=server.name, ssh_config=server.ssh_config.resolve()))
    created = run_former(tree, sys.executable, "-c", CREATE_INVENTORY, str(source), str(target))
    assert created.returncode == 0, created.stderr
    return Site(server, target, json.loads((target / "logins.json").read_text()))


def boot_upgraded(lab: Lab, internet: Internet, **options: Any) -> Server:
    server = lab.boot_server("upgraded", hostname=HOST, **options)
    internet.resolve_for(server)
    internet.trust_authority(server)
    return server


def list_paths(server: Server) -> set[str]:
    return set(server.run(LIST_PATHS).stdout.splitlines())


def build_new(site: Site, lab: Lab, internet: Internet, image: str) -> set[str]:
    """Deploy this version, with a copy of the inventory, to a server that it built; the server's paths."""
    server = boot_upgraded(lab, internet, ip=site.server.ip, image=image)
    result = site.deploy()
    assert result.code == 0, result.output
    run_timers(site)
    return list_paths(server)


def run_timers(site: Site) -> None:
    """Run the hourly and daily jobs, and wait for the certificate."""
    site.server.run("systemctl start mailkeep-certificate mailkeep-dns mailkeep-jails")
    poll(lambda: "Pebble" in read_issuer(site.server), 60, "there is no certificate")


def read_issuer(server: Server) -> str:
    return server.run("openssl x509 -noout -issuer -in /etc/mailkeep/tls/server.pem").stdout


def simulate_use(site: Site, internet: Internet) -> None:
    """Receive mail, queue more, freeze an account that has a message in the queue, and ban an address."""
    address = str(site.server.ip)
    for recipient in (ANNA, BEN):
        mail = compose_message(STRANGER, recipient, "before the upgrade").encode()
        assert internet.send(STRANGER, recipient, address, mail).code == 250
    for sender in (ANNA, ANNA, BEN):
        text, login = compose_message(sender, WAITS, "waits"), (sender, site.passphrases[sender])
        assert is_accepted(deliver_message(address, SUBMISSIONS, sender, [WAITS], text, login=login))
    poll(lambda: len(read_queue(site.server, "deferred")) == 3, 30, "the messages do not wait")
    poll(lambda: len(site.server.run(READ_MAILBOXES).stdout.splitlines()) == 2, 30, "the mail has not arrived")
    site.server.run(f"mailkeepctl freeze {BEN} --why 'sends spam'")
    site.server.run(f"fail2ban-client set dovecot banip {BANNED} {BANNED6}")


def read_queue(server: Server, *queues: str) -> dict[str, tuple[str, str]]:
    """The messages that the accounts have sent; the watch's alerts come and go."""
    messages = map(json.loads, server.run("postqueue -j").stdout.splitlines())
    return {
        entry["queue_id"]: (entry["sender"], entry["queue_name"])
        for entry in messages
        if entry["sender"] in (ANNA, BEN) and (not queues or entry["queue_name"] in queues)
    }


def read_state(server: Server) -> HeldState:
    # Version 0.1.0 called it `status`.
    limits = json.loads(server.run("mailkeepctl limits --json 2>/dev/null || mailkeepctl status --json").stdout)
    return HeldState(
        mailboxes=server.run(READ_MAILBOXES).stdout.splitlines(),
        queue=read_queue(server),
        used={
            account["account"]: {limit["limit"]: limit["used"] for limit in account["limits"]}
            for account in limits["accounts"]
        },
        frozen=server.run("cat /var/lib/mailkeep-guard/frozen/accounts").stdout,
        samples=server.run("cd /var/lib/mailkeep-watch/samples && find . -type f | xargs sha256sum").stdout,
        banned=server.run(f"nft list ruleset | grep -o {BANNED}").stdout,
        dns=read_dns_baseline(server),
        renewal=json.loads(server.run("cat /var/lib/mailkeep-certificate/state.json").stdout),
        certificate=server.run("cat /etc/mailkeep/tls/server.pem | sha256sum").stdout,
    )


def read_dns_baseline(server: Server) -> Any:
    """The values of the DNS records that the daily check compares with; the file had another name in version 0.1.0."""
    files = "cd /var/lib/mailkeep-dns && cat baseline.json || cat /var/lib/mailkeep-dns/seen.json"
    return json.loads(server.run(files).stdout)["records"]


@pytest.fixture(scope="module")
def upgraded(lab: Lab, internet: Internet, built_site: Site, built_image: str, former_tree: Path) -> Iterator[Upgrade]:
    internet.start_authority()
    site = create_former_inventory(former_tree, lab, boot_upgraded(lab, internet))
    site.publish(internet)
    try:
        new_paths = build_new(site, lab, internet, built_image)

        boot_upgraded(lab, internet, ip=site.server.ip)  # a bare machine in its place
        pyinfra = str(Path(sys.executable).with_name("pyinfra"))
        former = run_former(former_tree, pyinfra, str(site.inventory / "inventory.py"), "deploy.py", "-y")
        assert former.returncode == 0, former.stdout + former.stderr
        run_timers(site)
        simulate_use(site, internet)
        before = read_state(site.server)

        result = site.deploy()
        run_timers(site)
        yield Upgrade(site, result, before, read_state(site.server), new_paths)
    finally:  # the other tests of this worker need their own records
        internet.run("systemctl stop authority")
        built_site.publish(internet)
        site.server.remove()


def test_the_server_before_the_upgrade_is_built_by_version_0_1_0(former_tree: Path) -> None:
    program = "import mailkeep, sys; print(mailkeep.__file__)"
    where = run_former(former_tree, sys.executable, "-c", program).stdout
    assert Path(where.strip()).is_relative_to(former_tree)
    assert 'version = "0.1.0"' in (former_tree / "pyproject.toml").read_text()


def test_the_deploy_succeeds_and_a_second_one_changes_nothing(upgraded: Upgrade) -> None:
    assert upgraded.result.code == 0, upgraded.result.output
    rerun = upgraded.site.deploy()
    assert (rerun.code, rerun.changed) == (0, []), rerun.output


def test_exactly_the_files_units_and_directories_of_this_version_exist(upgraded: Upgrade) -> None:
    # The server of version 0.1.0 was built before anything was saved on the way back.
    expected = (set(), {ADOPTED})
    with suppress(LabError):  # a service may just write a file, which has another name until it is whole
        poll(lambda: upgraded.compare_paths() == expected, 20, "the paths differ")
    assert upgraded.compare_paths() == expected
    assert not list_paths(upgraded.site.server) & set(OLD_PLACES)


def test_no_mail_is_lost_from_the_mailboxes_or_the_queue(upgraded: Upgrade) -> None:
    assert upgraded.before.mailboxes
    assert set(upgraded.before.mailboxes) <= set(upgraded.after.mailboxes)  # Anna gets alerts by mail, too
    assert sorted(upgraded.before.queue.values()) == [(ANNA, "deferred"), (ANNA, "deferred"), (BEN, "hold")]
    assert upgraded.after.queue == upgraded.before.queue
    inbox = read_mailbox(str(upgraded.site.server.ip), IMAPS, ANNA, upgraded.site.passphrases[ANNA])
    assert sum(b"Subject: before the upgrade" in mail for mail in inbox) == 1


def test_counters_freezes_samples_and_bans_are_kept(upgraded: Upgrade) -> None:
    assert upgraded.before.used[ANNA]["messages_per_10_minutes"] == 2
    assert upgraded.after.used == upgraded.before.used
    assert BEN in upgraded.before.frozen
    assert "sends spam" in upgraded.before.frozen
    assert upgraded.after.frozen == upgraded.before.frozen
    assert BEN in upgraded.before.samples
    assert upgraded.after.samples == upgraded.before.samples
    assert upgraded.after.banned == upgraded.before.banned
    sets = "nft list ruleset | grep -o '2001:db8:9:9::[^ ,]*'"
    assert upgraded.site.server.run(sets).stdout.split() == [ban_target(BANNED6)], "version 0.1.0 banned the address"


def test_the_certificate_and_the_baseline_of_the_dns_are_kept(upgraded: Upgrade) -> None:
    assert upgraded.after.certificate == upgraded.before.certificate
    assert upgraded.after.renewal == upgraded.before.renewal
    assert upgraded.before.dns
    assert upgraded.after.dns == upgraded.before.dns
    server = upgraded.site.server
    server.run("systemctl start mailkeep-certificate mailkeep-dns")
    journal = "journalctl --sync; journalctl --unit=mailkeep-certificate --output=cat --lines=12"
    assert "No new certificate is needed." in server.run(journal).stdout
    assert json.loads(server.run("cat /var/lib/mailkeep-dns/troubles.json").stdout)["troubles"] == {}
    assert read_dns_baseline(server) == upgraded.before.dns


def test_verify_passes_and_warns_of_the_frozen_account_alone(upgraded: Upgrade) -> None:
    outcomes = verify_inventory(upgraded.site.inventory)
    assert [(outcome.check, outcome.status) for outcome in outcomes if outcome.status in ("failed", "warning")] == [
        ("nobody_is_frozen", "warning")
    ]


def test_the_frozen_account_is_thawed_and_its_held_mail_released(upgraded: Upgrade) -> None:
    server, passphrase = upgraded.site.server, upgraded.site.passphrases[BEN]
    assert "1 message of it still held" in server.run(f"mailkeepctl thaw {BEN}").stdout
    assert "1 message on its way" in server.run(f"mailkeepctl queue release --account {BEN}").stdout
    open_imap(str(server.ip)).login(BEN, passphrase)
