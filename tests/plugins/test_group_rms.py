from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Build, Train
from tests.rounding import assert_formula, normal


def norm(width: int, **params: float) -> nn.Module:
    built = REGISTRY.resolve("norm", {"name": "group_rms", **params}).build(width)
    nn.init.normal_(built.weight, 1.0, 0.3, generator=torch.Generator().manual_seed(0))
    assert isinstance(built, nn.Module)
    return built.double()


@given(st.integers(1, 5), st.integers(2, 6), st.sampled_from([1e-6, 0.5]))
def test_it_is_rmsnorm_of_each_group(groups: int, size: int, eps: float) -> None:
    module = norm(groups * size, groups=groups, eps=eps)
    x = normal(2, 3, groups * size, seed=1)
    gain = module.get_parameter("weight")
    pieces = []
    for start in range(0, groups * size, size):
        group = x[..., start : start + size]
        root = ((group**2).sum(-1, keepdim=True) / size + eps) ** 0.5
        pieces.append(group / root * gain[start : start + size])
    assert_formula(module(x), torch.cat(pieces, -1))


def test_one_group_is_the_shipped_rmsnorm() -> None:
    module, shipped = norm(12, groups=1), REGISTRY.resolve("norm", "rmsnorm").build(12).double()
    shipped.load_state_dict(module.state_dict())
    x = normal(5, 12)
    assert_formula(module(x), shipped(x))


def test_a_loud_channel_quietens_its_own_group_only() -> None:
    module, x = norm(12, groups=3), normal(5, 12)
    loud = x.clone()
    loud[:, 5] = 1e4
    before, after = module(x), module(loud)
    assert torch.equal(after[:, :4], before[:, :4])
    assert torch.equal(after[:, 8:], before[:, 8:])
    assert (after[:, [4, 6, 7]].abs() < 1e-2 * before[:, [4, 6, 7]].abs()).all()


@pytest.mark.parametrize("factor", [0.3, 3.0, 1e4])
def test_scale_is_lost_as_it_promises(factor: float) -> None:
    module, x = norm(12, eps=1e-30), normal(5, 12)
    assert_formula(module(factor * x), module(x))


@pytest.mark.parametrize(("width", "groups"), [(10, 4), (6, 6), (3, 4)])
def test_groups_that_cannot_be_made_are_refused(build: Build, width: int, groups: int) -> None:
    with pytest.raises(ExperimentError, match=rf"a width of {width} cannot be cut into {groups} equal groups"):
        build(width, groups=groups)


def test_its_experiment_trains(train_experiment: Train) -> None:
    rows = train_experiment().run.rows()
    assert rows[-1].train_loss < rows[0].train_loss
