"""How far back the rows of reports reach, for the reader that keeps them and for both commands that show them."""

KEPT_DAYS = 92
SHOWN_DAYS = 30
"""Unless the operator names another time."""
