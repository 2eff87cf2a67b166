"""Sensors of what the services find on the machine: mailboxes that can be written, and the declared addresses."""

import pwd
import time
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from mailkeep_server.common import mailboxes
from mailkeep_server.common.own_addresses import find_missing_addresses
from mailkeep_server.common.wording import count_noun
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor


class MailboxSensor(Sensor):
    """Whether all mailboxes belong to `vmail`: a restored one may not, and then its mail waits in the queue.

    A sample goes on where the last one ended, within bounds, so that ten thousand homes cost no more than ten. It also
    looks again at what has a fault.
    """

    name, interval, samples = "mailbox", 10.0, 2
    MAX_PATHS, MAX_SECONDS = 500, 0.1  # of a sample
    MAX_FAULTS = 100

    def __init__(self, accounts: Collection[str], root: str = mailboxes.ROOT) -> None:
        self.accounts, self.root = accounts, root
        self.unread: Iterator[str] = iter(())
        self.faults: dict[str, str] = {}

    def find_troubles(self) -> Troubles:
        uid, end = pwd.getpwnam(mailboxes.USER).pw_uid, time.monotonic() + self.MAX_SECONDS
        for path in [*self.faults]:
            self._judge_path(path, uid)
        for path in self._continue_round():
            self._judge_path(path, uid)
            if time.monotonic() > end:
                break
        return dict(self._describe_faults())

    def _continue_round(self) -> Iterator[str]:
        """The next paths. After the last one, the next sample begins anew."""
        paths = list(islice(self.unread, 1)) or self._begin_round()
        yield from paths
        yield from islice(self.unread, self.MAX_PATHS - 1)

    def _begin_round(self) -> list[str]:
        self.unread = mailboxes.walk_mailboxes(self.accounts, self.root)
        return list(islice(self.unread, 1))

    def _judge_path(self, path: str, uid: int) -> None:
        self.faults.pop(path, None)
        if (fault := mailboxes.find_fault(path, uid)) and len(self.faults) < self.MAX_FAULTS:
            self.faults[path] = fault

    def _describe_faults(self) -> Iterator[tuple[str, tuple[str, str]]]:
        if not self.faults:
            return
        path, fault = min(self.faults.items())
        home = mailboxes.find_home(path, self.root)
        homes = {mailboxes.find_home(path, self.root) for path in self.faults}
        others = f", and {count_noun(len(homes) - 1, 'more mailbox', 'more mailboxes')}" if len(homes) > 1 else ""
        text = (
            f"Mail cannot be stored: {fault}{others}. "
            f"`chown -RH {mailboxes.USER}:{mailboxes.USER} {home}` and `chmod -R u+rwX {home}` mend it"
        )
        yield "owner", (text, "All mailboxes can be written again")


class AddressSensor(Sensor):
    """Whether the machine has the declared addresses. Without a relay host, Postfix sends from the first of each
    family, if it is there."""

    name, interval, samples = "address", 10.0, 3  # an IPv6 address is not usable at once

    def __init__(self, addresses: Sequence[str], *, has_relay: bool) -> None:
        self.addresses, self.has_relay = addresses, has_relay

    def find_troubles(self) -> Troubles:
        return {
            address: (
                f"This machine does not have the address {address} that mail.yml declares: "
                + (
                    f"mail leaves from {source}, and SPF may fail"
                    if source and not self.has_relay
                    else "nobody reaches it there"
                )
                + ". `ip address` shows its addresses",
                f"This machine has the address {address} again",
            )
            for address, source in find_missing_addresses(self.addresses).items()
        }
