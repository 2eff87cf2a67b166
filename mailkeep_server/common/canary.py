"""The login by which the server proves every half hour that its jails ban."""

NAME = "mailkeep-canary"
"""It is refused; no account can be called so, since it is no address."""
