"""Looks at a run before it starts: `rlft check` and `rlft check-reward`."""
