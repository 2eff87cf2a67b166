"""From an old server into ours: what is there, and its mail."""
