"""Mail of elsewhere into an account's folders, through Dovecot: with flags, dates and, where possible, UIDs."""
