"""A whole server moves to another machine."""
