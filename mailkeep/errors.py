"""The error that the operator can mend. Any other exception is a mistake of Mailkeep's."""


class UserError(Exception):
    """Its text is all that the operator needs: what is wrong, where, and what to do. The CLI prints it and exits 1."""
