"""The guard: what runs on the mail server to bound what a stolen password can send.

Postfix asks it about every recipient and message of a login (policy service) and shows it senders and From: lines
(milter). Python's standard library only, and nothing of `mailkeep`: this package is copied to the server as it is.
"""
