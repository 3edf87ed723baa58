"""Every part computes in float64 for float64 inputs, on each of its paths; and fp32 equals it up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from minigpt.check.agreement import Narrowing
from minigpt.contracts import Context, Dims, Layer
from minigpt.registry import REGISTRY
from tests.rounding import assert_formula, assert_stable, normal
from tests.strategies import allowed, choices

DIMS = Dims(d_model=16, n_layers=2, n_heads=4, head_dim=4, block_size=24, vocab_size=9, dropout=0.0)
TIME = 20
FAMILIES = ("attention", "position", "norm", "ffn", "block")
CASES = [(family, spec) for family in FAMILIES for spec in choices(family)]


class Part(nn.Module):
    """A component of any family on sequences of vectors; a position is tested with an attention that applies it."""

    def __init__(self, family: str, spec: dict[str, Any]):
        super().__init__()
        mixer = (
            next(name for name in ("mha", "retention", "linear") if allowed({"name": name}, spec))
            if family == "position"
            else "mha"
        )
        resolved = REGISTRY.resolve(family, spec)
        self.position = resolved.build(DIMS) if family == "position" else REGISTRY.resolve("position", "none").build(DIMS)
        if family == "norm":
            self.part = resolved.build(DIMS.d_model)
        elif family == "block":
            layer = Layer(
                *(
                    REGISTRY.resolve(kind, name)
                    for kind, name in (
                        ("attention", "mha"),
                        ("ffn", "mlp"),
                        ("norm", "rmsnorm"),
                        ("position", "none"),
                        ("block", "pre_norm"),
                    )
                )
            )
            self.part = resolved.build(DIMS, layer)
        else:
            self.part = (REGISTRY.resolve("attention", mixer) if family == "position" else resolved).build(DIMS)
        self.family = family
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4) if parameter.ndim else parameter.data.add_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        if self.family == "norm":
            return self.part(x)
        positions = torch.arange(x.shape[1])
        ctx = Context(positions, self.position, torch.arange(x.shape[1]).expand(len(x), -1) % DIMS.vocab_size)
        x = self.position.embed(x, positions)
        ctx.outputs.append(x)
        if self.family == "block":
            return self.part.leave(self.part(self.part.enter(x), ctx))
        y = self.part(x, ctx)
        return y + sum(ctx.losses, torch.zeros((), dtype=x.dtype))


def part(family: str, spec: dict[str, Any]) -> Part:
    torch.manual_seed(3)
    return Part(family, spec)


def _label(value: Any) -> str:
    return "-".join(str(item) for item in value.values()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("family", "spec"), CASES, ids=_label)
def test_in_float64_all_values_are_float64_and_all_paths_agree(family: str, spec: dict[str, Any]) -> None:
    module, x = part(family, spec).double(), (normal(2, TIME, DIMS.d_model, seed=4) / 3).requires_grad_()
    with Narrowing() as narrowing:
        in_training = module.train()(x)
        in_training.square().sum().backward()
        module.eval()
        with_gradients = module(x).detach()
        with torch.no_grad():
            without = module(x)
    assert not narrowing.operations
    assert_formula(with_gradients, without, "with gradients and without", roundings=10_000)


@pytest.mark.parametrize(("family", "spec"), CASES, ids=_label)
def test_in_fp32_it_equals_float64_up_to_rounding(family: str, spec: dict[str, Any]) -> None:
    modules = {torch.float64: part(family, spec).double().eval(), torch.float32: part(family, spec).eval()}

    def compute(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        held = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        parameters = {name: tensor for name, tensor in held.items() if name != "input"}
        y = functional_call(modules[held["input"].dtype], parameters, (held["input"],))
        of = (y * normal(*y.shape, seed=5).to(y.dtype)).sum()
        gradients = torch.autograd.grad(of, held.values(), allow_unused=True)
        return {"outputs": y.detach(), **{name: g for name, g in zip(held, gradients, strict=True) if g is not None}}

    weights = {name: p.detach() for name, p in modules[torch.float64].named_parameters()}
    inputs = {"input": normal(2, TIME, DIMS.d_model, seed=4), **weights}
    # A number goes through sums over the width, over earlier tokens, and over a hidden layer four times as wide; and back.
    assert_stable(compute, inputs, 2 * (DIMS.d_model + TIME + 4 * DIMS.d_model))
