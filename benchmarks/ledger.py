"""How often a ledger lets a false verdict survive, and how many true ones: simulated for docs/results/ledger.md.

    python benchmarks/ledger.py > docs/results/ledger.md

Needs about a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from minigpt.lab.statistics import ALPHA, discoveries

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
SEQUENCES, SEEDS = 20_000, 5


def survivors(p: Numbers, start: float = discoveries.START, decay: float = discoveries.DECAY) -> tuple[Flags, Numbers]:
    """Which p-values survive a ledger, and their levels, for many sequences at once: one row each.

    In place of the sum over discoveries, each discovery adds its share to all later levels.
    """
    sequences, questions = p.shape
    shares = np.arange(1, questions + 1) ** -decay / special.zeta(decay)
    levels = np.tile(start * shares, (sequences, 1))
    found = np.zeros(p.shape, bool)
    for number in range(questions):
        found[:, number] = (p[:, number] <= levels[:, number]) & (
            p[:, number] < ALPHA
        )  # else the verdict is not a difference
        is_first = found[:, :number].any(axis=1, keepdims=True)
        reward = np.where(is_first, ALPHA, ALPHA - start) * found[:, number : number + 1]
        levels[:, number + 1 :] += reward * shares[: questions - number - 1]
    return found, levels


def p_values(differences: Numbers) -> Numbers:
    """Student's paired t-test, two-sided, over the last axis."""
    n = differences.shape[-1]
    t = differences.mean(-1) / (differences.std(-1, ddof=1) / np.sqrt(n))
    return np.asarray(2 * special.stdtr(n - 1, -np.abs(t)))


@dataclass(frozen=True)
class Case:
    """A way of asking.

    Attributes:
        words: What is asked.
        questions: Number of questions.
        draw: Draws the p-values, and which variants really differ.
    """

    words: str
    questions: int
    draw: Callable[[np.random.Generator], tuple[Numbers, Flags]]


def variants(questions: int, share: float, effect: float, *, one_base: bool) -> Callable[..., tuple[Numbers, Flags]]:
    """Variants of which a share differs by `effect` standard deviations of the differences; with one base for all or not."""

    def draw(random: np.random.Generator) -> tuple[Numbers, Flags]:
        differs = random.random((SEQUENCES, questions)) < share
        losses = random.normal(0, np.sqrt(0.5), (SEQUENCES, questions, SEEDS))
        base = random.normal(0, np.sqrt(0.5), (SEQUENCES, 1 if one_base else questions, SEEDS))
        return p_values(losses - base - effect * differs[..., None]), differs

    return draw


def looks(most: int) -> Callable[..., tuple[Numbers, Flags]]:
    """One variant that equals the base, after three seeds, after four, and so on."""

    def draw(random: np.random.Generator) -> tuple[Numbers, Flags]:
        differences = random.normal(0, 1, (SEQUENCES, most + 2))
        p = np.stack([p_values(differences[:, : seeds + 3]) for seeds in range(most)], axis=1)
        return p, np.zeros(p.shape, bool)

    return draw


CASES = (
    Case("nothing differs", 20, variants(20, 0, 0, one_base=False)),
    Case("nothing differs", 50, variants(50, 0, 0, one_base=False)),
    Case("nothing differs, the same runs of the base in each call", 50, variants(50, 0, 0, one_base=True)),
    Case("one variant that equals the base, one more seed in each call", 20, looks(20)),
    Case("one in five differs by 2 standard deviations", 20, variants(20, 0.2, 2, one_base=False)),
    Case("one in five differs by 2 standard deviations", 50, variants(50, 0.2, 2, one_base=False)),
    Case("one in five differs by 4 standard deviations", 20, variants(20, 0.2, 4, one_base=False)),
    Case("one in five differs by 4, the same runs of the base in each call", 20, variants(20, 0.2, 4, one_base=True)),
    Case("half differ by 4 standard deviations", 50, variants(50, 0.5, 4, one_base=False)),
)


def rates(found: Flags, differs: Flags) -> tuple[float, float, float]:
    """Share of sequences with a false survivor, mean share of false ones among the survivors, share of true ones found."""
    false = (found & ~differs).sum(axis=1)
    share = np.mean(false / np.maximum(1, found.sum(axis=1)))
    return float(np.mean(false > 0)), float(share), float((found & differs).sum() / max(1, differs.sum()))


def rows() -> Iterator[str]:
    """The table's rows."""
    for case in CASES:
        p, differs = case.draw(np.random.default_rng(21))
        methods = {"none": p < ALPHA, "Bonferroni": p < ALPHA / case.questions, "ledger": survivors(p)[0]}
        for name, found in methods.items():
            any_false, false_share, power = rates(found, differs)
            shown = f"{power:.1%}" if differs.any() else "–"
            yield f"| {case.words} | {case.questions} | {name} | {any_false:.1%} | {false_share:.1%} | {shown} |"


def choices() -> Iterator[str]:
    """Power with other parts for the time before the first discovery, and with other decays."""
    for decay in (1.1, 1.3, 1.6, 2.0):
        shown = []
        for questions, effect in ((20, 2), (20, 4), (50, 2), (50, 4)):
            p, differs = variants(questions, 0.2, effect, one_base=False)(np.random.default_rng(22))
            for part in (0.5, 0.8, 1.0):
                shown.append(f"{rates(survivors(p, part * ALPHA, decay)[0], differs)[2]:.1%}")
        yield f"| {decay} | " + " | ".join(" / ".join(shown[index : index + 3]) for index in range(0, 12, 3)) + " |"


PAGE = """# The ledger: how often false verdicts survive it

    python benchmarks/ledger.py > docs/results/ledger.md

{sequences:,} simulated sequences of calls of `minigpt compare`, each with one variant and {seeds} seeds. Differences are
normal, and the p-value is that of the paired t-test. *None*: each verdict at 5 %, as without a ledger. *Bonferroni*: 5 %
divided by the number of questions, which must be known before the first. *Ledger*: LORD++ as `minigpt ledger` uses it, which
does not need to know how many questions will follow.

- **any false**: sequences in which at least one variant that equals the base survives as *better* or *worse*.
- **false share**: false ones among all survivors, as a mean over sequences. This is what the ledger limits to 5 %.
- **found**: variants that really differ and survive.

| questions ask about | questions | control | any false | false share | found |
| --- | ---: | --- | ---: | ---: | ---: |
{rows}

If nothing differs, the ledger lets a verdict survive in at most {start:.0%} of sequences, for any number of questions. If
many variants differ, each survivor earns more for later questions, so the number of false survivors grows with that of true
ones. Their share does not.

## How fast levels fall

Found variants of those that differ (one in five), with 50 % / 80 % / 100 % of the 5 % for the time before the first
discovery. minigpt uses the decay {decay} and {part:.0%}.

| decay | 20 questions, 2 sd | 20 questions, 4 sd | 50 questions, 2 sd | 50 questions, 4 sd |
| --- | ---: | ---: | ---: | ---: |
{choices}
"""

if __name__ == "__main__":
    print(
        PAGE.format(
            sequences=SEQUENCES,
            seeds=SEEDS,
            rows="\n".join(rows()),
            start=discoveries.START,
            decay=discoveries.DECAY,
            part=discoveries.START / ALPHA,
            choices="\n".join(choices()),
        ),
        end="",
    )
