"""Several mail servers with the same accounts count together in one Valkey; without it, each counts alone."""

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

MAX_MESSAGES = 6  # messages in ten minutes
NAMES = ("cara", "dora", "emil", "fritz")
FROZEN = "/var/lib/mailkeep-guard/frozen/accounts"


def address_of(name: str) -> str:
    return f"{name}@example.test"


@dataclass(frozen=True)
class ServerPair:
    """Two mail servers and the store between them."""

    servers: tuple[Server, Server]
    store: Internet
    password: str
    key: str

    def run_valkey(self, command: str) -> str:
        script = f"read -r REDISCLI_AUTH && export REDISCLI_AUTH && valkey-cli {command}"
        return self.store.run(script, stdin=f"{self.key}\n").stdout

    def send_message(self, name: str, server: Server) -> str:
        sender = address_of(name)
        text = compose_message(sender, OUTSIDE, f"from {name}")
        return deliver_message(str(server.ip), SUBMISSIONS, sender, [OUTSIDE], text, login=(sender, self.password))

    def read_store_events(self, server: Server) -> list[str]:
        events = json.loads(server.run("mailkeepctl events --json").stdout)["events"]
        return [event["detail"] for event in events if event["kind"] == "store"]


@pytest.fixture(scope="module")
def server_pair(lab: Lab, internet: Internet, built_site: Site, built_image: str) -> Iterator[ServerPair]:
    key = passwords.generate_password()
    listen = f"bind 0.0.0.0\nprotected-mode no\nrequirepass {key}\nsave ''\n"
    internet.run("cat > /etc/valkey/valkey.conf && systemctl restart valkey-server", stdin=listen)
    password = passwords.generate_password()
    hashed = passwords.hash_password(password)
    servers = []
    for name in ("one", "two"):
        site = built_site.copy_for(lab.boot_server(name, hostname="mail.example.test", image=built_image))
        settings = yaml.safe_load(site.settings_file.read_text())
        settings["accounts"] += [{"address": address_of(person), "password": hashed} for person in NAMES]
        settings["guard"] = {
            "limits": {"messages_per_10_minutes": MAX_MESSAGES},
            "shared_store": {"host": str(internet.ip), "tls": False},
        }
        site.settings_file.write_text(yaml.safe_dump(settings))
        save_shared_store_password(site.inventory, key)
        result = site.deploy()
        assert result.code == 0, result.output
        servers.append(site.server)
    yield ServerPair((servers[0], servers[1]), internet, password, key)
    internet.run("systemctl stop valkey-server")
    for server in servers:
        server.remove()


def is_frozen(name: str, server: Server) -> bool:
    return address_of(name) in server.run(f"cat {FROZEN}").stdout


def send_at_both(server_pair: ServerPair, name: str, times: int) -> int:
    """Send so many messages at each server, all at once; the number accepted."""
    with ThreadPoolExecutor(2 * times) as pool:
        futures = [
            pool.submit(server_pair.send_message, name, server) for server in server_pair.servers for _ in range(times)
        ]
        return sum(is_accepted(future.result()) for future in futures)


def test_exactly_the_limit_is_accepted_at_both_together(server_pair: ServerPair) -> None:
    assert send_at_both(server_pair, "cara", MAX_MESSAGES) == MAX_MESSAGES


def test_messages_counted_by_a_clock_that_was_ahead_count_from_now_and_no_longer_than_others(
    server_pair: ServerPair,
) -> None:
    tomorrow = int(time.time() + 86_400) * 1000
    server_pair.run_valkey(f"ZADD mailkeep:sent:{address_of('fritz')} {tomorrow} a:1:1 {tomorrow} b:1:1")
    assert send_at_both(server_pair, "fritz", MAX_MESSAGES) == MAX_MESSAGES - 2
    assert str(tomorrow) not in server_pair.run_valkey(f"ZRANGE mailkeep:sent:{address_of('fritz')} 0 -1 WITHSCORES")


def test_a_freeze_and_a_thaw_on_one_server_reach_the_other(server_pair: ServerPair) -> None:
    first, second = server_pair.servers
    first.run(f"mailkeepctl freeze {address_of('dora')} --why 'sends spam'")
    poll(lambda: is_frozen("dora", second), 20, "not frozen on the other server")
    assert "sends spam" in second.run(f"cat {FROZEN}").stdout
    second.run(f"mailkeepctl thaw {address_of('dora')}")
    poll(lambda: not is_frozen("dora", first), 20, "still frozen on the first server")


def test_a_store_that_lost_its_data_thaws_nobody_and_gets_the_freezes_again(server_pair: ServerPair) -> None:
    first, second = server_pair.servers
    first.run(f"mailkeepctl freeze {address_of('dora')}")
    poll(lambda: is_frozen("dora", second), 20, "not frozen on the other server")
    server_pair.run_valkey("FLUSHALL")
    poll(
        lambda: address_of("dora") in server_pair.run_valkey("HKEYS mailkeep:frozen"),
        20,
        "the store does not get it again",
    )
    first.run(f"mailkeepctl freeze {address_of('fritz')}")  # a later change reaches both servers, and dora stays frozen
    poll(lambda: is_frozen("fritz", second), 20, "not frozen on the other server")
    assert is_frozen("dora", first)
    assert is_frozen("dora", second)
    for name in ("dora", "fritz"):
        second.run(f"mailkeepctl thaw {address_of(name)}")
    poll(lambda: not any(is_frozen(name, first) for name in ("dora", "fritz")), 20, "still frozen on the first server")


def test_without_the_store_each_server_counts_alone_and_the_operator_is_told(server_pair: ServerPair) -> None:
    server_pair.store.run("systemctl stop valkey-server")
    try:
        start = time.monotonic()
        assert is_accepted(server_pair.send_message("emil", server_pair.servers[0]))
        assert time.monotonic() - start < 10
        assert send_at_both(server_pair, "emil", MAX_MESSAGES + 1) == 2 * MAX_MESSAGES - 1
        assert "goes by its own count" in server_pair.read_store_events(server_pair.servers[0])[-1]
    finally:
        server_pair.store.run("systemctl start valkey-server")
    poll(
        lambda: "answers again" in server_pair.read_store_events(server_pair.servers[0])[-1],
        15,
        "no event says that the store is back",
    )
