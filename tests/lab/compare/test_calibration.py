"""Tests with trained grids how often a variant that equals the base is called better or worse."""

from __future__ import annotations

import pytest
import torch

from minigpt import register
from minigpt.components.attention.mha import MultiHeadAttention
from minigpt.contracts import Dims
from minigpt.lab.compare.plan import Settings, make_plan
from tests.lab.compare.conftest import Write, train_here

GRIDS, SEEDS = 20, 4
SHORT = {"training": {"max_iters": 40, "eval_interval": 40, "optimizer": {"learning_rate": 0.01}}}


@pytest.mark.slow
def test_of_twenty_grids_of_an_experiment_with_itself_at_most_one_is_called_better_or_worse(write: Write) -> None:
    """The variant is the base with other random numbers: it discards one number before it draws its weights."""

    @register("attention", "twin")
    class Twin(MultiHeadAttention):
        def __init__(self, dims: Dims):
            torch.rand(1)
            super().__init__(dims)

    kinds = []
    for grid in range(GRIDS):
        base, twin = (
            write(f"{name}-{grid}", seed=1000 * grid, model={"attention": attention}, **SHORT)
            for name, attention in (("base", "mha"), ("twin", "twin"))
        )
        plan = make_plan([base, twin], Settings(noise=False, seeds=SEEDS, delta=1e-6))
        train_here(plan.grid)
        _, result = plan.judge().variants
        assert result.difference is not None
        assert len({*result.losses, *plan.judge().variants[0].losses}) == 2 * SEEDS, "no two runs are one"
        kinds.append(result.difference.kind)
    print(kinds)
    assert sum(kind in ("better", "worse") for kind in kinds) <= GRIDS * 0.05
