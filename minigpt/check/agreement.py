"""Do two computations agree, or is it more than rounding?

Where fp32 gives not the same bits, both are repeated in float64: rounding all but vanishes there, a leak stays as large as
it was. So the smallest leak is told from the largest rounding, without a tolerance that would have to suit every component.
Only a part that makes narrower numbers of those it is given, which no shipped one does, gets fp32's tolerance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minigpt.check.probe import Subject
from minigpt.contracts import ModelState

SAME, ANOTHER = 2e-6, 1e-4
"""What rounding in fp32 may reach where one computation is repeated, and where two kinds of it are compared (a chunk, a
step): for components that compute in fp32 whatever they are given (`Narrowing`)."""

EXTREME = 1e4
"""Size of inputs that make a weak leak strong; less for what multiplies inputs so often that it overflows."""

_VANISHES = 1e-9
_TIE = 1e-2

Computations = Callable[[Subject, torch.dtype, int], tuple[Tensor, Tensor]]
"""From a subject, a dtype and the number of a repetition (which changes the inputs) to what ought to agree."""


def run(
    subject: Subject, x: Tensor, tokens: Tensor, state: ModelState | None = None, *, seed: int = 0, gradients: bool = False
) -> Tensor:
    """A forward pass whose dropout, if there is any, is that of the seed; the caller's random state stays as it was."""
    with torch.set_grad_enabled(gradients), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return subject(x, tokens, state)


def disagreement(subject: Subject, computations: Computations, tolerance: float = SAME) -> float | None:
    """How far apart two computations are, relative to their size, if that is more than rounding; else None."""
    one, other = computations(subject, torch.float32, 0)
    if torch.equal(one, other):
        return None
    error = distance(one, other)
    exact = _exactly(subject, computations, 0)
    if exact is None:  # it cannot be computed in float64
        return error if error > tolerance else None
    if exact < _VANISHES:
        # A choice between near-ties, such as of an expert, may fall otherwise by rounding, but not time and again.
        if error < _TIE or any(distance(*computations(subject, torch.float32, again)) < _TIE for again in (1, 2)):
            return None
        return error
    if max(error, exact) > tolerance:
        return error
    return None if _narrows(subject, computations) else exact


def _exactly(subject: Subject, computations: Computations, repetition: int) -> float | None:
    try:
        return distance(*computations(copy.deepcopy(subject).double(), torch.float64, repetition))
    except RuntimeError:  # torch's, where a component makes fp32 tensors of its own and mixes them in
        return None


class Narrowing(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """Notes whether anything computed under it is a narrower number than float64.

    Attributes:
        operations: Those that gave such a number.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) and part.dtype in _NARROWER for part in tree_leaves(results)):
            self.operations.add(str(func))
        return results


_NARROWER = (torch.float32, torch.bfloat16, torch.float16, torch.complex64)


def _narrows(subject: Subject, computations: Computations) -> bool:
    """Whether the subject computes in less than the float64 that it is given."""
    exact = copy.deepcopy(subject).double()
    narrowing, forward = Narrowing(), exact.forward

    def watched(*arguments: Any) -> Tensor:
        with narrowing:
            return forward(*arguments)

    exact.forward = watched  # type: ignore[method-assign, assignment] # inputs are drawn in fp32, outside of it
    computations(exact, torch.float64, 0)
    return bool(narrowing.operations)


def largest_scale(subject: Subject, x: Tensor, tokens: Tensor) -> float:
    """The size of inputs, up to EXTREME, at which outputs are still finite: beyond, zero times infinity is NaN anywhere."""
    scale = EXTREME
    while scale > 1 and not torch.isfinite(run(subject, scale * x, tokens)).all():
        scale /= 10
    return scale


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to 1 + the largest value; infinite where only one of the two is finite."""
    if not one.numel():
        return 0.0
    unlike = torch.isfinite(one) != torch.isfinite(other)
    if unlike.any():
        return float("inf")
    one, other = (torch.nan_to_num(part.detach().double(), 0.0, 0.0, 0.0) for part in (one, other))
    return float((one - other).abs().amax() / (1 + other.abs().amax()))


def first_difference(one: Tensor, other: Tensor) -> int:
    """The first place in time [B, T, ...] where two sequences differ by a thousandth of their largest difference."""
    apart = (torch.nan_to_num(one.double()) - torch.nan_to_num(other.double())).abs().flatten(2).amax((0, 2))
    return int((apart > 1e-3 * apart.amax()).nonzero()[0]) if apart.amax() > 0 else 0
