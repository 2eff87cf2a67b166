"""The headers that the spam filter writes."""

VERDICT_HEADER = "X-Mailkeep-Spam"
"""Its verdict on a message that comes in."""
OUTGOING_HEADER = "X-Mailkeep-Outgoing-Spam"
"""That a message of an account is surely spam. The guard counts it."""
