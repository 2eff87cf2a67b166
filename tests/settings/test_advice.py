"""What is valid and yet not wanted is noted, with the way out; it stops nothing."""

import pytest
from settings_samples import COMPLETE, Inventory

from mailkeep.settings.advice import describe_own_senders, list_advice
from mailkeep.settings.sections import Dns, Inbound

WEBHOOK = """\
  webhook:
    format: slack
    template: '{"content": "{title}: {text}"}'
"""
WITHOUT_WEBHOOK = COMPLETE.replace(WEBHOOK, "")
ADMINS = "addresses: [you@example.com]"


def test_nothing_is_noted_of_good_settings(mail_yml: Inventory) -> None:
    assert list_advice(mail_yml.write(WITHOUT_WEBHOOK).load()) == []


def test_addresses_to_send_from_that_take_no_mail_are_noted(mail_yml: Inventory) -> None:
    changed = COMPLETE.replace("send_as: [info@example.org", "send_as: [sales@example.org, info@example.org")
    (note,) = list_advice(mail_yml.write(changed).load())
    assert note.startswith("send_as: sales@example.org gets no mail, so answers to it are refused. ")
    assert "aliases" in note


def test_an_address_that_a_catch_all_takes_is_not_noted(mail_yml: Inventory) -> None:
    changed = COMPLETE.replace("send_as: [info@example.org", "send_as: [sales@example.net, info@example.org")
    assert list_advice(mail_yml.write(changed).load()) == []


def test_many_addresses_are_one_note(mail_yml: Inventory) -> None:
    many = ", ".join(f"s{n}@example.org" for n in range(9))
    (note,) = list_advice(mail_yml.change("[info@example.org, team@example.net]", f"[{many}]").load())
    assert "s4@example.org and 4 more gets" in note


@pytest.mark.parametrize(
    "addresses",
    ["anna@example.org", "anna+alerts@example.org, bert@example.net", "info@example.org", "unknown@example.net"],
    ids=["account", "plus address", "alias", "catch-all"],
)
def test_administrators_with_mailboxes_here_alone_are_noted(mail_yml: Inventory, addresses: str) -> None:
    (note,) = list_advice(mail_yml.change(ADMINS, f"addresses: [{addresses}]", text=WITHOUT_WEBHOOK).load())
    assert "no alert reaches you when it is down" in note
    with_webhook = mail_yml.change(ADMINS, f"addresses: [{addresses}]").load()
    assert list_advice(with_webhook) == []


@pytest.mark.parametrize("addresses", ["anna@example.org, you@example.com", "away@example.org"])
def test_one_address_elsewhere_is_enough(mail_yml: Inventory, addresses: str) -> None:
    assert list_advice(mail_yml.change(ADMINS, f"addresses: [{addresses}]", text=WITHOUT_WEBHOOK).load()) == []


def test_check_tells_who_may_write_as_our_domains(mail_yml: Inventory) -> None:
    text = describe_own_senders(mail_yml.write(COMPLETE).load())
    assert "include:_spf.example.com, ip6:2001:db8:2::/48, ip4:192.0.2.77/32, a:scanner.example.org" in text
    without = mail_yml.write(COMPLETE).load().model_copy(update={"dns": Dns(), "inbound": Inbound(), "relay": None})
    assert describe_own_senders(without) == ""
