"""All of Mailkeep's code that runs on the mail server, copied there as it is.

It needs Python's standard library and Debian's packages only, and imports nothing of `mailkeep`.
"""
