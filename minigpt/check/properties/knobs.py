"""The property that each keyword parameter has an effect: a parameter that changes nothing is a bug."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from minigpt.check.agreement import run
from minigpt.check.cases import Case, positions_for
from minigpt.check.parameters import alternatives, required
from minigpt.check.probe import build, inputs
from minigpt.check.properties import batching, dataset, init, objective, optimizer, sampler, schedule, tokenizer
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import PARTS_OF_A_MODEL, Target
from minigpt.errors import ExperimentError
from minigpt.model import after_step

_OUTCOMES: dict[str, Callable[[Target, Mapping[str, Any]], object]] = {
    "tokenizer": tokenizer.outcome,
    "dataset": dataset.outcome,
    "batching": batching.outcome,
    "optimizer": optimizer.outcome,
    "schedule": schedule.outcome,
    "objective": objective.outcome,
    "init": init.outcome,
    "sampler": sampler.outcome,
}
"""Functions that return a comparable outcome of a component, by family; parts of a model share `_of_part`."""


@dataclass(frozen=True)
class Knob:
    """The test case of one parameter.

    Attributes:
        parameter: The parameter's name.
    """

    parameter: str


def _knobs(target: Target) -> list[Knob]:
    assert target.entry is not None
    return [Knob(name) for name in target.entry.params.model_fields]


@property_of(*PARTS_OF_A_MODEL, *_OUTCOMES, cases=_knobs)
def knobs(target: Target, knob: Knob) -> None:
    """Every keyword parameter changes the computation for some value."""
    assert target.entry is not None
    values = alternatives(target.entry)[knob.parameter]
    if not values:
        raise Unsuitable(f"no value to try is known for {knob.parameter}: add Field(examples=[...])")
    outcomes: dict[str, object] = {}

    def outcome(params: Mapping[str, Any]) -> object:
        key = json.dumps(params, sort_keys=True, default=str)
        if key not in outcomes:
            try:
                outcomes[key] = _OUTCOMES.get(target.family, _of_part)(target, params)
            except (Unsuitable, ExperimentError) as refusal:
                outcomes[key] = refusal
        return outcomes[key]

    compared = 0
    for base in itertools.islice(_bases(target, knob), 200):
        before = outcome(base)
        for value in values:
            after = outcome({**base, knob.parameter: value})
            if isinstance(before, Exception) or isinstance(after, Exception):
                continue
            if before != after:
                return
            compared += 1
        if compared > 150:
            break
    if not compared:
        raise Unsuitable(f"no tried value of {knob.parameter} is allowed: add Field(examples=[...])")
    raise Violation(
        f"{knob.parameter} changes nothing: {len(values)} values ({values[0]!r}, …) were tried, in {compared} comparisons",
        cause="is it stored but never used, or used only under a condition that never holds?",
    )


def _bases(target: Target, knob: Knob) -> Iterator[dict[str, Any]]:
    """Yield the defaults, then other parameters changed, because a knob may need them to have an effect."""
    assert target.entry is not None
    base = required(target.entry)
    yield base
    others = {name: values for name, values in alternatives(target.entry).items() if name != knob.parameter and values}
    for name, values in others.items():
        yield from ({**base, name: value} for value in values[:4])
    rng = random.Random(0)
    while others:
        changed = rng.sample(sorted(others), rng.randint(2, max(2, len(others) // 2))) if len(others) > 1 else list(others)
        yield {**base, **{name: rng.choice(others[name]) for name in changed}}


def _of_part(target: Target, params: Mapping[str, Any]) -> str:
    """Return a digest of weight shapes, of outputs and gradients in train mode, and of buffers after an update.

    The weights are initial, since a knob may affect initialisation; train mode, since a knob may be a dropout rate.
    """
    position = positions_for(target)[-1]
    case = Case(dict(params), 4, 4, 16, time=40, position=position, training=True, seed=1)
    subject = build(target, case, initial=True)
    digest = hashlib.sha256()
    for name, parameter in subject.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
    x, tokens = inputs(subject, case)
    for _ in range(2):
        y = run(subject, x, tokens, gradients=True)
        digest.update(y.detach().contiguous().numpy().tobytes())
        digest.update(subject.auxiliary().detach().numpy().tobytes())
        subject.zero_grad()
        if (total := y.square().sum() + subject.auxiliary()).requires_grad:
            torch.autograd.backward(total)
        for parameter in subject.parameters():
            digest.update(b"" if parameter.grad is None else parameter.grad.contiguous().numpy().tobytes())
        after_step(subject)
        for _, buffer in subject.named_buffers():
            digest.update(buffer.contiguous().float().numpy().tobytes())
    return digest.hexdigest()
