from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt.contracts import Context, Dims, Position
from minigpt.experiment import ModelSection
from tests.plugins.conftest import Build, Use
from tests.rounding import assert_formula, normal
from tests.strategies import BLOCK_SIZE, cuts, model_with_large_weights, tokens

DIMS = Dims(8, 4, 2, 4, 16, 11, 0.0, 1)
PRIME = 2**31 - 1


def randomised(build: Build, **params: Any) -> nn.Module:
    module = build(DIMS, **params)
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.double()


def forward(module: nn.Module, x: Tensor, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x, Context(torch.arange(x.shape[1]), Position(), ids))


def papers(module: nn.Module, x: Tensor, ids: Tensor, orders: list[int], hashes: int, buckets: int) -> Tensor:
    """Section 2 of Cheng et al. 2026, without the convolution: token by token, with integers of any size."""
    w = {name: parameter.detach() for name, parameter in module.named_parameters()}
    y = torch.zeros_like(x)
    for row, sequence in enumerate(ids.tolist()):
        for t in range(len(sequence)):
            read = []
            for order in orders:
                for each in range(hashes):
                    hashed = 0
                    for place in range(t - order + 1, t + 1):
                        hashed = hashed * (1_000_003 + 2 * (hashes + each)) + (sequence[place] + 1 if place >= 0 else 0)
                    read.append(w[f"tables.{len(read)}.weight"][hashed % PRIME % buckets])
            e, h = torch.cat(read), x[row, t]
            key = w["key.weight"] @ e
            rms = [(vector.square().mean() + 1e-6).sqrt() for vector in (h, key)]
            gate = torch.sigmoid((h / rms[0]) @ (key / rms[1]) / 8**0.5)
            y[row, t] = gate * (w["value.weight"] @ e)
    return y + module.ffn(x, Context(torch.arange(x.shape[1]), Position(), ids)).detach()


@pytest.mark.parametrize(("orders", "hashes", "buckets"), [([2, 3], 2, 64), ([1], 1, 5), ([4, 2], 3, 1000)])
def test_it_computes_the_papers_formula(build: Build, orders: list[int], hashes: int, buckets: int) -> None:
    module = randomised(build, orders=orders, hashes=hashes, buckets=buckets)
    x, ids = normal(2, 9, 8, seed=1), tokens(2, 9, 3) % 11
    assert_formula(forward(module, x, ids), papers(module, x, ids, orders, hashes, buckets))


def test_it_reads_the_last_n_tokens_and_no_more(build: Build) -> None:
    module = randomised(build, orders=[3])
    x, ids = normal(1, 8, 8, seed=1), tokens(1, 8, 3) % 11
    changed = ids.clone()
    changed[:, 2] = (ids[:, 2] + 1) % 11
    differs = (forward(module, x, ids) != forward(module, x, changed)).any(-1)[0].tolist()
    assert differs == [t in (2, 3, 4) for t in range(8)]


def test_layers_and_tables_hash_differently(build: Build) -> None:
    multipliers = [multiplier for layer in range(4) for _, multiplier in build(Dims(8, 4, 2, 4, 16, 11, 0.0, layer)).kinds]
    assert len(set(multipliers)) == 4 * 2, "the same two for each length in a layer"


@given(st.data(), st.sampled_from(["mlp", {"name": "engram", "orders": [2], "ffn": "glu"}]))
def test_a_model_with_it_decodes_in_any_chunks(data: st.DataObject, ffn: Any) -> None:
    section = {"d_model": 8, "n_heads": 2, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.0}
    model = model_with_large_weights(
        ModelSection.model_validate({**section, "ffn": {"name": "engram", "ffn": ffn}})
    ).double()
    ids = tokens(2, BLOCK_SIZE, 3)
    state = model.new_state(2, BLOCK_SIZE, torch.float64)
    with torch.no_grad():
        steps = [model(part, state) for part in ids.split(data.draw(cuts(BLOCK_SIZE)), 1)]
        assert_formula(torch.cat(steps, 1), model(ids))


@pytest.mark.slow
def test_a_user_checks_trains_and_generates(use: Use) -> None:
    use("model.n_layers=4")
