"""The one error that is the user's to mend; anything else that is raised is ours."""


class UserError(Exception):
    """Its text is all that the user needs: what is wrong, where, and what would do. The CLI prints it and exits 1."""
