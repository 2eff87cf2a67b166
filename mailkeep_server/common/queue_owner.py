"""By whom the log says that Postfix's queue was changed. Apart from `mail_queue`: the log keeper imports little."""

import pwd

QUEUE_PROGRAM = "postfix/postsuper"
"""As it names itself in the log."""


def find_owner() -> str:
    """The number of the Linux user as which postsuper works, once root has called it (postconf(5), mail_owner); "" if
    Postfix is not installed."""
    try:
        return str(pwd.getpwnam("postfix").pw_uid)
    except KeyError:
        return ""
