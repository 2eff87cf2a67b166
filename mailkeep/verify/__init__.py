"""Attacks on a live server, and their verdicts: the same checks for a server of the lab and for one in production.

The probe (mailkeep.verify.probe) runs on the server, attacks it, and prints its observations as JSON. The checks
(mailkeep.verify.checks) judge them: pytest functions, one for each promise. testinfra carries the probe to the server.
"""
