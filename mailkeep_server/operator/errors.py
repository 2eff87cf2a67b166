"""The error of mailkeepctl's commands."""


class CtlError(Exception):
    """The message tells the operator what went wrong and what to do."""
