"""Drills: incidents replayed against a built server, to see how far an attacker still gets."""
