from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Position, State
from minigpt.experiment import ModelSection
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Build, Train
from tests.rounding import assert_formula, gamma, normal
from tests.strategies import BLOCK_SIZE, cuts, lively, tokens


def dims(d_model: int = 6, layer: int = 0) -> Dims:
    return Dims(d_model, 4, 2, d_model // 2, 16, 11, 0.0, layer)


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.double()


def forward(module: nn.Module, x: Tensor, state: State | None = None) -> Tensor:
    positions = torch.arange(x.shape[1])
    with torch.no_grad():
        y = module(x, Context(positions, Position(), torch.zeros(x.shape[:2], dtype=torch.long)), state)
    assert isinstance(y, Tensor)
    return y


def papers(module: nn.Module, x: Tensor) -> Tensor:
    """Equations of Peng et al. 2023, section 3.1, token by token and in float64."""
    w = {name: parameter.detach() for name, parameter in module.named_parameters()}
    rows = []
    for sequence in x:
        for t, now in enumerate(sequence):
            before = sequence[t - 1] if t else torch.zeros_like(now)
            k = w["key.weight"] @ (w["key_share"] * now + (1 - w["key_share"]) * before)
            y = w["value.weight"] @ torch.where(k > 0, k, 0) ** 2
            if "receptance.weight" in w:
                r = w["receptance.weight"] @ (w["receptance_share"] * now + (1 - w["receptance_share"]) * before)
                y = y / (1 + torch.exp(-r))
            rows.append(y)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("params", [{}, {"receptance": False}, {"expansion": 0.5}])
def test_it_is_the_papers(build: Build, params: dict[str, float]) -> None:
    module = randomised(build(dims(), **params))
    x = normal(3, 7, 6, seed=1)
    assert_formula(forward(module, x), papers(module, x))


def test_the_shares_start_as_the_papers(build: Build) -> None:
    for layer in range(4):
        module = build(dims(5, layer))
        expected = torch.tensor([(channel / 5) ** (1 - layer / 4) for channel in range(5)], dtype=torch.float64)
        for share in (module.key_share, module.receptance_share):
            assert ((share.detach() - expected).abs() <= gamma(8)).all()  # a quotient to a power, of size 1
        assert module.key_share.data_ptr() != module.receptance_share.data_ptr(), "each is trained by itself"


def test_each_token_sees_itself_and_the_one_before(build: Build) -> None:
    module = randomised(build(dims()))
    x = normal(1, 8, 6, seed=1)
    changed = x.clone()
    changed[:, 3] += 1
    differs = (forward(module, x) != forward(module, changed)).any(-1)[0].tolist()
    assert differs == [t in (3, 4) for t in range(8)]


@given(st.data(), st.sampled_from(["pre_norm", "post_norm", "parallel", "hyper_connections", "ngpt"]))
def test_a_model_with_it_decodes_in_any_chunks(data: st.DataObject, block: str) -> None:
    section = {"d_model": 8, "n_heads": 2, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.0, "block": block}
    model = lively(ModelSection.model_validate({**section, "ffn": "token_shift"})).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        steps = [model(part, state) for part in ids.split(data.draw(cuts(BLOCK_SIZE)), 1)]
        assert_formula(torch.cat(steps, 1), model(ids))


@pytest.mark.parametrize("block", [entry.name for entry in REGISTRY.entries("block") if entry.name != "mixer_only"])
def test_every_block_hands_it_its_state(block: str) -> None:
    section = {"d_model": 8, "n_heads": 2, "n_layers": 3, "block_size": BLOCK_SIZE, "dropout": 0.0, "block": block}
    model = lively(ModelSection.model_validate({**section, "ffn": "token_shift"})).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        steps = [model(ids[:, t : t + 1], state) for t in range(BLOCK_SIZE)]
        assert_formula(torch.cat(steps, 1), model(ids))


def test_what_it_remembers_is_one_token_of_its_own(build: Build) -> None:
    module = build(dims())
    state = module.new_state(2, 1000, torch.device("cpu"), torch.float32)
    assert state.nbytes == 2 * 6 * 4
    x = torch.randn(2, 3, 6)
    forward(module, x, state)
    remembered = x[:, -1].clone()
    x.zero_()
    assert torch.equal(state.tensors["last"][:, 0], remembered)


def test_its_experiment_trains(train_experiment: Train) -> None:
    rows = train_experiment().run.rows()
    assert rows[-1].train_loss < rows[0].train_loss
