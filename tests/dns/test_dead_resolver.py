"""A dead resolver is reported once, and no record is blamed."""

import pytest

from mailkeep.dns import client, observe
from mailkeep.dns.client import Question
from mailkeep.errors import UserError


@pytest.mark.slow
def test_a_resolver_that_does_not_answer_is_named_and_no_record_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    resolver = client.make_resolver("127.0.0.1@1")  # nothing answers there
    with pytest.raises(UserError, match=r"resolver at 127\.0\.0\.1 answers nothing.* --resolver"):
        observe.query_names([Question("example.org", record_type) for record_type in ("MX", "TXT")], resolver)
