"""What runs on the server while it is verified: it attacks, looks around, and says in JSON what it saw.

Python's standard library only, and nothing of the rest of Mailkeep: `mailkeep.verify.server` sends this package over
SSH, and `mailkeep.verify.checks` judges what comes back. An operator's own connection often cannot reach port 25, so
the attacks start on the server. They go to its public address, where Postfix knows no networks of its own and takes
them for anyone's.
"""
