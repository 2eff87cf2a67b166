"""A machine with much on it that is not Mailkeep's: each thing is told by plan, verify or the watch, or is no trouble.

Many things are put on one machine. What is said of each must be said, and nothing else.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
import yaml
from foreign_things import (
    BEFORE,
    CLOUD_INIT_HOSTS,
    HARMLESS,
    NO_IPV6,
    NOEXEC_TMP,
    RESOLVED,
    TROUBLESOME,
    Thing,
    join_scripts,
)

from mailkeep.host.plan import print_plan
from mailkeep.lab import Internet, Lab, LabError, Server, poll
from mailkeep.lab.site import Site, create_site
from mailkeep.parts import mail_server
from mailkeep.verify.outcome import Outcome
from mailkeep.verify.verification import verify_inventory

Boot = Callable[..., Server]
WATCH_SECONDS = 60.0
"""The watch asks the services every 25 seconds, and once more after 8 before it reports."""
OPEN_PORTS = [80, 443, 8080]
"""Those of the web server and the container that mail.yml declares."""


@pytest.fixture(scope="module")
def machine_image(lab: Lab, built_site: Site, built_image: str) -> Iterator[tuple[Site, str]]:
    """A copy of the built server with addresses of its own, and its disk. It must be the only one with them."""
    server = lab.boot_server("machine", hostname="mail.example.test", image=built_image)
    server.run("export DEBIAN_FRONTEND=noninteractive; apt-get -qq update && apt-get -qq install -y iptables 2>&1")
    site = built_site.copy_for(server)
    declare(site, addresses=[str(server.ip), str(server.ip6)])
    deployed = site.deploy()
    assert deployed.code == 0, deployed.output
    server.run("systemctl start mailkeep-jails; systemctl start mailkeep-jails")  # the first may join a proof that runs
    yield site, site.bake("machine")
    server.remove()


@pytest.fixture
def machine(lab: Lab, machine_image: tuple[Site, str]) -> Site:
    """That machine, as it was."""
    site, image = machine_image
    site = replace(site, server=lab.reset_server(site.server, image))
    declare(site, addresses=[str(site.server.ip), str(site.server.ip6)])
    site.server.write("/etc/resolv.conf", find_content(site, "/etc/resolv.conf"))
    return site


def test_each_foreign_thing_is_told_before_the_first_deploy_or_is_no_trouble(
    lab: Lab, base_server: Boot, capsys: pytest.CaptureFixture[str]
) -> None:
    site = create_site(lab, base_server("vps", hostname="mail"))
    site.server.run(join_scripts(BEFORE))

    texts = read_plan(site, capsys)

    phrases = [phrase for thing in BEFORE for phrase in thing.plan]
    assert find_missing(phrases, texts) == []
    assert find_unexplained(texts, phrases) == []


def test_harmless_things_are_no_trouble_and_additions_are_named(
    machine: Site, internet: Internet, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.time()
    machine.server.run(join_scripts(HARMLESS))

    compare_outcomes(verify_inventory(machine.inventory), HARMLESS)

    assert read_plan(machine, capsys) == []
    assert read_troubles(machine) == []
    machine.server.run("echo Subject: hello | sendmail -f root@mail.example.test foreign@outside.test")
    message = internet.wait_for(lambda received: received.recipients == ("foreign@outside.test",))
    assert message.peer in map(str, machine.settings.host.addresses)
    alerts = [mail.data for mail in internet.read_messages() if mail.time > start and b"firewall" in mail.data]
    assert alerts == []


def test_each_troublesome_thing_is_told_by_verify_and_by_the_watch(machine: Site, internet: Internet) -> None:
    places = {"OUTSIDE": str(internet.ip), "ADDRESS6": str(machine.server.ip6)}
    machine.server.run(fill_in(join_scripts(TROUBLESOME), places))

    outcomes = verify_inventory(machine.inventory)

    watched = [fill_in(thing.watch, places) for thing in TROUBLESOME if thing.watch]
    with suppress(LabError):
        poll(lambda: find_missing(watched, read_troubles(machine)) == [], WATCH_SECONDS, "not all told")
    troubles = read_troubles(machine)
    assert find_missing(watched, troubles) == [], troubles
    assert find_unexplained(troubles, watched) == []
    # The watch may not yet have told verify.
    compare_outcomes([outcome for outcome in outcomes if "watch_finds" not in outcome.check], TROUBLESOME, places)


def test_a_server_is_deployed_and_well_without_ipv6_and_with_cloud_inits_files(machine: Site) -> None:
    declare(machine, addresses=[str(machine.server.ip)])
    machine.server.run("\n".join((RESOLVED, CLOUD_INIT_HOSTS, NOEXEC_TMP, NO_IPV6)))

    deployed = machine.deploy()
    assert deployed.code == 0, deployed.output
    machine.server.restart()
    machine.server.run("test -f /etc/resolv.conf -a ! -L /etc/resolv.conf")

    # The imitation of such a kernel is a drop-in of all services.
    compare_outcomes(
        verify_inventory(machine.inventory),
        [Thing("", "", verify={"nothing_was_added_to_the_services?": ("service.d/no6.conf@",)})],
    )


def test_a_bare_machine_without_ipv6_becomes_a_server(lab: Lab, internet: Internet, base_server: Boot) -> None:
    """Every service sees no IPv6, from the installation of its package on."""
    server = base_server("four", hostname="mail.example.test")
    internet.resolve_for(server)
    site = create_site(lab, server)
    declare(site, addresses=[str(server.ip)])
    server.run(f"{NO_IPV6}; systemctl daemon-reload")
    server.restart()

    deployed = site.deploy()
    assert deployed.code == 0, deployed.output
    rerun = site.deploy()
    assert (rerun.code, rerun.changed) == (0, []), rerun.output

    failed = {
        outcome.check: outcome.observed for outcome in verify_inventory(site.inventory) if outcome.status == "failed"
    }
    assert failed == {}
    assert read_troubles(site) == []


def declare(site: Site, addresses: list[str]) -> None:
    settings = yaml.safe_load(site.settings_file.read_text())
    settings["host"]["addresses"] = addresses
    settings["firewall"] = {"open": OPEN_PORTS}
    site.settings_file.write_text(yaml.safe_dump(settings))


def find_content(site: Site, path: str) -> bytes:
    """The declared content of the file at this path."""
    parts = mail_server.build_parts(site.settings, site.secrets)
    return next(file.content for part in parts for file in part.files if file.path == path)


def read_plan(site: Site, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Problems and warnings."""
    capsys.readouterr()
    print_plan(site.inventory, json=True)
    [host] = json.loads(capsys.readouterr().out)["hosts"].values()
    assert host["error"] == ""
    return [*host["problems"], *host["warnings"]]


def read_troubles(site: Site) -> list[str]:
    reports = json.loads(site.server.run("cat /run/mailkeep-watch/looked.json").stdout)
    return [text for report in reports.values() for text in (*report["troubles"], report["error"]) if text]


def fill_in(text: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def compare_outcomes(
    outcomes: Iterable[Outcome], things: Iterable[Thing], places: dict[str, str] | None = None
) -> None:
    """Exactly the things' checks fail and warn, with all their phrases, and each line of additions is one of them."""
    told = {
        outcome.check + ("?" if outcome.status == "warning" else ""): outcome.observed
        for outcome in outcomes
        if outcome.status in ("failed", "warning")
    }
    phrases: dict[str, list[str]] = {}
    for thing in things:
        for check, texts in thing.verify.items():
            phrases.setdefault(check, []).extend(fill_in(text, places or {}) for text in texts)
    assert set(told) == set(phrases), json.dumps(told, indent=1)
    for check, observed in told.items():
        assert find_missing(phrases[check], [observed]) == [], observed
        assert find_unexplained(observed.splitlines(), phrases[check]) == []


def find_missing(phrases: Iterable[str], texts: Iterable[str]) -> list[str]:
    together = "\n".join(texts)
    return [phrase for phrase in phrases if phrase not in together]


def find_unexplained(texts: Iterable[str], phrases: Iterable[str]) -> list[str]:
    phrases = list(phrases)
    return [text for text in texts if not any(phrase in text for phrase in phrases)]
