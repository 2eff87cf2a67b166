"""`postfix reload` returns before the processes of the former configuration have ended, and these may take mail."""

RELOAD_POSTFIX = """\
{ former=$(pgrep -P $(cat /var/spool/postfix/pid/master.pid) | sed s/^/--pid=/)
postfix reload 2> /dev/null
timeout 20 tail -s 0.05 -f /dev/null $former; }
"""
"""Shell command: reload, and wait for the end of these processes. Fails if one has a client for 20 seconds more."""
