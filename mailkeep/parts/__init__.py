"""Each service as plain data: what it needs on a host. `mail_server` lists all of them in order."""
