"""SOAP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from minigpt.components.optimizer.groups import Momentum, decay
from minigpt.contracts import Amount, NamedParameter, Optimizer
from minigpt.registry import register


@register("optimizer", "soap")
class SOAP(Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner, for each matrix (Vyas et al. 2024, arXiv:2409.11321).

    L <- b L + (1 - b) G G^T,  R <- b R + (1 - b) G^T G,  with eigenvectors Q_L and Q_R
    M <- b1 M + (1 - b1) G,  V <- b2 V + (1 - b2) (Q_L^T G Q_R)^2,  W <- W - lr Q_L ((Q_L^T M Q_R) / sqrt(V)) Q_R^T

    The first update finds the eigenvectors and changes no matrix. Later a step of power iteration and a QR decomposition
    keep them up to date, and V is not rotated with them. Biases and gains, which have no sides, get Adam.

    Args:
        learning_rate: Peak learning rate.
        betas: b1 and b2, decay of the running mean and of the running square.
        shampoo_beta: b, decay of the preconditioner; null for b2.
        eps: Added to the root of the running square.
        weight_decay: On matrices, embeddings and head.
        precondition_frequency: Number of updates between two refreshes of the eigenvectors.
        max_precondition_dim: A longer side, such as a large vocabulary, is not rotated.
    """

    adaptive = True

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0)] = 3e-3,
        betas: tuple[Momentum, Momentum] = (0.95, 0.95),
        shampoo_beta: Momentum | None = None,
        eps: Annotated[float, Field(gt=0)] = 1e-8,
        weight_decay: Amount = 0.01,
        precondition_frequency: Annotated[int, Field(gt=0)] = 10,
        max_precondition_dim: Annotated[int, Field(gt=0)] = 10_000,
    ):
        self.weight_decay, self.max_precondition_dim = weight_decay, max_precondition_dim
        self.settings = {
            "lr": learning_rate,
            "betas": betas,
            "shampoo_beta": betas[1] if shampoo_beta is None else shampoo_beta,
            "eps": eps,
            "precondition_frequency": precondition_frequency,
        }

    def build(self, parameters: Sequence[NamedParameter]) -> torch.optim.Optimizer:
        matrices = [p.tensor for p in parameters if p.role != "vector"]
        vectors = [p.tensor for p in parameters if p.role == "vector"]
        groups = [
            {"params": matrices, **decay(self.weight_decay), "max_precondition_dim": self.max_precondition_dim},
            {"params": vectors, "weight_decay": 0.0, "max_precondition_dim": 0},
        ]
        return _SOAP(groups, self.settings)


class _SOAP(torch.optim.Optimizer):
    """Preconditioners and bases are stored by side: -2 for the rows (L), -1 for the columns (R)."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(_new_state(p, group["max_precondition_dim"]))
                if len(state["bases"]) < len(state["preconditioners"]):
                    # No step yet: a basis from this gradient alone would make the gradient look free of noise.
                    _track(state["preconditioners"], p.grad, group["shampoo_beta"])
                    state["bases"] = {side: _eigenvectors(x) for side, x in state["preconditioners"].items()}
                else:
                    _step(p, p.grad, state, group)


def _new_state(p: Tensor, max_dim: int) -> dict[str, Any]:
    sides = [side for side in (-2, -1) if max_dim and p.shape[side] <= max_dim]
    squares = {side: p.new_zeros(*p.shape[:-2], p.shape[side], p.shape[side]) for side in sides}
    return {
        "step": 0,
        "mean": torch.zeros_like(p),
        "square": torch.zeros_like(p),
        "preconditioners": squares,
        "bases": {},
    }


def _step(p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Algorithm 3 of the paper, with Adam's bias correction and decoupled weight decay."""
    state["step"] += 1
    count, bases, (beta1, beta2) = state["step"], state["bases"], group["betas"]
    rotated = _rotated(gradient, bases)
    state["mean"].lerp_(gradient, 1 - beta1)  # not rotated, so a change of the basis does not affect it
    state["square"].mul_(beta2).addcmul_(rotated, rotated, value=1 - beta2)
    mean = _rotated(state["mean"], bases) / (1 - beta1**count)
    direction = mean / (state["square"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.sub_(_rotated(direction, {side: basis.mT for side, basis in bases.items()}), alpha=group["lr"])
    _track(state["preconditioners"], gradient, group["shampoo_beta"])
    if count % group["precondition_frequency"] == 0:
        refreshed = {side: torch.linalg.qr(x @ bases[side]).Q for side, x in state["preconditioners"].items()}
        state["bases"] = {side: basis.contiguous() for side, basis in refreshed.items()}


def _rotated(x: Tensor, bases: Mapping[int, Tensor]) -> Tensor:
    """Q_L^T x Q_R, with the bases that exist."""
    x = bases[-2].mT @ x if -2 in bases else x
    return x @ bases[-1] if -1 in bases else x


def _track(preconditioners: Mapping[int, Tensor], gradient: Tensor, beta: float) -> None:
    for side, preconditioner in preconditioners.items():
        preconditioner.lerp_(gradient @ gradient.mT if side == -2 else gradient.mT @ gradient, 1 - beta)


def _eigenvectors(x: Tensor) -> Tensor:
    """Eigenvectors in descending order of eigenvalues, the order that power iteration keeps.

    Contiguous, like a loaded tensor, because the rounding of products depends on the memory layout.
    """
    return torch.linalg.eigh(x).eigenvectors.flip(-1).contiguous()
