"""Decides whether two computations agree up to rounding.

If fp32 results are not bit-identical, both computations are repeated in float64. There rounding nearly vanishes, but a
leak stays as large as before. This separates the smallest leak from the largest rounding error without a tolerance that
would have to suit every component. The fp32 tolerance applies only to a part that computes in fp32 even if its inputs are
float64. No shipped part does this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minigpt.check.probe import Subject, copied
from minigpt.contracts import ModelState

SAME_PATH, OTHER_PATH = 2e-6, 1e-4
"""Tolerances for fp32 rounding: one code path run twice, and two paths compared (full pass and chunk or step).

In `disagreement` they apply only to components that always compute in fp32 (`Narrowing`) or cannot compute in float64. Some
properties compare one computation with itself, or with a much larger effect, and use them in fp32."""

EXTREME = 1e4
"""Size of inputs that amplify a weak leak. Components that overflow at this size get smaller inputs (`largest_scale`)."""

_FLOAT64_ROUNDING = 1e-9
"""A difference in float64 below this is rounding."""
_NEAR_TIE = 1e-2
"""A larger fp32 difference must occur in every repetition; otherwise it is a flipped choice between near-ties."""

M = TypeVar("M", bound=nn.Module)
Computations = Callable[[M, torch.dtype, int], tuple[Tensor, Tensor]]
"""Maps a subject, a dtype and a repetition number (it changes the inputs) to two results that should agree."""


def run(
    subject: Subject, x: Tensor, tokens: Tensor, state: ModelState | None = None, *, seed: int = 0, gradients: bool = False
) -> Tensor:
    """Run a forward pass with dropout drawn from the seed; the caller's random state does not change."""
    with torch.set_grad_enabled(gradients), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return subject(x, tokens, state)


def draws(subject: Subject, x: Tensor, tokens: Tensor) -> bool:
    """Return whether a forward pass draws torch's random numbers."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        subject(x, tokens)
        return not torch.equal(before, torch.get_rng_state())


def disagreement(subject: M, computations: Computations[M], tolerance: float = SAME_PATH) -> float | None:
    """Return the relative difference of two computations if it exceeds rounding, else None."""
    one, other = computations(subject, torch.float32, 0)
    if torch.equal(one, other):
        return None
    error = distance(one, other)
    exact = _distance_in_float64(subject, computations, 0)
    if exact is None:  # the subject cannot compute in float64
        return error if error > tolerance else None
    if exact < _FLOAT64_ROUNDING:
        # Rounding may flip a choice between near-ties (of an expert, for example), but not in every repetition.
        if error < _NEAR_TIE or any(
            distance(*computations(subject, torch.float32, repetition)) < _NEAR_TIE for repetition in (1, 2)
        ):
            return None
        return error
    if max(error, exact) > tolerance:
        return error
    return None if _narrows(subject, computations) else exact


def _distance_in_float64(subject: M, computations: Computations[M], repetition: int) -> float | None:
    """Return the relative difference in float64, or None if the subject cannot compute in float64."""
    try:
        return distance(*computations(copied(subject).double(), torch.float64, repetition))
    except RuntimeError:  # torch raises it if the component creates fp32 tensors and mixes them in
        return None


class Narrowing(TorchDispatchMode):  # type: ignore[no-untyped-call] # untyped in torch
    """Records the operations whose results are narrower than float64.

    Attributes:
        operations: Names of the operations with a narrower result.
        dtypes: The types of these results.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: set[str] = set()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        narrower = {part.dtype for part in tree_leaves(results) if isinstance(part, Tensor) and part.dtype in _NARROWER}
        if narrower:
            self.operations.add(str(func))
            self.dtypes |= narrower
        return results


_NARROWER = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)


def _narrows(subject: M, computations: Computations[M]) -> bool:
    """Return whether the subject computes in a narrower dtype although its inputs are float64."""
    exact = copied(subject).double()
    narrowing = Narrowing()

    def recorded(forward: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **named: Any) -> Any:
            with narrowing:
                return forward(*arguments, **named)

        return record

    # Of every module, because a property may call a part alone; and only forward, because inputs are drawn in fp32.
    for module in exact.modules():
        module.forward = recorded(module.forward)
    computations(exact, torch.float64, 0)
    return bool(narrowing.operations)


def largest_scale(subject: Subject, x: Tensor, tokens: Tensor) -> float:
    """Return the largest input size up to EXTREME with finite outputs.

    Larger inputs give infinities, and a masked infinity is NaN (0 times infinity) without any leak.
    """
    scale = EXTREME
    while scale > 1 and not torch.isfinite(run(subject, scale * x, tokens)).all():
        scale /= 10
    return scale


def distance(one: Tensor, other: Tensor) -> float:
    """Return the largest difference relative to 1 + the largest value; infinite if only one is finite."""
    if not one.numel():
        return 0.0
    only_one_is_finite = torch.isfinite(one) != torch.isfinite(other)
    if only_one_is_finite.any():
        return float("inf")
    one, other = (torch.nan_to_num(part.detach().double(), 0.0, 0.0, 0.0) for part in (one, other))
    return float((one - other).abs().amax() / (1 + other.abs().amax()))


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two results are bit-identical; a value that is not a number equals another one."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def first_difference(one: Tensor, other: Tensor) -> int:
    """Return the first time step of [B, T, ...] with a difference above a thousandth of the largest one."""
    apart = (torch.nan_to_num(one.double()) - torch.nan_to_num(other.double())).abs().flatten(2).amax((0, 2))
    return int((apart > 1e-3 * apart.amax()).nonzero()[0]) if apart.amax() > 0 else 0
