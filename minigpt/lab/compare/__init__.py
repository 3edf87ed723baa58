"""Compare variants with a base: matched budgets, paired seeds, intervals and verdicts."""

from minigpt.lab.compare.comparing import Compared, ComparisonWatcher, compare
from minigpt.lab.compare.plan import Settings
from minigpt.lab.compare.record import PASSED
from minigpt.lab.compare.sources import sources_from
from minigpt.lab.compare.trials import Tune, Tuning
from minigpt.lab.compare.variants import Source

__all__ = ["PASSED", "Compared", "ComparisonWatcher", "Settings", "Source", "Tune", "Tuning", "compare", "sources_from"]
