"""Floor 1: pure replay. No clock, no I/O, no logging, no randomness of its own. Read `replay` first."""
