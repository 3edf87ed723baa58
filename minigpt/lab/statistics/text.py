"""The interval of a mean difference over other text of the same kind: a block bootstrap over the validation text.

The difference of two losses is r = sum of d_b / sum of m_b over blocks b of the text, with d_b the difference of the summed
losses and m_b the number of targets (or bytes). Blocks are drawn with replacement (Künsch 1989, doi:10.1214/aos/1176347265;
blocks that do not overlap: Carlstein 1986). Tokens of one block depend on each other, blocks should not. So neighbouring
blocks are joined while they correlate.

The interval is studentised (bootstrap-t; Efron & Tibshirani 1993, section 12.5), with the standard error of a ratio
(Cochran 1977, section 2.11) in each draw. Percentile and BCa intervals cover less with 20 blocks, or with documents whose
lengths differ much: in 600 simulated texts 87 and 84 % where this one covers 90 %, 94 and 93 % where it covers 96 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from minigpt.errors import count
from minigpt.lab.statistics.paired import ALPHA

FEWEST_BLOCKS = 10
"""Number of blocks below which there is no interval."""

_JOINED_FROM = 40
"""Fewer blocks are not joined, because then less than 20 would be left."""

_DRAWS = 10_000

_LARGEST = 1e6
"""A studentised bound beyond it is that of draws without any error."""

_Blocks = Float[np.ndarray, " blocks"]


@dataclass(frozen=True)
class OverText:
    """What blocks of text show of a difference.

    Attributes:
        mean: The difference over the whole text.
        interval: Its confidence interval over text of the same kind; None if the blocks cannot show it.
        blocks: The difference in each block, after joining.
        reason: Why there is no interval.
    """

    mean: float
    interval: tuple[float, float] | None
    blocks: tuple[float, ...]
    reason: str = ""


def over_text(
    differences: Sequence[float] | _Blocks, sizes: Sequence[float] | _Blocks, level: float = 1 - ALPHA
) -> OverText:
    """The interval of a mean difference over the text, from blocks in the order of the text.

    The same blocks always give the same interval.

    Args:
        differences: Sum of the differences in each block.
        sizes: Number of targets (or bytes, or another measure of its length) of each block; above 0.
        level: Confidence.
    """
    sums, lengths = _joined(np.asarray(differences, dtype=np.float64), np.asarray(sizes, dtype=np.float64))
    mean, blocks = float(sums.sum() / lengths.sum()), tuple((sums / lengths).tolist())
    if len(sums) < FEWEST_BLOCKS:
        return OverText(mean, None, blocks, f"the text has {count(len(sums), 'block')}, and {FEWEST_BLOCKS} are needed")
    rest = sums - mean * lengths
    if not rest.any():
        return OverText(mean, (mean, mean), blocks)
    shifts, errors = _ratios(_draws(len(sums)), rest, lengths)
    with np.errstate(divide="ignore", invalid="ignore"):  # a draw of equal blocks has no error
        low, high = np.quantile(np.nan_to_num(shifts / errors, nan=0.0), [(1 - level) / 2, (1 + level) / 2])
    _, (error,) = _ratios(np.ones((1, len(sums))), rest, lengths)
    if max(-low, high) > _LARGEST:
        return OverText(mean, None, blocks, "nearly all blocks have the same difference")
    return OverText(mean, (float(mean - high * error), float(mean - low * error)), blocks)


@lru_cache(maxsize=4)
def _draws(n: int) -> Float[np.ndarray, "draws blocks"]:
    """How often each of n blocks is in each draw of n blocks."""
    drawn = np.random.default_rng(0).integers(0, n, (_DRAWS, n)) + n * np.arange(_DRAWS)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * _DRAWS).reshape(_DRAWS, n).astype(np.float64)


def _ratios(
    draws: Float[np.ndarray, "draws blocks"], rest: _Blocks, lengths: _Blocks
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """In each draw the ratio of the sums to the lengths, and its standard error; 0 where all blocks of a draw are equal."""
    sums, totals, squares, products, lengths_squared = (
        draws @ np.stack([rest, lengths, rest**2, rest * lengths, lengths**2], 1)
    ).T
    ratios, n = sums / totals, len(rest)
    spread = squares - 2 * ratios * products + ratios**2 * lengths_squared
    spread[spread < 1e-12 * squares] = 0
    return ratios, np.sqrt(spread * n / (n - 1)) / totals


def _joined(sums: _Blocks, lengths: _Blocks) -> tuple[_Blocks, _Blocks]:
    """The blocks, with neighbours joined in pairs while their differences correlate by more than one standard error."""
    while len(sums) >= _JOINED_FROM:
        rest = sums - sums.sum() / lengths.sum() * lengths
        if rest[1:] @ rest[:-1] <= rest @ rest / math.sqrt(len(sums)):
            break
        pairs = 2 * np.arange(len(sums) // 2)  # an odd last block joins the last pair
        sums, lengths = np.add.reduceat(sums, pairs), np.add.reduceat(lengths, pairs)
    return sums, lengths
