"""A resolver that is dead says nothing of the records, and is told once."""

import pytest

from mailkeep.dns import client, observe
from mailkeep.dns.client import Question
from mailkeep.errors import UserError


def test_a_resolver_that_does_not_answer_is_named_and_no_record_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    resolver = client.make_resolver("127.0.0.1@1")  # nothing answers there
    with pytest.raises(UserError, match=r"resolver at 127\.0\.0\.1 gives no answer to anything.* --resolver"):
        observe.query_names([Question("example.org", kind) for kind in ("MX", "TXT")], resolver)
