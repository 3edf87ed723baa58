from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY
from minigpt.run.checkpoint import pack, unpack

NAMES = [entry.name for entry in REGISTRY.entries("optimizer")]


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(ModelSection.model_validate({"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 8, "dropout": 0.0}), 11)


def optimizer_of(lm: GPT, name: str, **params: Any) -> torch.optim.Optimizer:
    built = REGISTRY.resolve("optimizer", {"name": name, **params}).build().build(list(lm.named_roles()))
    assert isinstance(built, torch.optim.Optimizer)
    return built


def step(lm: GPT, optimizer: torch.optim.Optimizer, number: int) -> None:
    ids = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(number))
    lm.loss(ids[:, :-1], ids[:, 1:])[0].backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    lm = model()
    held = [id(tensor) for group in optimizer_of(lm, name).param_groups for tensor in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in lm.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_it_lowers_the_loss_and_stays_finite(name: str) -> None:
    lm = model()
    optimizer = optimizer_of(lm, name)
    ids = torch.randint(0, 11, (4, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(60):
        loss = lm.loss(ids[:, :-1], ids[:, 1:])[0]
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.isfinite(parameter).all() for parameter in lm.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_its_state_is_saved_without_pickle_and_goes_on_bit_for_bit(name: str) -> None:
    whole, first = model(), model()
    straight, before = optimizer_of(whole, name), optimizer_of(first, name)
    for number in range(7):
        step(whole, straight, number)
    for number in range(3):
        step(first, before, number)
    tensors: dict[str, torch.Tensor] = {}
    saved = json.loads(json.dumps(pack(before.state_dict(), tensors)))
    second = model()
    second.load_state_dict(first.state_dict())
    after = optimizer_of(second, name)
    after.load_state_dict(unpack(saved, tensors))
    for number in range(3, 7):
        step(second, after, number)
    for (key, a), (_, b) in zip(whole.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), key


def test_adamw_is_the_papers_and_decays_matrices_only() -> None:
    """Algorithm 2 of Loshchilov & Hutter 2017, in float64."""
    lm = model()
    rate, (beta1, beta2), eps, decay = 0.01, (0.8, 0.95), 1e-6, 0.3
    optimizer = optimizer_of(lm, "adamw", learning_rate=rate, betas=[beta1, beta2], eps=eps, weight_decay=decay)
    expected = {name: parameter.detach().double() for name, parameter in lm.named_parameters()}
    mean = {name: torch.zeros_like(value) for name, value in expected.items()}
    square = {name: torch.zeros_like(value) for name, value in expected.items()}
    for number in range(1, 6):
        ids = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(number))
        lm.loss(ids[:, :-1], ids[:, 1:])[0].backward()
        for name, parameter in lm.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            mean[name] = beta1 * mean[name] + (1 - beta1) * gradient
            square[name] = beta2 * square[name] + (1 - beta2) * gradient**2
            update = mean[name] / (1 - beta1**number) / ((square[name] / (1 - beta2**number)).sqrt() + eps)
            shrink = rate * decay if parameter.ndim >= 2 else 0.0
            expected[name] = expected[name] - shrink * expected[name] - rate * update
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in lm.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], atol=1e-6, rtol=1e-5)


def gradients(lm: GPT, number: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(number))
    lm.loss(ids[:, :-1], ids[:, 1:])[0].backward()
    return {name: p.grad.double() for name, p in lm.named_parameters() if p.grad is not None}


def test_lion_is_the_papers() -> None:
    """Algorithm 2 of Chen et al. 2023."""
    lm = model()
    rate, (beta1, beta2), decay = 0.003, (0.8, 0.95), 0.5
    optimizer = optimizer_of(lm, "lion", learning_rate=rate, betas=[beta1, beta2], weight_decay=decay)
    momentum: dict[str, torch.Tensor] = {}
    for number in range(1, 6):
        before = {name: parameter.detach().double() for name, parameter in lm.named_parameters()}
        gradient = gradients(lm, number)
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in lm.named_parameters():
            m = momentum.get(name, torch.zeros_like(before[name]))
            mixed = beta1 * m + (1 - beta1) * gradient[name]
            momentum[name] = beta2 * m + (1 - beta2) * gradient[name]
            shrink = decay if parameter.ndim >= 2 else 0.0
            expected = before[name] - rate * (mixed.sign() + shrink * before[name])
            sure = mixed.abs() > 1e-9  # the sign of what is all but zero is rounding
            torch.testing.assert_close(parameter.double()[sure], expected[sure], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_momentum(nesterov: bool) -> None:
    lm = model()
    optimizer = optimizer_of(lm, "sgd", learning_rate=0.05, momentum=0.7, nesterov=nesterov, weight_decay=0.1)
    momentum: dict[str, torch.Tensor] = {}
    for number in range(1, 5):
        before = {name: parameter.detach().double() for name, parameter in lm.named_parameters()}
        gradient = gradients(lm, number)
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in lm.named_parameters():
            g = gradient[name] + (0.1 * before[name] if parameter.ndim >= 2 else 0)
            momentum[name] = g if number == 1 else 0.7 * momentum[name] + g
            direction = g + 0.7 * momentum[name] if nesterov else momentum[name]
            torch.testing.assert_close(parameter.double(), before[name] - 0.05 * direction, atol=1e-6, rtol=1e-5)
