"""Sensors of what the services find on the machine: mailboxes that can be written, and the declared addresses."""

import pwd
from collections.abc import Sequence

from mailkeep_server.common import mailboxes
from mailkeep_server.common.own_addresses import find_missing_addresses
from mailkeep_server.common.wording import count_noun
from mailkeep_server.watch.alert_queue import Troubles
from mailkeep_server.watch.sensor import Sensor


class MailboxSensor(Sensor):
    """Whether all mailboxes belong to `vmail`: a restored one may not, and then its mail waits in the queue.

    Some homes at each sample, so that ten thousand cost no more than ten; and those with a fault at each.
    """

    name, interval, samples = "mailbox", 10.0, 2
    HOMES_PER_SAMPLE = 50

    def __init__(self, root: str = mailboxes.ROOT) -> None:
        self.root = root
        self.unread: list[str] = []
        self.faults: dict[str, str] = {}

    def find_troubles(self) -> Troubles:
        uid = pwd.getpwnam(mailboxes.USER).pw_uid
        self.unread = self.unread or mailboxes.list_homes(self.root)
        turn, self.unread = self.unread[: self.HOMES_PER_SAMPLE], self.unread[self.HOMES_PER_SAMPLE :]
        self.faults = {path: fault for path in {*self.faults, *turn} if (fault := self._find_fault(path, uid))}
        if not self.faults:
            return {}
        path, fault = min(self.faults.items())
        others = f", and {count_noun(len(self.faults) - 1, 'more mailbox')}" if len(self.faults) > 1 else ""
        text = (
            f"Mail cannot be stored: {fault}{others.replace('mailboxs', 'mailboxes')}. "
            f"`chown -R {mailboxes.USER}:{mailboxes.USER} {path}` and `chmod -R u+rwX {path}` mend it"
        )
        return {"owner": (text, "All mailboxes can be written again")}

    def _find_fault(self, path: str, uid: int) -> str:
        is_home = mailboxes.is_home(path, self.root)
        return mailboxes.find_home_fault(path, uid) if is_home else mailboxes.find_fault(path, uid)


class AddressSensor(Sensor):
    """Whether the machine has the declared addresses. Postfix sends from the first of each family, if it is there."""

    name, interval, samples = "address", 10.0, 3  # an IPv6 address is not usable at once

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses

    def find_troubles(self) -> Troubles:
        return {
            address: (
                f"This machine does not have the address {address} that mail.yml declares: "
                + (f"mail leaves from {source}, and SPF may fail" if source else "nobody reaches it there")
                + ". `ip address` shows its addresses",
                f"This machine has the address {address} again",
            )
            for address, source in find_missing_addresses(self.addresses).items()
        }
