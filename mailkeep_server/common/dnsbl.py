"""Judging what a DNS blocklist answers (RFC 5782): the daily check on the server and `mailkeep blocklists` agree."""

from typing import Literal

Values = list[str] | None  # of all records of a name and type; None if no server answers, which proves nothing
ListingState = Literal["listed", "clear", "refused", "gone", "unknown"]


def judge_listing(entry: Values, must_list: Values, must_not_list: Values) -> ListingState:
    """Whether a list has an entry, by its answers for that entry and for its two test entries.

    A list no longer works if it lacks the test entry that it must have, or has the one that it must not have (RFC 5782
    §5). An answer outside of 127.0.0.0/8 says the same (§2.1).
    """
    values = [value for answer in (entry, must_list, must_not_list) for value in answer or ()]
    if any(map(is_refusal, values)):
        return "refused"
    if entry is None or must_list is None or must_not_list is None:
        return "unknown"
    if must_not_list or not must_list or not all(value.startswith("127.") for value in values):
        return "gone"
    return "listed" if entry else "clear"


def is_refusal(value: str) -> bool:
    """Whether this value means "too many queries, or through a public resolver": so Spamhaus (127.255.255.0/24), SURBL
    and URIBL (127.0.0.1), DNSWL (127.0.0.255)."""
    return value.startswith("127.255.255.") or value in ("127.0.0.1", "127.0.0.255")
