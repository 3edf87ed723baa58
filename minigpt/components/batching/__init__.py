"""Which tokens an update sees."""
