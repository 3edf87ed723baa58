"""Random trials of the promises in docs/reliability.md, for a given time: `python -m tests.soak --minutes 30`."""
