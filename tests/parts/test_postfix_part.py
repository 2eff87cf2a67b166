"""What Postfix is told of the way to others."""

import pytest

from mailkeep.parts import postfix
from mailkeep.settings.models import Settings


@pytest.mark.parametrize(
    ("relay", "address", "address6"), [({}, "192.0.2.1", "2001:db8::1"), ({"relay": {"host": "10.0.0.9"}}, "", "")]
)
def test_the_first_address_is_the_source_unless_a_relay_host_takes_the_mail(
    declared: dict[str, object], relay: dict[str, object], address: str, address6: str
) -> None:
    """The relay host may be in a private network, which packets from a public address do not reach."""
    part = postfix.build_part(Settings.model_validate(declared | relay), None)
    content = next(file.content for file in part.files if file.path == "/etc/postfix/main.cf").decode()
    parameters = dict(line.split(" =", 1) for line in content.splitlines() if line.startswith("outbound_address"))
    assert {name: value.strip() for name, value in parameters.items()} == {
        "outbound_address": address,
        "outbound_address6": address6,
    }
