"""Trials of what docs/reliability.md promises, as many as there is time for: `python -m tests.soak --minutes 30`."""
