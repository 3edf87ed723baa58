from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minigpt.contracts import Dims, Position
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Build, Train
from tests.rounding import assert_formula


def sandwich(heads: int, **params: float) -> Position:
    dims = Dims(4 * heads, 1, heads, 4, 16, 11, 0.0)
    built = REGISTRY.resolve("position", {"name": "sandwich", **params}).build(dims)
    assert isinstance(built, Position)
    return built.double()


def bias(position: Position, q: Tensor, k: Tensor) -> Tensor:
    planes = position.bias(q, k)
    assert planes is not None
    return planes


def sinusoidal(position: int, width: int, base: float) -> Tensor:
    """Vaswani et al. 2017, with i from 1 as in Chi et al. 2022."""
    angles = torch.tensor([position / base ** (2 * i / width) for i in range(1, width // 2 + 1)], dtype=torch.float64)
    return torch.cat((angles.sin(), angles.cos()))


@given(
    st.integers(1, 5), st.sampled_from([2, 6, 128]), st.sampled_from([100.0, 1e4]), st.floats(0.5, 20), st.integers(0, 300)
)
def test_it_is_the_inner_product_of_sinusoidal_positions(
    heads: int, width: int, base: float, ratio: float, start: int
) -> None:
    q, k = torch.arange(start + 3, start + 7), torch.arange(start, start + 7)
    products = torch.tensor(
        [[float(sinusoidal(m, width, base) @ sinusoidal(n, width, base)) for n in k.tolist()] for m in q.tolist()],
        dtype=torch.float64,
    )
    expected = torch.stack([(products - width / 2) / (ratio * head / heads) for head in range(1, heads + 1)])
    got = bias(sandwich(heads, width=width, base=base, ratio=ratio), q, k)
    assert_formula(got, expected)


def test_the_parameters_of_the_paper_are_its_defaults() -> None:
    assert dict(REGISTRY.resolve("position", "sandwich").params) == {"width": 128, "base": 10_000.0, "ratio": 8.0}


def test_only_the_distance_counts_to_the_bit() -> None:
    position = sandwich(4)
    here = torch.arange(20)
    assert torch.equal(bias(position, here, here), bias(position, here + 5000, here + 5000))
    assert torch.equal(bias(position, here[7:8], here), bias(position, here, here)[:, 7:8])


def test_a_token_is_nearest_to_itself_and_heads_differ_by_their_ratio() -> None:
    planes = bias(sandwich(4), torch.arange(100, 101), torch.arange(101))[:, 0]
    assert (planes[:, -1] == 0).all()
    assert (planes[:, :-1] < 0).all()
    assert planes[0, 99] > planes[0, 90] > planes[0, 50]
    assert_formula(planes[0], 4 * planes[3])


def test_there_is_nothing_to_train_and_nothing_to_save() -> None:
    assert sandwich(4).state_dict() == {}


@pytest.mark.parametrize("params", [{"width": 7}, {"width": 0}, {"base": 1.0}, {"ratio": 0.0}])
def test_values_without_a_meaning_are_refused(build: Build, params: dict[str, float]) -> None:
    with pytest.raises(ExperimentError, match=next(iter(params))):
        build(Dims(8, 1, 2, 4, 16, 11, 0.0), **params)


def test_its_experiment_trains(train_experiment: Train) -> None:
    rows = train_experiment().run.rows()
    assert rows[-1].train_loss < rows[0].train_loss
