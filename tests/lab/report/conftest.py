"""A comparison that has everything that a page can show, and damage of any kind to records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt.lab.compare.record import Asked, Comparison, NoiseFloor, TextInterval
from minigpt.lab.compare.tuned import RecordedTuning, Trial
from minigpt.lab.sealed import Sealed, seal
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


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document; for a long list only its ends."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from paths(value[index], (*path, index))


DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**400, -(10**19), 1e308, -1e308, float("nan"), float("inf"), 0.5),
    *("", "x", "\ud800", "../../../etc/passwd", "/dev/zero", "nul\0", "$\\frac", "a\nb", "[/red]", "x" * 70_000),
    *([], {}, [1, 2], {"a": 1}, [None, None], DEEP),
]
DELETE, WRAP, DOUBLE = "delete it", "wrap it in a list", "double it"
HOW = [DELETE, WRAP, DOUBLE, *VALUES]


def mutated(document: Any, path: tuple[Any, ...], how: Any) -> Any:
    copy = json.loads(json.dumps(document))
    if not path:
        return how if how not in (DELETE, WRAP, DOUBLE) else [copy]
    parent = copy
    for step in path[:-1]:
        parent = parent[step]
    if how == DELETE:
        del parent[path[-1]]
    elif how == WRAP:
        parent[path[-1]] = [parent[path[-1]]]
    elif how == DOUBLE:
        old = parent[path[-1]]
        parent[path[-1]] = old * 2 if isinstance(old, str | list | int | float) and not isinstance(old, bool) else [old, old]
    else:
        parent[path[-1]] = how
    return copy


def sealed_again(document: Any, record: type[Sealed], *, keep_format: bool) -> Any:
    """The document with the right digest, so that only the types can refuse it."""
    if not isinstance(document, dict):
        return document
    sealed = seal({key: value for key, value in document.items() if key != "sha256"}, record.format_number)
    return {**sealed, "format": document["format"]} if keep_format and "format" in document else sealed
