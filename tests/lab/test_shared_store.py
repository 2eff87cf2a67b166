"""Several mail servers of the same accounts count together, in one Valkey; when it is away, each counts for itself."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import yaml
from clients import OUTSIDE, SUBMISSIONS, compose_message, deliver_message, is_accepted

from mailkeep.inventory import passwords
from mailkeep.inventory.credentials import save_shared_store_password
from mailkeep.lab import Internet, Lab, Server, poll
from mailkeep.lab.site import Site

MOST = 6  # messages in ten minutes
NAMES = ("cara", "dora", "emil", "fritz")
FROZEN = "/var/lib/mailkeep-guard/frozen/accounts"


def address(name: str) -> str:
    return f"{name}@example.test"


@dataclass(frozen=True)
class Pair:
    """Two mail servers and the store between them."""

    servers: tuple[Server, Server]
    store: Internet
    password: str
    key: str

    def valkey(self, command: str) -> str:
        script = f"read -r REDISCLI_AUTH && export REDISCLI_AUTH && valkey-cli {command}"
        return self.store.run(script, stdin=f"{self.key}\n").stdout

    def send(self, name: str, server: Server) -> str:
        sender = address(name)
        text = compose_message(sender, OUTSIDE, f"from {name}")
        return deliver_message(str(server.ip), SUBMISSIONS, sender, [OUTSIDE], text, login=(sender, self.password))

    def events(self, server: Server) -> list[str]:
        events = json.loads(server.run("mailkeepctl events --json").stdout)["events"]
        return [event["detail"] for event in events if event["kind"] == "store"]


@pytest.fixture(scope="module")
def pair(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[Pair]:
    key = passwords.generate_password()
    listen = f"bind 0.0.0.0\nprotected-mode no\nrequirepass {key}\nsave ''\n"
    internet.run("cat > /etc/valkey/valkey.conf && systemctl restart valkey-server", stdin=listen)
    password = passwords.generate_password()
    hashed = passwords.hash_password(password)
    servers = []
    for name in ("one", "two"):
        site = built_site.copy_for(lab.boot_server(name, hostname="mail.example.test", image=built_image))
        declared = yaml.safe_load(site.settings_file.read_text())
        declared["accounts"] += [{"address": address(person), "password": hashed} for person in NAMES]
        declared["guard"] = {
            "limits": {"messages_per_10_minutes": MOST},
            "shared_store": {"host": str(internet.ip), "tls": False},
        }
        site.settings_file.write_text(yaml.safe_dump(declared))
        save_shared_store_password(site.inventory, key)
        said = site.deploy()
        assert said.code == 0, said.output
        servers.append(site.server)
    yield Pair((servers[0], servers[1]), internet, password, key)
    internet.run("systemctl stop valkey-server")
    for server in servers:
        server.remove()


def frozen(name: str, server: Server) -> bool:
    return address(name) in server.run(f"cat {FROZEN}").stdout


def at_both(pair: Pair, name: str, times: int) -> int:
    """How many of so many messages at each server are accepted, all sent at once."""
    with ThreadPoolExecutor(2 * times) as pool:
        sent = [pool.submit(pair.send, name, server) for server in pair.servers for _ in range(times)]
        return sum(is_accepted(one.result()) for one in sent)


def test_exactly_the_limit_is_accepted_at_both_together(pair: Pair) -> None:
    assert at_both(pair, "cara", MOST) == MOST


def test_what_was_counted_by_a_clock_that_was_ahead_counts_now_and_no_longer_than_it_should(pair: Pair) -> None:
    tomorrow = int(time.time() + 86_400) * 1000
    pair.valkey(f"ZADD mailkeep:sent:{address('fritz')} {tomorrow} a:1:1 {tomorrow} b:1:1")
    assert at_both(pair, "fritz", MOST) == MOST - 2
    assert str(tomorrow) not in pair.valkey(f"ZRANGE mailkeep:sent:{address('fritz')} 0 -1 WITHSCORES")


def test_who_is_frozen_on_one_is_on_the_other_and_thawed_too(pair: Pair) -> None:
    one, two = pair.servers
    one.run(f"mailkeepctl freeze {address('dora')} --why 'sends spam'")
    poll(lambda: frozen("dora", two), 20, "not frozen on the other server")
    assert "sends spam" in two.run(f"cat {FROZEN}").stdout
    two.run(f"mailkeepctl thaw {address('dora')}")
    poll(lambda: not frozen("dora", one), 20, "still frozen on the first server")


def test_a_store_that_has_lost_all_thaws_nobody_and_hears_it_again(pair: Pair) -> None:
    one, two = pair.servers
    one.run(f"mailkeepctl freeze {address('dora')}")
    poll(lambda: frozen("dora", two), 20, "not frozen on the other server")
    pair.valkey("FLUSHALL")
    poll(lambda: address("dora") in pair.valkey("HKEYS mailkeep:frozen"), 20, "the store does not hear of it again")
    one.run(f"mailkeepctl freeze {address('fritz')}")  # a later change has reached both, and dora stays
    poll(lambda: frozen("fritz", two), 20, "not frozen on the other server")
    assert frozen("dora", one)
    assert frozen("dora", two)
    for name in ("dora", "fritz"):
        two.run(f"mailkeepctl thaw {address(name)}")
    poll(lambda: not any(frozen(name, one) for name in ("dora", "fritz")), 20, "still frozen on the first server")


def test_without_the_store_each_counts_for_itself_and_the_operator_is_told(pair: Pair) -> None:
    pair.store.run("systemctl stop valkey-server")
    try:
        start = time.monotonic()
        assert is_accepted(pair.send("emil", pair.servers[0]))
        assert time.monotonic() - start < 10
        assert at_both(pair, "emil", MOST + 1) == 2 * MOST - 1
        assert "goes by its own count" in pair.events(pair.servers[0])[-1]
    finally:
        pair.store.run("systemctl start valkey-server")
    poll(lambda: "answers again" in pair.events(pair.servers[0])[-1], 15, "it is not told that the store is back")
