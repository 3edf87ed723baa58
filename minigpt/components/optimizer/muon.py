"""Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from minigpt.components.optimizer.groups import decay
from minigpt.contracts import Amount, AveragingOptimizer, MixedPrecisionOptimizer, NamedParameter, Optimizer, OptimizerSpec
from minigpt.errors import ExperimentError, Problem
from minigpt.registry import register

# Coefficients of a s + b s^3 + c s^5 in each singular value s: Jordan's, steep at 0, with results in 0.7 to 1.2.
_A, _B, _C = 3.4445, -4.7750, 2.0315

_BF16_STEPS = 3  # with more steps in bf16, a Gram matrix loses its small eigenvalues, and the result explodes

_REST: Any = {"name": "adamw", "learning_rate": 3e-3}  # as a value in JSON


@register("optimizer", "muon")
class Muon(Optimizer):
    """Steps along the orthogonalised momentum of each matrix, equally far in all directions (Jordan et al. 2024).

    m <- momentum m + (1 - momentum) g,  p <- p - lr (scale orthogonalised(m) + decay p)

    Newton-Schulz iterations, in the precision of the training, bring the singular values near 1
    (kellerjordan.github.io/posts/muon). This applies to matrices, in blocks and in further layers of an objective, each
    matrix of a stack separately; a fused matrix, such as queries, keys and values, counts as one. Maps that an embedding has
    beside its table count as matrices too, unless its `roles` say otherwise. Another optimizer trains tables, head, biases
    and gains. Scaling and decay: Liu et al. 2025, arXiv:2502.16982.

    Args:
        learning_rate: Peak learning rate of the matrices.
        momentum: Decay of the running mean of the gradients.
        nesterov: Orthogonalise the mean of gradient and momentum, weighted by `momentum`, instead of the momentum.
        iterations: Newton-Schulz iterations.
        weight_decay: On the matrices.
        scaling: Factor by a matrix's shape. `spectral` (Jordan) is sqrt(max(1, rows / columns)), which makes the change of
            the matrix's outputs independent of the shape. `match_rms_adamw` (Liu et al.) is 0.2 sqrt(max(rows, columns)),
            which makes steps as large as AdamW's, for a learning rate like AdamW's.
        rest: Optimizer of all other parameters.
    """

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 0.02,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95,
        nesterov: bool = True,
        iterations: Annotated[int, Field(gt=0, le=100)] = 5,
        weight_decay: Amount = 0.01,
        scaling: Literal["spectral", "match_rms_adamw"] = "spectral",
        rest: OptimizerSpec = _REST,
    ):
        self.rest = rest
        self.adaptive = scaling == "match_rms_adamw" and rest.build().adaptive
        self.settings = {
            "lr": learning_rate,
            "momentum": momentum,
            "nesterov": nesterov,
            "iterations": iterations,
            "scaling": scaling,
            **decay(weight_decay),
        }

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        matrices = [p.tensor for p in parameters if p.role == "matrix"]
        with self.rest.errors_located():
            rest = self.rest.build().build([p for p in parameters if p.role != "matrix"])
        if isinstance(rest, AveragingOptimizer):
            text = f"{self.rest.name} evaluates with other weights than it trains: it must train all parameters or none"
            raise ExperimentError([Problem((self.rest.where,), text)])
        return _Muon({"params": matrices, **self.settings}, rest)


class _Muon(MixedPrecisionOptimizer):
    """Groups with a `scaling` are Muon's; the other groups, and their state, belong to the optimizer of the rest."""

    def __init__(self, matrices: dict[str, Any], rest: torch.optim.Optimizer):
        super().__init__([matrices, *rest.param_groups], {})
        self.rest = rest

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if "scaling" in group:
                self._step_matrices(group)
        # Passed at every step, because loading a state creates new objects.
        self.rest.param_groups = [group for group in self.param_groups if "scaling" not in group]
        self.rest.state = self.state
        self.rest.step()

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        gradients = [p.grad for p in parameters]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        directions = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        if self.precision == "bf16":
            directions = [direction.bfloat16() for direction in directions]
        for p, direction in zip(parameters, _orthogonalised(directions, group["iterations"]), strict=True):
            p.add_(direction, alpha=-group["lr"] * _scale(group["scaling"], *p.shape[-2:]))


def _scale(scaling: str, rows: int, columns: int) -> float:
    return math.sqrt(max(1, rows / columns)) if scaling == "spectral" else 0.2 * math.sqrt(max(rows, columns))


def _orthogonalised(matrices: Sequence[Tensor], iterations: int) -> list[Tensor]:
    """Each matrix with its singular values near 1; matrices of equal shape are iterated in one batch."""
    oriented = [matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT for matrix in matrices]  # rows <= columns
    batches: dict[tuple[int, ...], list[int]] = {}
    for index, matrix in enumerate(oriented):
        batches.setdefault(tuple(matrix.shape[-2:]), []).append(index)
    results = list(oriented)
    for shape, indices in batches.items():
        stacks = [oriented[index].reshape(-1, *shape) for index in indices]
        done = torch.split(newton_schulz(torch.cat(stacks), iterations), [len(stack) for stack in stacks])
        for index, stack in zip(indices, done, strict=True):
            result = stack.reshape(oriented[index].shape)
            results[index] = result if oriented[index] is matrices[index] else result.mT
    return results


def newton_schulz(x: Float[Tensor, "matrices rows columns"], iterations: int) -> Float[Tensor, "matrices rows columns"]:
    """The quintic iteration X <- (a + b X X^T + c (X X^T)^2) X, for rows <= columns.

    Every step multiplies from the left by a polynomial of X X^T, which has rows x rows elements. So for a matrix much wider
    than high only this product is iterated, and the total factor is applied to the matrix once, at the end. This gives the
    same numbers in half the time, to 3e-4 of the largest in fp32. In bf16 it is applied after every three iterations.
    """
    rows, columns = x.shape[-2:]
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # so that no singular value is above 1
    if columns <= 1.5 * rows:  # at 1.5 both ways need the same number of multiplications
        for _ in range(iterations):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
        return x
    together = _BF16_STEPS if x.dtype == torch.bfloat16 else iterations
    for done in range(0, iterations, together):
        x = _through_gram(x, min(together, iterations - done))
    return x


def _through_gram(x: Float[Tensor, "matrices rows columns"], iterations: int) -> Float[Tensor, "matrices rows columns"]:
    gram, product = x @ x.mT, None
    for left in reversed(range(iterations)):
        factor = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        factor.diagonal(dim1=-2, dim2=-1).add_(_A)
        product = factor if product is None else factor @ product
        if left:
            gram = factor @ gram @ factor  # X X^T of the matrix after this step
    assert product is not None, "there is at least one iteration"
    return product @ x
