"""Drills: the incidents replayed against a built server, to see what of them is still possible."""
