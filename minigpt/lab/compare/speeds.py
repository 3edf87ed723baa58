"""Measure how fast variants train on this machine, and keep the measurements in a file."""

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
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from minigpt.data import Corpus
from minigpt.errors import MinigptError, RunError, UnreadableError, count
from minigpt.lab.compare.variants import Variant
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.run.provenance import provenance
from minigpt.system.files import read_object, write_json
from minigpt.training.building import build_trainable
from minigpt.training.estimate import Speed, Trial, measure_speed
from minigpt.training.interleaved import Ratio, measure_ratio
from minigpt.training.machine import choose_device, choose_precision

WIDTH = 0.03
"""Required precision of the ratio of two variants' times: relative half-width of its 95 % confidence interval."""

AT_MOST_SECONDS = 120.0
_VARIES = 0.2  # if the quartiles of equal updates are further apart than this part of the median, the machine is busy


class Speeds:
    """Measured times of updates, kept in a file so that a plan does not change when it is made again.

    Each measurement is stored under a key that covers everything it depends on.

    Args:
        file: The file of measurements.
        corpus_of: Returns a variant's corpus.
        device: As for `minigpt run`.
        threads: Threads of each run; None for torch's choice.
        reading: Whether plugins of a teacher may be loaded.
    """

    def __init__(
        self,
        file: Path,
        corpus_of: Callable[[Variant], Corpus],
        device: str,
        threads: int | None,
        reading: Reading = AS_WRITTEN,
    ):
        self.file, self.corpus_of, self.threads, self.reading = file, corpus_of, threads, reading
        self.device = choose_device(device)
        self.keys: dict[str, str] = {}
        self.ratios: dict[str, Ratio] = {}
        self.speeds: dict[str, Speed] = {}
        if file.is_file():
            self._read()

    def of(self, variant: Variant) -> Speed:
        """A variant's speed, measured over a few updates; it is used to estimate the training time."""
        key = self._key(variant)
        if key not in self.speeds:
            with using_threads(self.threads):
                corpus = self.corpus_of(variant).to(self.device)
                model = build_trainable(variant.experiment, corpus, self.device, self.reading)
                self.speeds[key] = measure_speed(variant.experiment, corpus, model, self._precision(variant))
            self._write()
        return self.speeds[key]

    def ratio(self, base: Variant, variant: Variant) -> Ratio:
        """The time of the variant's update, divided by the time of the base's; both are timed in alternation.

        Raises:
            MinigptError: The machine is too busy to measure the ratio with the required precision.
        """
        first, second = self._key(base), self._key(variant)
        if first == second:
            update = self.of(base).update
            return Ratio(1.0, 1.0, 1.0, 0, update, update, 0.0)
        key = f"{first} {second}"
        if key not in self.ratios:
            with using_threads(self.threads), torch.random.fork_rng():
                trials = self._trial(base), self._trial(variant)
                ratio = measure_ratio(trials[0].update, trials[1].update, width=WIDTH, at_most=AT_MOST_SECONDS)
                if ratio.width > WIDTH:
                    raise MinigptError(_too_busy(base, variant, ratio))
                for each, update, trial in zip((first, second), (ratio.first, ratio.second), trials, strict=True):
                    half = ratio.width * update
                    self.speeds[each] = Speed(update, trial.evaluation(), (update - half, update + half))
            self.ratios[key] = ratio
            self._write()
        return self.ratios[key]

    def _trial(self, variant: Variant) -> Trial:
        corpus = self.corpus_of(variant).to(self.device)
        model = build_trainable(variant.experiment, corpus, self.device, self.reading)
        return Trial(variant.experiment, corpus, model, self._precision(variant))

    def _precision(self, variant: Variant) -> str:
        return choose_precision(variant.experiment.training.precision, self.device)

    def _key(self, variant: Variant) -> str:
        """A digest of what a variant's speed depends on: settings except the length, source, data, machine, threads."""
        settings = json.dumps([variant.name, variant.experiment.to_json()], sort_keys=True)
        if settings not in self.keys:
            self.keys[settings] = self._digest(variant)
        return self.keys[settings]

    def _digest(self, variant: Variant) -> str:
        with using_threads(self.threads):
            precision = self._precision(variant)
            recorded = provenance(variant.experiment, self.corpus_of(variant), device=self.device, precision=precision)
        settings = {key: value for key, value in recorded.experiment.items() if key not in ("seed", "training")}
        without_effect = ("max_iters", "schedule", "eval_interval")  # on the time of an update
        recorded_training = recorded.experiment["training"]
        assert isinstance(recorded_training, dict)
        training = {key: value for key, value in recorded_training.items() if key not in without_effect}
        training["optimizer"] = _without_rates(training["optimizer"])
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
        """Read the earlier measurements.

        Raises:
            RunError: The file is damaged.
        """
        try:
            kept = _Kept.model_validate(read_object(self.file))
        except (UnreadableError, ValidationError) as error:
            raise RunError(f"{self.file} is damaged. Remove it; then the speeds are measured again") from error
        self.ratios = {key: Ratio(**entry.model_dump()) for key, entry in kept.ratios.items()}
        self.speeds = {key: Speed(**entry.model_dump()) for key, entry in kept.speeds.items()}

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        speeds = {
            key: {"update": speed.update, "evaluation": speed.evaluation, "spread": list(speed.spread)}
            for key, speed in self.speeds.items()
        }
        write_json(self.file, {"ratios": {key: asdict(ratio) for key, ratio in self.ratios.items()}, "speeds": speeds})


def _without_rates(optimizer: JsonValue) -> JsonValue:
    """An optimizer's settings without learning rates, which have no effect on the time of an update."""
    if not isinstance(optimizer, dict):
        return optimizer
    return {key: _without_rates(value) for key, value in optimizer.items() if key != "learning_rate"}


def described(ratio: Ratio) -> str:
    """A ratio in words, with its precision, and with a note if the machine was busy."""
    if not ratio.pairs:
        return "an update has the same parts and settings as the base's, so it takes the same time"
    busy = f"; the machine was busy: equal updates varied by {ratio.variation:.0%}" if ratio.variation > _VARIES else ""
    return f"an update takes {ratio} of the base's{busy}"


def _too_busy(base: Variant, variant: Variant, ratio: Ratio) -> str:
    load = f"load {os.getloadavg()[0]:.1f} on " if hasattr(os, "getloadavg") else ""
    machine = f"{load}{count(os.cpu_count() or 1, 'core')}, equal updates varied by {ratio.variation:.0%}"
    return (
        f"--budget time: the machine is too busy to measure ({machine}). After {AT_MOST_SECONDS:.0f} s the ratio of the "
        f"times of an update of {variant.name} and {base.name} is {ratio}, and ± {WIDTH:.0%} is needed. "
        "Call again when the machine is not busy, or choose --budget flops"
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
    """Set torch's number of threads, and restore it on exit. None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
