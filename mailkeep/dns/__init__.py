"""What the world should see of a mail server, and whether it does.

`records` is the one list: `formats` prints it, `look` sees what is published, `judge` compares the two by meaning.
"""
