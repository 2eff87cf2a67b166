"""The words by which Postfix's configuration tells the guard about mail that no account sends."""

LOCAL = "local"
"""Of programs that use sendmail(1)."""
FORWARD, BOUNCE = "forward", "bounce"
"""Of strangers, when it leaves the server again; and notices that it was not delivered. milter_macro_daemon_name."""
STRANGERS = "strangers"
"""The policy_context of requests about mail on port 25."""
