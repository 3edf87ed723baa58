"""Artificial results of comparisons, without training."""

from __future__ import annotations

from typing import Any

from minigpt.lab.compare.record import Comparison, ComparisonSettings, RecordedCost, RunResult, VariantResult
from minigpt.lab.compare.results import difference_of, judge_runs, mean_loss, sd_of_loss
from minigpt.run.status import Status


def run(seed: int = 5, loss: float | None = 1.0, **others: Any) -> RunResult:
    """A finished run on a machine without other load; without a loss, a crashed run."""
    outcome = Status.CRASHED if loss is None else Status.FINISHED
    return RunResult(**{"seed": seed, "outcome": outcome, "run": "a", "loss": loss, "others": 0.0, **others})


def comparison(family: int | None = None, /, *, most_seeds: int | None = None, **variants: list[RunResult]) -> Comparison:
    """A comparison of variants by name, the base first; with `most_seeds`, seeds were added one at a time."""
    base, *others = variants.values()
    judgements = [None, *judge_runs(base, others, 0.01, looking=most_seeds is not None, family=family)]
    return Comparison(
        name="one",
        settings=ComparisonSettings(seeds=tuple(each.seed for each in base), most_seeds=most_seeds),
        variants=tuple(
            VariantResult(
                name=name,
                source=f"{name}.json",
                description="",
                experiment={},
                tokens=1,
                training_flops=1,
                cost=RecordedCost(context=16),
                mean=mean_loss(runs),
                sd=sd_of_loss(runs),
                verdict="the base" if judgement is None else judgement.words,
                difference=None if judgement is None or judgement.verdict is None else difference_of(judgement.verdict),
                runs=tuple(runs),
            )
            for (name, runs), judgement in zip(variants.items(), judgements, strict=True)
        ),
    )
