"""The header with the verdict of the spam filter."""

VERDICT_HEADER = "X-Mailkeep-Spam"
