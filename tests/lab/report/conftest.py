"""A comparison that has everything that a page can show."""

from __future__ import annotations

from pathlib import Path

from minigpt.lab.compare.record import Asked, Comparison, NoiseFloor, TextInterval
from minigpt.lab.compare.tuned import RecordedTuning, Trial
from minigpt.run.status import Status


def complete(file: Path) -> None:
    """Add to a trained comparison's file what these runs do not have: tuning, noise, the base again, cautions, the ledger."""
    found = Comparison.read(file)
    values = [{"learning_rate": rate, "norm": norm} for rate in (0.001, 0.002, 0.004) for norm in ("rms", "layer")]
    losses = [3.1, 3.2, 3.0, 3.3, 2.9, None]
    trials = [
        Trial(values=each, seed=10_005, outcome=Status.FINISHED if loss else Status.DIVERGED, loss=loss)
        for each, loss in zip(values, losses, strict=True)
    ]
    tuning = RecordedTuning(
        share=0.5, written=values[0], chosen=values[4], edges={"learning_rate": "highest"}, trials=tuple(trials)
    )
    base, variant, *others = found.variants
    assert variant.difference is not None
    difference = variant.difference.model_copy(
        update={
            "outliers": (1,),
            "caution": "one seed lies far from the others",
            "asked": Asked(number=3, p=0.02, level=0.001, survives=False),
            "text_interval": TextInterval(kind="windows", bounds=(-0.2, 0.1), blocks=(-0.1, 0.0, 0.05)),
        }
    )
    variant = variant.model_copy(update={"difference": difference})
    runs = tuple(run.model_copy(update={"seed": run.seed + 3}) for run in variant.runs)
    again = variant.model_copy(update={"name": "base again (seeds 8 to 10)", "runs": runs})
    update = {
        "variants": tuple(each.model_copy(update={"tuning": tuning}) for each in (base, variant, *others)),
        "base_again": again,
        "noise": NoiseFloor(
            sd=0.01, source="from the spread of these runs", seeds=3, smallest=0.05, power_of_equivalence=0.1
        ),
    }
    found.model_copy(update=update).write(file)
