"""Control of false discoveries among questions that are asked one after another: LORD++.

Each question has a level, and is a discovery if its p-value is not above that level. The levels follow from the number of
the question and from the numbers of earlier discoveries (Ramdas, Yang, Wainwright & Jordan 2017, arXiv:1710.00499, LORD++):

    level(t) = START·s(t) + (ALPHA - START)·s(t - t₁) + ALPHA·Σ s(t - tⱼ),  tⱼ: the second discovery and later ones

s(1), s(2), … sum to 1. So the levels spent so far never sum to more than ALPHA × max(1, number of discoveries).

If nothing differs, the probability of any discovery is at most START, for any number of questions and any dependence between
them, because until the first discovery the levels are START·s(t). After it, the expected share of false ones among all
discoveries is at most ALPHA, provided that a p-value does not depend on the answers to earlier questions.
"""

from __future__ import annotations

from collections.abc import Iterable

from scipy import special

from minigpt.lab.statistics.paired import ALPHA

START = 0.8 * ALPHA
"""Sum of all levels before the first discovery. A larger part finds more at first, and less after a discovery."""

DECAY = 1.6
"""How fast levels fall. A larger number favours the first questions (docs/results/ledger.md has what others find)."""


def level(number: int, discoveries: Iterable[int]) -> float:
    """The level of a question.

    Args:
        number: The number of the question, from 1.
        discoveries: Numbers of the earlier questions that were discoveries.
    """
    first, *later = sorted(discoveries) or [number]
    spent = START * _share(number) + (ALPHA - START) * _share(number - first)
    return spent + ALPHA * sum(_share(number - found) for found in later)


def _share(number: int) -> float:
    """The part of an amount that the question with this number after it gets; 0 for earlier questions."""
    return float(number**-DECAY / special.zeta(DECAY)) if number > 0 else 0.0
