from __future__ import annotations

import json
import typing
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minigpt.contracts import NamedParameter
from minigpt.run.packing import pack, unpack
from tests.plugins.conftest import Build, Train
from tests.rounding import assert_formula, normal

KINDS = {"matrix": (3, 5), "embedding": (7, 4), "head": (2, 6), "vector": (4,)}


def parameters() -> list[NamedParameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        NamedParameter(role, nn.Parameter(torch.randn(shape, generator=generator).double()), typing.cast(Any, role))
        for role, shape in KINDS.items()
    ]


def set_gradients(held: list[NamedParameter], number: int) -> list[Tensor]:
    """Random gradients, of another size at every update."""
    drawn = [(1 + number) * normal(*parameter.tensor.shape, seed=100 + number) for parameter in held]
    for parameter, gradient in zip(held, drawn, strict=True):
        parameter.tensor.grad = gradient
    return drawn


@pytest.mark.parametrize("power", [0.25, 0.0, 1.5, None])
@pytest.mark.parametrize("betas", [(0.9, 0.9999), (0.5, 0.3), (0.0, 0.0)])
def test_it_is_the_papers_and_decays_matrices_only(build: Build, betas: tuple[float, float], power: float | None) -> None:
    """Algorithm 2 of Taniguchi et al. 2024, in float64, under a learning rate that changes."""
    held, (beta1, beta2), eps, decay, peak = parameters(), betas, 0.3, 0.2, 0.05
    settings = {"learning_rate": peak, "betas": list(betas), "eps": eps, "weight_decay": decay, "clip_power": power}
    optimizer = build(**settings).build(held)
    theta = [parameter.tensor.detach().clone() for parameter in held]
    v = [gradient**2 for gradient in set_gradients(held, 0)]
    m = [torch.zeros_like(value) for value in v]
    optimizer.step()
    for parameter, start in zip(held, theta, strict=True):
        assert torch.equal(parameter.tensor, start), "the first gradient moves nothing"
    for t in range(1, 6):
        rate = peak / t
        for group in optimizer.param_groups:
            group["lr"] = rate
        gradients = set_gradients(held, t)
        optimizer.step()
        for index, g in enumerate(gradients):
            normed = g / v[index].sqrt().clamp(min=eps)
            if power is not None:
                normed = normed.clamp(-(t**power), t**power)
            m[index] = beta1 * m[index] + (1 - beta1) * normed
            shrink = 0.0 if held[index].role == "vector" else decay
            theta[index] = theta[index] - rate * shrink * theta[index] - rate * m[index]
            v[index] = beta2 * v[index] + (1 - beta2) * g**2
            assert_formula(held[index].tensor.detach(), theta[index])


def test_a_parameter_whose_gradient_comes_later_begins_later(build: Build) -> None:
    early, late, other = parameters(), parameters(), build().build
    optimizer, whole = other(early), other(late)
    for number in range(4):
        set_gradients(early, number)
        if number < 2:
            early[0].tensor.grad = None
        optimizer.step()
    for number in (2, 3):
        set_gradients(late, number)
        whole.step()
    assert torch.equal(early[0].tensor, late[0].tensor)
    assert not torch.equal(early[1].tensor, late[1].tensor)


@pytest.mark.parametrize("before", [0, 1, 4])
def test_a_saved_state_goes_on_bit_for_bit(build: Build, before: int) -> None:
    whole, first, second = parameters(), parameters(), parameters()
    straight, saved = build().build(whole), build().build(first)
    for number in range(before):
        set_gradients(first, number)
        saved.step()
    tensors: dict[str, Tensor] = {}
    document = json.loads(json.dumps(pack(saved.state_dict(), tensors)))
    resumed = build().build(second)
    resumed.load_state_dict(unpack(document, tensors))
    for parameter, own in zip(second, first, strict=True):
        parameter.tensor.data.copy_(own.tensor)
    for number in range(7):
        set_gradients(whole, number)
        straight.step()
        if number >= before:
            set_gradients(second, number)
            resumed.step()
    for a, b in zip(whole, second, strict=True):
        assert torch.equal(a.tensor, b.tensor), a.name


def test_gradients_of_zero_and_huge_ones_after_them_leave_weights_finite(build: Build) -> None:
    held = parameters()
    optimizer = build(weight_decay=0.0).build(held)
    before = [parameter.tensor.detach().clone() for parameter in held]
    for size in (0.0, 0.0, 1e15, 1e-30):
        for parameter in held:
            parameter.tensor.grad = torch.full_like(parameter.tensor, size)
        optimizer.step()
    for parameter, start in zip(held, before, strict=True):
        assert (parameter.tensor - start).abs().max() < 0.01, "clipped: ten steps of the learning rate at most"
        assert (parameter.tensor != start).all()


def test_its_experiment_trains(train_experiment: Train) -> None:
    rows = train_experiment(updates=8).run.rows()
    assert rows[-1].train_loss < rows[0].train_loss
