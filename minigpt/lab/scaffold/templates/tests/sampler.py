"""The sampler keeps its contract, and its text has the surprise that was asked for."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from minigpt import load_experiment
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"


@conformance("sampler", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_its_text_has_the_surprise_that_was_asked_for() -> None:
    sampler = load_experiment(EXPERIMENT).sampling.sampler.build()
    memory, generator = sampler.new_memory(), torch.Generator().manual_seed(0)
    ids, surprises = [0], []
    for _ in range(1000):
        logits = torch.randn(50, generator=generator)
        p = sampler.probabilities(logits, ids, memory)
        ids.append(int(torch.multinomial(p, 1, generator=generator)))
        surprises.append(-math.log2(float(p[ids[-1]])))
        sampler.observe(ids[-1], p, memory)
    assert abs(sum(surprises) / len(surprises) - 2) < 0.2
