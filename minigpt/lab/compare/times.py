"""Whether seconds and tokens/s of runs say something of what was trained, or of what else was at the machine."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt.errors import listing
from minigpt.lab.compare.record import RunResult, VariantResult
from minigpt.run.recorded import MetricsRow
from minigpt.training.other_processes import ALONE


def share_of_others(rows: Sequence[MetricsRow], cores: int | None) -> float | None:
    """What other processes took of the processors while a run trained, as a part of all; None where nothing was recorded.

    Args:
        rows: The run's records. `other_cpu` stands in some of them: CPU seconds since the one before that has it.
        cores: Of the machine, as provenance.json has it; where it has no number, 1: then less is taken for much.
    """
    measured = [row.other_cpu for row in rows if row.other_cpu is not None]
    wall = next((row.wall for row in reversed(rows) if row.other_cpu is not None), 0.0)
    if not wall:
        return None
    # Single numbers may be below 0, for the system counts in hundredths of a second; their sum is right.
    return max(0.0, sum(measured) / wall / (cores or 1))


def why_not_comparable(variants: Sequence[VariantResult]) -> str | None:
    """Why the times of finished runs cannot be set beside each other, in a sentence; None where they can."""
    finished = [(variant.name, run) for variant in variants for run in variant.finished]
    shares = [run.others for _, run in finished if run.others is not None and run.others > ALONE]
    if shares:
        shared = [(name, run) for name, run in finished if run.others is not None and run.others > ALONE]
        return (
            f"other processes were at the machine while {_named(shared, len(finished))} trained, "
            f"and took {_range(shares)} of its processors"
        )
    unknown = [(name, run) for name, run in finished if run.others is None]
    if unknown:
        return (
            f"it was not recorded whether other processes were at the machine while {_named(unknown, len(finished))} trained"
        )
    machines = sorted({run.machine or "an unknown one" for _, run in finished})
    return f"the runs were trained on different machines: {'; '.join(machines)}" if len(machines) > 1 else None


def _named(runs: Sequence[tuple[str, RunResult]], of: int) -> str:
    if len(runs) == of:
        return "all runs"
    if len(runs) > 4:
        return f"{len(runs)} of {of} runs"
    return listing([f"{name} (seed {run.seed})" for name, run in runs])


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{share:.0%}" for share in (min(shares), max(shares)))
    return low if low == high else f"{low} to {high}"
