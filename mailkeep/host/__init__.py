"""How parts become true on a host: preflight, snapshot, difference, operations; and the plan that only prints it."""
