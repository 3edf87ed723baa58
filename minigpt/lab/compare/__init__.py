"""Is a variant better than the base? Matched budgets, paired seeds, an interval and a verdict."""

from minigpt.lab.compare.comparing import Compared, ComparisonWatcher, compare
from minigpt.lab.compare.plan import Settings

__all__ = ["Compared", "ComparisonWatcher", "Settings", "compare"]
