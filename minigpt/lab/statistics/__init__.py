"""The statistics of comparisons: what seeds, sizes and texts can show, and how certain that is."""

from minigpt.lab.statistics.paired import (
    ALPHA,
    Paired,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
    smallest_difference,
)
from minigpt.lab.statistics.verdict import FEWEST, Kind, Verdict, verdicts

__all__ = [
    "ALPHA",
    "FEWEST",
    "Kind",
    "Paired",
    "Verdict",
    "power_of_difference",
    "power_of_equivalence",
    "seeds_needed",
    "smallest_difference",
    "verdicts",
]
