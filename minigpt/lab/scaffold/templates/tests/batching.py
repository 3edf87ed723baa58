"""The batching keeps its contract, and its batches come from more and more data."""

from __future__ import annotations

from pathlib import Path

import torch

from minigpt import load_experiment
from minigpt.contracts import Draw, Source, TokenStream
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"


@conformance("batching", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_data_that_it_draws_from_grow() -> None:
    batching = load_experiment(EXPERIMENT).training.batching.build()
    source = Source(TokenStream(torch.arange(10_000)), 10_000, None)
    draws = (Draw(seed=1, step=step, max_iters=100, batch_size=64, block_size=16) for step in (0, 99))
    first, last = (int(batching.batch(source, draw).tokens.max()) for draw in draws)
    assert first < last
