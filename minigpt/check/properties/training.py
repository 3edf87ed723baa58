"""The properties of train mode: it computes what eval mode computes, and its backward pass is the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minigpt.check.agreement import OTHER_PATH, Narrowing, disagreement, draws, first_difference, run
from minigpt.check.cases import Case, any_case, standard_cases
from minigpt.check.parameters import parameter_sets
from minigpt.check.probe import Subject, build, inputs
from minigpt.check.properties.decoding import chunk_by_chunk
from minigpt.check.properties.sequence import PARTS
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target


def _cases(target: Target) -> list[Case]:
    """Return the standard cases; an experiment with a large block_size gets shorter sequences."""
    if target.experiment is None:
        return standard_cases(target)
    size = target.experiment.model.block_size
    return [Case(block_size=size, time=min(24, size), training=mode) for mode in (False, True)]


def _refuse_declared(subject: Subject, promise: Literal["differs_in_training", "surrogate_gradient"]) -> None:
    """Raise Unsuitable if a module of the subject declares the difference that a property would find."""
    if any(getattr(module, promise, False) for module in subject.modules()):
        raise Unsuitable(f"it declares `{promise}`")


# --------------------------------------------------------------------------------------------------------------- modes


@property_of(*PARTS, cases=_cases, strategy=any_case, quick=2)
def modes(target: Target, case: Case) -> None:
    """Without dropout, train mode computes what eval mode computes, unless `differs_in_training` is declared."""
    tried = replace(case, training=False, dropout=0.0)
    subject = _without_dropout(build(target, tried))
    _refuse_declared(subject, "differs_in_training")

    def compared(subject: Subject, dtype: torch.dtype, repetition: int) -> tuple[Tensor, Tensor]:
        x, tokens = inputs(subject, case, offset=2 * repetition, dtype=dtype)
        with _NoDropout():
            return _whole_and_continued(subject.train(), x, tokens), _whole_and_continued(subject.eval(), x, tokens)

    size = disagreement(subject, compared, OTHER_PATH)
    if size is None:
        return
    place = first_difference(*compared(subject, torch.float32, 0))
    how = f"{place % case.time} in train mode{' differs' if place < case.time else ', continued from a state, differs'}"
    cause = "is there an `if self.training`, or a statistic of the batch? if it is meant, set differs_in_training = True"
    with _NoDropout():
        is_random = draws(subject.train(), *inputs(subject, case))
    if is_random:
        if target.experiment is not None or tried.params != parameter_sets(target)[0]:
            raise Unsuitable("with these parameters it draws random numbers in train mode")
        cause = "it draws random numbers in train mode; if they are meant, set differs_in_training = True"
    raise Violation(f"without dropout, output {how} from eval mode", at=place % case.time, size=size, cause=cause)


def _whole_and_continued(subject: Subject, x: Tensor, tokens: Tensor) -> Tensor:
    """Return the outputs of the full pass, and then those of two chunks, the second continued from a state."""
    whole, (batch, time) = run(subject, x, tokens, gradients=subject.training).detach(), tokens.shape
    if time < 2:
        return whole
    state = subject.new_state(batch, time, x.dtype)
    return torch.cat((whole, chunk_by_chunk(subject, x, tokens, state, [time // 2, time - time // 2])), 1)


def _without_dropout(subject: Subject) -> Subject:
    """Set the rate of all dropout modules to 0, also of those whose rate is a component's own parameter."""
    for module in subject.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return subject


class _NoDropout(TorchFunctionMode):
    """Lets torch's dropout functions return their inputs, and attention drop no weights."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if getattr(func, "__name__", "") in _DROPOUTS:
            return args[0] if args else keywords["input"]
        if func is F.scaled_dot_product_attention:
            args, keywords = args[:4], {**keywords, **dict(zip(_SCORES, args[4:], strict=False)), "dropout_p": 0.0}
        return func(*args, **keywords)


_DROPOUTS = {
    f"{kind}dropout{suffix}"
    for kind in ("", "alpha_", "feature_", "feature_alpha_")
    for suffix in ("", "_", "1d", "2d", "3d")
}
_SCORES = ("dropout_p", "is_causal")
"""The arguments of `scaled_dot_product_attention` that may follow the mask by place."""


# ------------------------------------------------------------------------------------------------------------ backward


def _cases_of_gradients(target: Target) -> list[Case]:
    """Return the cases, with all changed parameters in train mode."""
    base = parameter_sets(target)[0]
    return [case if case.params == base else replace(case, training=True) for case in _cases(target)]


@property_of(*PARTS, cases=_cases_of_gradients, strategy=any_case, quick=2)
def backward(target: Target, case: Case) -> None:
    """The backward pass is the gradient of the forward pass, unless `surrogate_gradient` is declared."""
    subject = build(target, case)
    _refuse_declared(subject, "surrogate_gradient")
    difference = None
    for number in range(2):  # a step in one direction may cross a kink, but not in each
        line = _Line(subject, case, number)
        difference = line.difference()
        if difference is None:
            return
    assert difference is not None
    names = [name for name in line.leaves if _Line(subject, case, 0, only=name).difference() is not None]
    raise Violation(
        f"a step along a random direction changes the outputs by {difference.slope:.5g} per length, but by "
        f"{difference.gradient:.5g} according to their gradient{' with respect to ' if names else ''}{', '.join(names[:3])}",
        size=difference.size,
        cause="a detach(), a straight-through estimate, a hook, or an own backward pass? if it is meant, set "
        "surrogate_gradient = True",
    )


@dataclass(frozen=True)
class _Difference:
    """A weighted sum of outputs along a line.

    Attributes:
        slope: How it changes per length, from outputs on both sides.
        gradient: The same from the backward pass.
        size: The relative difference.
    """

    slope: float
    gradient: float
    size: float


@dataclass(frozen=True)
class _Precision:
    """How outputs along a line are compared with their gradient.

    Attributes:
        dtype: Type of inputs and weights.
        step: Length of a step.
        rounding: Rounding of an output, relative to the largest one.
        bend: Largest change of a slope within a step, relative to the median slope; above it there is a jump or a kink.
        tolerance: Largest relative difference of slope and gradient.
    """

    dtype: torch.dtype
    step: float
    rounding: float
    bend: float
    tolerance: float


_FINE = _Precision(torch.float64, 1e-6, 1e-13, 1e-3, 3e-5)
_NARROW = _Precision(torch.float64, 3e-3, 3e-7, 0.2, 5e-2)
"""For a part that computes in fp32 although its inputs are float64."""
_FP32 = replace(_NARROW, dtype=torch.float32)
"""For a part that cannot compute in float64."""
_IN_FP32 = 0.1
"""Largest relative difference of a slope and a gradient in fp32."""


class _Line:
    """A straight line through the inputs and the weights of a subject, in a random direction."""

    def __init__(self, subject: Subject, case: Case, number: int, only: str | None = None):
        self.subject = subject.float()
        x, self.tokens = inputs(subject, case)
        self.leaves = {"the input": x.requires_grad_()}
        self.leaves |= {name: weight for name, weight in subject.named_parameters() if weight.requires_grad}
        self.starts = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        self.generator = torch.Generator().manual_seed(1000 * case.seed + number)
        self.directions = {
            name: torch.randn(leaf.shape, generator=self.generator) * (only in (None, name))
            for name, leaf in self.leaves.items()
        }
        self.is_random = case.training and draws(self.subject, x, self.tokens)  # then fp32 may drop out other elements

    def difference(self) -> _Difference | None:
        """Return by how much the gradient differs from the slope of the outputs; None if they agree, or for jumps only."""
        precision = self._precision()
        if precision is None:
            return None
        slopes, bends, y = self._slopes(precision)
        is_smooth = bends <= precision.bend * slopes.abs().median()
        return self._compared(precision, slopes, bends, is_smooth, y) if is_smooth.double().mean() > 0.5 else None

    def _precision(self) -> _Precision | None:
        """Return with which precision the subject computes if its inputs are float64; None below fp32."""
        with Narrowing() as narrowing:
            try:
                self._outputs(0, torch.float64)
            except RuntimeError:  # torch refuses a mix with fp32 tensors
                return _FP32
        if narrowing.dtypes - {torch.float32, torch.complex64}:
            return None
        return _NARROW if narrowing.dtypes and self._rounds() else _FINE

    def _rounds(self) -> bool:
        """Return whether short steps drown in the rounding of fp32; a constant in fp32 does no harm."""
        near, far = (self._slopes(_FINE, scale)[0] for scale in (1.0, 2.0))
        return bool((near - far).abs().flatten().quantile(0.9) > 1e-4 * near.abs().amax())

    def _slopes(self, precision: _Precision, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return the slopes of the outputs, by how much they may differ from the true ones, and the outputs."""
        step = scale * precision.step
        before, after, y = (self._outputs(place, precision.dtype) for place in (-step, step, 0.0))
        # The slopes on both sides of a point differ by what the true slope may differ from their mean.
        bends = (after - 2 * y + before).detach().double().abs() / step
        rounding = precision.rounding * float(y.detach().abs().amax()) / step
        return (after - before).detach().double() / (2 * step), bends + rounding, y

    def _compared(
        self, precision: _Precision, slopes: Tensor, bends: Tensor, is_smooth: Tensor, y: Tensor
    ) -> _Difference | None:
        """Compare slopes with gradients of y, weighted in three ways: ordinary and large weights, and equal ones in fp32."""
        for size in (1.0, 1e4) if self.is_random else (1.0, 1e4, 0.0):  # the gradient of equal weights has strides of 0
            drawn = torch.randn(slopes.shape, generator=self.generator, dtype=torch.float64)
            weights = (size * drawn if size else torch.ones_like(drawn)) * is_smooth
            along, length = self._gradient(y if size else self._outputs(0, torch.float32), weights)
            slope = float((weights * slopes).sum())
            scale = float((weights * slopes).norm()) + length
            tolerance = precision.tolerance if size else _IN_FP32
            if not abs(along - slope) <= tolerance * scale + 3 * float((weights * bends).norm()):
                return _Difference(slope, along, abs(along - slope) / scale)
        return None

    def _gradient(self, y: Tensor, weights: Tensor) -> tuple[float, float]:
        """Return the change of the weighted outputs along the line by their gradient, and the length of its parts."""
        total = y.sum() if bool((weights == 1).all()) else (y * weights.to(y.dtype)).sum()
        for leaf in self.leaves.values():
            leaf.grad = None
        if total.requires_grad:
            torch.autograd.backward(total, retain_graph=True)
        grads = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
        parts = [(grad.double() * self.directions[name].double()).flatten() for name, grad in grads.items()]
        together = torch.cat([torch.zeros(1, dtype=torch.float64), *parts])
        return float(together.sum()), float(together.norm())

    def _outputs(self, step: float, dtype: torch.dtype) -> Tensor:
        """Return the outputs at a place of the line."""
        self.subject.to(dtype)
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.data = self.starts[name].to(dtype) + step * self.directions[name].to(dtype)
        return run(self.subject, self.leaves["the input"], self.tokens, gradients=True)
