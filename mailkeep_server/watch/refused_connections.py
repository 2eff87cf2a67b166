"""Connections to mail servers elsewhere that the firewall has refused, because there were too many (guard.leaving)."""

import json
from typing import Any

from mailkeep_server.common.commands import run
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor

COMMENT = "leaving"
"""Of the rule, in /etc/nftables.conf."""


class RefusedConnections(Sensor):
    name, interval = "connections", 30.0

    def __init__(self) -> None:
        self.refused: int | None = None
        """By the rule's counter, at the last sample."""

    def find_troubles(self) -> Troubles:
        before = self.refused
        try:
            self.refused = read_counter(run("nft", "-j", "list", "chain", "inet", "mailkeep", "output"))
        except RuntimeError:  # without its table, the firewall itself is a trouble, which its sensor tells
            self.refused = None
        if before is None or self.refused is None or self.refused <= before:  # a reload begins anew
            return {}
        text = (
            f"The firewall refuses connections to port 25 elsewhere: {self.refused - before} in {self.interval:.0f} "
            "seconds, beyond guard.leaving.connections_per_hour. Mail waits in the queue. `ss -tnp dport = :25` shows "
            "whose connections they are; a program that is not of Postfix has become its user"
        )
        return {"refused": (text, "The firewall refuses no connections to port 25 elsewhere")}


def read_counter(listing: str) -> int:
    """Packets of the rule, in `nft -j list chain`; 0 if there is no such rule, as before a deploy."""
    rules: list[dict[str, Any]] = [item["rule"] for item in json.loads(listing)["nftables"] if "rule" in item]
    expressions = [part for rule in rules if rule.get("comment") == COMMENT for part in rule["expr"]]
    return sum(int(part["counter"]["packets"]) for part in expressions if "counter" in part)
