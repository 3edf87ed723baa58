"""How fast variants train on this machine, and how many updates take as long as the base's: measured once, and kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from minigpt.data import Corpus
from minigpt.errors import MinigptError, RunError, UnreadableError, count
from minigpt.lab.compare.variants import Variant
from minigpt.model import build_model
from minigpt.run.provenance import provenance
from minigpt.system.files import read_object, write_json
from minigpt.training.estimate import Speed, Trial, measure_speed
from minigpt.training.interleaved import Ratio, measure_ratio
from minigpt.training.machine import choose_device, choose_precision

WIDTH = 0.03
"""To which the ratio of two variants' times is measured: as a part of it, at 95 % confidence."""

AT_MOST_SECONDS = 120.0
_VARIES = 0.2  # quartiles of equal updates that are further apart, in medians: something else is at the machine


class Speeds:
    """Times of updates, by all that they follow from; kept in a file, so that a plan stays what it was.

    Args:
        file: Where they are kept.
        corpus_of: A variant's corpus.
        device: As for `minigpt run`.
        threads: Of each run; None for torch's choice.
    """

    def __init__(self, file: Path, corpus_of: Callable[[Variant], Corpus], device: str, threads: int | None):
        self.file, self.corpus_of, self.threads = file, corpus_of, threads
        self.device = choose_device(device)
        self.keys: dict[str, str] = {}
        self.ratios: dict[str, Ratio] = {}
        self.speeds: dict[str, Speed] = {}
        if file.is_file():
            self._read()

    def of(self, variant: Variant) -> Speed:
        """A variant's speed alone, from a few updates: what an estimate of the time needs."""
        key = self._key(variant)
        if key not in self.speeds:
            with using_threads(self.threads):
                corpus = self.corpus_of(variant).to(self.device)
                model = build_model(variant.experiment, corpus.vocab_size).to(self.device)
                self.speeds[key] = measure_speed(variant.experiment, corpus, model, self._precision(variant))
            self._write()
        return self.speeds[key]

    def ratio(self, base: Variant, variant: Variant) -> Ratio:
        """How long an update of the variant takes, one of the base being 1: both timed in turn.

        Raises:
            MinigptError: The machine is too busy: the ratio cannot be known as well as it should be.
        """
        first, second = self._key(base), self._key(variant)
        if first == second:
            update = self.of(base).update
            return Ratio(1.0, 1.0, 1.0, 0, update, update, 0.0)
        key = f"{first} {second}"
        if key not in self.ratios:
            with using_threads(self.threads), torch.random.fork_rng():
                trials = self._trial(base), self._trial(variant)
                found = measure_ratio(trials[0].update, trials[1].update, width=WIDTH, at_most=AT_MOST_SECONDS)
                if found.width > WIDTH:
                    raise MinigptError(_too_busy(base, variant, found))
                for each, update, trial in zip((first, second), (found.first, found.second), trials, strict=True):
                    half = found.width * update
                    self.speeds[each] = Speed(update, trial.evaluation(), (update - half, update + half))
            self.ratios[key] = found
            self._write()
        return self.ratios[key]

    def _trial(self, variant: Variant) -> Trial:
        corpus = self.corpus_of(variant).to(self.device)
        model = build_model(variant.experiment, corpus.vocab_size).to(self.device)
        return Trial(variant.experiment, corpus, model, self._precision(variant))

    def _precision(self, variant: Variant) -> str:
        return choose_precision(variant.experiment.training.precision, self.device)

    def _key(self, variant: Variant) -> str:
        """What a variant's speed follows from: settings without the length; source, data, torch, machine and threads."""
        said = json.dumps([variant.name, variant.experiment.to_json()], sort_keys=True)
        if said not in self.keys:
            self.keys[said] = self._digest(variant)
        return self.keys[said]

    def _digest(self, variant: Variant) -> str:
        with using_threads(self.threads):
            precision = self._precision(variant)
            recorded = provenance(variant.experiment, self.corpus_of(variant), device=self.device, precision=precision)
        settings = {key: value for key, value in recorded.experiment.items() if key not in ("seed", "training")}
        of_length = ("max_iters", "schedule", "eval_interval")
        of_training = recorded.experiment["training"]
        assert isinstance(of_training, dict)
        training = {key: value for key, value in of_training.items() if key not in of_length}
        sources = sorted((each.component, each.sha256 or "") for each in recorded.components)
        parts = [
            settings,
            training,
            sources,
            recorded.core,
            *(section.model_dump(mode="json") for section in (recorded.versions, recorded.machine, recorded.data)),
            recorded.precision,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _read(self) -> None:
        """What was measured before.

        Raises:
            RunError: The file is damaged.
        """
        try:
            kept = _Kept.model_validate(read_object(self.file))
        except (UnreadableError, ValidationError) as error:
            raise RunError(f"{self.file} is damaged. Remove it, and speeds are measured again") from error
        self.ratios = {key: Ratio(**entry.model_dump()) for key, entry in kept.ratios.items()}
        self.speeds = {key: Speed(**entry.model_dump()) for key, entry in kept.speeds.items()}

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        speeds = {
            key: {"update": speed.update, "evaluation": speed.evaluation, "spread": list(speed.spread)}
            for key, speed in self.speeds.items()
        }
        write_json(self.file, {"ratios": {key: asdict(ratio) for key, ratio in self.ratios.items()}, "speeds": speeds})


def described(ratio: Ratio) -> str:
    """A ratio for the note of what it changed, with its precision, and with a word where the machine was busy."""
    if not ratio.pairs:
        return "the same parts and settings take the same time"
    busy = f"; the machine was busy: equal updates varied by {ratio.variation:.0%}" if ratio.variation > _VARIES else ""
    return f"an update takes {ratio} of the base's{busy}"


def _too_busy(base: Variant, variant: Variant, found: Ratio) -> str:
    load = f"load {os.getloadavg()[0]:.1f} on " if hasattr(os, "getloadavg") else ""
    machine = f"{load}{count(os.cpu_count() or 1, 'core')}, equal updates varied by {found.variation:.0%}"
    return (
        f"--budget time: the machine is too busy to measure ({machine}): after {AT_MOST_SECONDS:.0f} s an update of "
        f"{variant.name} is known to take {found} of {base.name}'s, and ± {WIDTH:.0%} is needed. "
        "Call again when it is quiet, or choose --budget flops"
    )


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _KeptRatio(_Entry):
    value: _Positive
    low: _Positive
    high: _Positive
    pairs: Annotated[int, Field(gt=0)]
    first: _Positive
    second: _Positive
    variation: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _KeptSpeed(_Entry):
    update: _Positive
    evaluation: _Positive
    spread: tuple[_Positive, _Positive]


class _Kept(_Entry):
    ratios: dict[str, _KeptRatio]
    speeds: dict[str, _KeptSpeed]


@contextmanager
def using_threads(number: int | None) -> Iterator[None]:
    """So many threads of torch's, and then as many as before; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
