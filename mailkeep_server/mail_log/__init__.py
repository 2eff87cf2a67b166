"""What the mail services wrote: read from the journal and from files of any age and form, also of other servers.

Log lines are text of strangers. Whatever is in them, each line is judged from its beginning, which syslog wrote.
"""
