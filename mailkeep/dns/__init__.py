"""A mail server's DNS records, and the check that other servers see them.

`records` is the one list. `formats` prints it, `observe` reads the published records, and `judge` compares the two by
meaning.
"""
