"""The statistics of comparisons: what seeds, sizes and texts can show, and how certain that is."""

from minigpt.lab.statistics.paired import ALPHA, POWER, Paired
from minigpt.lab.statistics.power import (
    level_of_last_look,
    power_of_difference,
    power_of_equivalence,
    seeds_needed,
    smallest_difference,
)
from minigpt.lab.statistics.scaling import FEWEST_SIZES, LEVEL, Change, Estimate, Scaling, scaling_of
from minigpt.lab.statistics.verdict import FEWEST, Kind, Verdict, verdicts

__all__ = [
    "ALPHA",
    "FEWEST",
    "FEWEST_SIZES",
    "LEVEL",
    "POWER",
    "Change",
    "Estimate",
    "Kind",
    "Paired",
    "Scaling",
    "Verdict",
    "level_of_last_look",
    "power_of_difference",
    "power_of_equivalence",
    "scaling_of",
    "seeds_needed",
    "smallest_difference",
    "verdicts",
]
