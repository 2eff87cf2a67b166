"""The folders that a mail bomb is sorted into."""

import re

BULK_HEADER = "X-Mailkeep-Bulk"
"""Its value is the day on which the bomb began. The Sieve script for all files such a message into `Bulk DAY`."""
FOLDERS = "Bulk *"
"""As doveadm lists them, with others of their owner whose names begin like that."""
FOLDER = re.compile(r"Bulk \d{4}-\d\d-\d\d")
