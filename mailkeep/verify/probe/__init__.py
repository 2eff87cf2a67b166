"""The program that `mailkeep verify` runs on the server: it attacks the server, and prints its observations as JSON.

`mailkeep.verify.target` sends this package over SSH, with `mailkeep_server.common`, as one zip file; beside these it
needs only Python's standard library. `mailkeep.verify.checks` judges the observations. An operator's own connection
often cannot reach port 25, so the attacks start on the server. They go to its public address, where Postfix treats them
as a stranger's: no network is trusted there.
"""
