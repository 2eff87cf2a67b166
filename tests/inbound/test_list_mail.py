"""No honest message is refused that a list or a forwarder has passed on, and the same ways carry no forgery."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_network

import pytest
from inbound_samples import BANK, CONFIG, LIST, LIST_CLIENT, compose, pass_message, seal, sign
from list_mail import BOUNCES, PassedMail, make_dns, pass_on

FORWARDING = replace(CONFIG, forwarders=(ip_network("203.0.113.30"),))


def judge(mail: PassedMail) -> tuple[str, str]:
    config = FORWARDING if mail.is_named_forwarder else CONFIG
    config = replace(config, trusted_sealers=(mail.trusted_sealer,) if mail.trusted_sealer else ())
    answer = pass_message(mail.data, make_dns(), client=mail.client, sender=mail.sender, config=config)
    return answer.verdict, answer.text or answer.inserted.get("X-Mailkeep-Junk", "")


@pytest.mark.slow
def test_honest_mail_of_lists_and_forwarders_is_neither_refused_nor_junk() -> None:
    verdicts = {mail.name: judge(mail) for mail in pass_on()}
    assert {name: verdict for name, verdict in verdicts.items() if verdict != ("c", "")} == {}
    ways = Counter(name.partition(",")[0] for name in verdicts)
    assert len(verdicts) > 600
    assert len(ways) == 8


def test_the_same_ways_carry_no_forgery() -> None:
    forged = compose(f"ceo@{BANK}", "List-Id: <talk>")
    sealed = seal(forged, LIST, f"dmarc=fail header.from={BANK}")
    ways = [
        PassedMail("list", sign(forged, LIST), LIST_CLIENT, BOUNCES),
        PassedMail("sealed", sealed, LIST_CLIENT, BOUNCES, LIST),
        PassedMail(
            "sealed by somebody",
            seal(forged, "shop.example", f"dmarc=pass header.from={BANK}"),
            LIST_CLIENT,
            BOUNCES,
            LIST,
        ),
        PassedMail("forward", forged, "203.0.113.31", f"x@{BANK}"),
    ]
    assert [judge(mail)[1][:24] for mail in ways] == ["550 5.7.1 bank.example a"] * len(ways)
