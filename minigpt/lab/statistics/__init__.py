"""The statistics of comparisons: what seeds, sizes and texts can show, and how certain that is."""

from minigpt.lab.statistics.paired import (
    ALPHA,
    Paired,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
)
from minigpt.lab.statistics.scaling import FEWEST_SIZES, LEVEL, Change, Estimate, Scaling, scaling_of
from minigpt.lab.statistics.verdict import FEWEST, Kind, Verdict, verdicts

__all__ = [
    "ALPHA",
    "FEWEST",
    "FEWEST_SIZES",
    "LEVEL",
    "Change",
    "Estimate",
    "Kind",
    "Paired",
    "Scaling",
    "Verdict",
    "power_of_difference",
    "power_of_equivalence",
    "scaling_of",
    "seeds_needed",
    "verdicts",
]
