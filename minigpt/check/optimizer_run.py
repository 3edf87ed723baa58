"""What an optimizer is tried in: parameters as in a model, with random gradients."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from minigpt.check.agreement import equal
from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import refusals
from minigpt.check.property import Unsuitable, Violation
from minigpt.check.targets import Target
from minigpt.contracts import AveragingOptimizer, NamedParameter, Optimizer

Role = Literal["matrix", "embedding", "head", "vector"]

_ALL: tuple[Role, ...] = ("matrix", "embedding", "head", "vector")
_PARAMETERS: tuple[tuple[str, Role, tuple[int, ...]], ...] = (
    ("embedding.weight", "embedding", (7, 4)),
    ("positions.0.table.weight", "embedding", (9, 4)),
    ("blocks.0.attention.qkv.weight", "matrix", (4, 6)),
    ("blocks.0.attention.out.weight", "matrix", (6, 4)),
    ("blocks.1.attention.qkv.weight", "matrix", (5, 5)),
    ("blocks.1.attention.out.weight", "matrix", (5, 5)),
    ("blocks.1.ffn.into", "matrix", (3, 4, 5)),  # a stack of matrices, such as the weights of experts
    ("blocks.1.ffn.router.weight", "matrix", (1, 4)),
    ("blocks.2.attention_norm.weight", "vector", (4,)),
    ("blocks.2.attention.out.bias", "vector", (6,)),
    ("blocks.2.weight", "vector", ()),  # a gate of the whole block
    ("blocks.3.attention.convolution.weight", "vector", (4, 1, 3)),  # the kernels of a depthwise convolution
    ("head.weight", "head", (7, 4)),
)
"""Names, roles and shapes as in a model of four layers."""

_TINY: tuple[tuple[str, Role, tuple[int, ...]], ...] = (
    ("embedding.weight", "embedding", (3, 2)),
    ("blocks.0.attention.qkv.weight", "matrix", (2, 2)),
    ("blocks.0.attention_norm.weight", "vector", (2,)),
    ("head.weight", "head", (3, 2)),
)
"""One parameter of each role, for many steps."""

ORDINARY = (1.0, 1.0, 1.0, 1.0, 1.0)
_SCALES = (1.0, 0.0, 1e-20, 1e4, 1e-3)
_FACTORS = (0.5, 1.0, 0.25)  # factors of a schedule, repeated


@dataclass(frozen=True)
class Case:
    """One test case for an optimizer.

    Attributes:
        params: Parameters that differ from the defaults.
        scales: Size of the gradients at each step.
        roles: Roles of the parameters to optimize.
        missing: Whether every second parameter has no gradient in these steps.
        seed: Seed of weights and gradients.
        repeated: How often the steps are repeated.
        after: Steps after these, with ordinary gradients, where a property needs some.
        tiny: Whether there is only one small parameter of each role.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = ORDINARY
    roles: tuple[Role, ...] = _ALL
    missing: bool = False
    seed: int = 0
    repeated: int = 1
    after: int = 3
    tiny: bool = False

    @property
    def n_steps(self) -> int:
        """How many steps there are before those of `after`."""
        return self.repeated * len(self.scales)


def cases(target: Target) -> list[Case]:
    """Return the defaults with gradients of several sizes, then cases with one parameter changed each."""
    base, *changed = parameter_sets(target)
    return [
        Case(base),
        Case(base, (0.0, 1.0, 1e4, 1e-20, 1.0), missing=True),
        Case(base, (0.0,) * 5),
        Case(base, (1e4,) * 5, missing=True),
        Case(base, (1e-20,) * 5),
        Case(base, roles=("matrix", "embedding")),
        Case(base, (), seed=1),
        *(Case(params, seed=number) for number, params in enumerate(changed)),
        *(Case(params, (0.0, 1e4, 1e-20), missing=True) for params in changed),
    ]


def any_case(target: Target) -> st.SearchStrategy[Case]:
    """Return a strategy for any case with few steps."""
    roles: list[tuple[Role, ...]] = [("matrix", "embedding"), ("matrix", "embedding", "vector"), _ALL]
    return st.builds(
        Case,
        params=parameters(target),
        scales=st.lists(st.sampled_from(_SCALES), max_size=7).map(tuple),
        roles=st.sampled_from(roles),
        missing=st.booleans(),
        seed=st.integers(0, 99),
    )


class Run:
    """An optimizer with its parameters and their random gradients."""

    def __init__(self, target: Target, case: Case, *, weights: Sequence[Tensor] | None = None):
        self.case = case
        self.parameters = _parameters(case, weights)
        with refusals():
            spec = target.spec(case.params)
            recipe: Optimizer = spec.build()
        with _refusals_of_torch(), refusals(), spec.errors_located():
            self.optimizer: torch.optim.Optimizer = recipe.build(self.parameters)
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise Violation(
                f"build returns a {type(self.optimizer).__name__}", cause="it must return a torch.optim.Optimizer"
            )
        if isinstance(self.optimizer, AveragingOptimizer) != recipe.averages:
            raise Violation(
                f"averages is {recipe.averages}, and build returns a {type(self.optimizer).__name__}",
                cause="the class must say `averages = True` if and only if its optimizer is an AveragingOptimizer",
            )
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]

    def set_gradients(self, number: int, scale: float = 1.0, *, missing: bool = False) -> None:
        """Draw the gradients of a step; with `missing`, every second parameter has none."""
        generator = torch.Generator().manual_seed(1000 * self.case.seed + number)
        for index, parameter in enumerate(self.parameters):
            gradient = scale * torch.randn(parameter.tensor.shape, generator=generator)
            if gradient.ndim and number % 2:
                gradient[0] = 0  # like the embedding row of a token that is not in the batch
            parameter.tensor.grad = None if missing and index % 2 else gradient

    def set_rates(self, factor: float, *, resting: int | None = None) -> None:
        """Multiply the peak rates as the trainer does; the group `resting` gets a rate of 0."""
        for number, (group, peak) in enumerate(zip(self.optimizer.param_groups, self.peaks, strict=True)):
            group["lr"] = 0.0 if number == resting else peak * factor

    def step(
        self,
        number: int,
        scale: float = 1.0,
        *,
        missing: bool = False,
        factor: float | None = None,
        resting: int | None = None,
    ) -> None:
        """Make one update like the trainer."""
        self.set_rates(_FACTORS[number % len(_FACTORS)] if factor is None else factor, resting=resting)
        self.set_gradients(number, scale, missing=missing)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def steps(self) -> None:
        """Make all steps of the case."""
        for number in range(self.case.n_steps):
            self.step(number, self.case.scales[number % len(self.case.scales)], missing=self.case.missing)

    def weights(self) -> list[Tensor]:
        """Return copies of the current weights."""
        return [parameter.tensor.detach().clone() for parameter in self.parameters]

    def differing(self, weights: Sequence[Tensor]) -> str | None:
        """Return the name of the first parameter that is not bit-identical to `weights`, or None."""
        pairs = zip(self.parameters, weights, strict=True)
        return next((p.name for p, before in pairs if not equal(p.tensor.detach(), before)), None)

    def average(self, weights: Literal["used", "trained"]) -> None:
        """Switch an averaging optimizer between its evaluation weights and its training weights."""
        if isinstance(self.optimizer, AveragingOptimizer):
            self.optimizer.eval() if weights == "used" else self.optimizer.train()


@contextmanager
def _refusals_of_torch() -> Iterator[None]:
    """Report an error of torch, such as a parameter in two groups, as a violation: only the component itself can refuse."""
    try:
        yield
    except Unsuitable as refusal:
        error: BaseException = refusal
        while error.__cause__ is not None:
            error = error.__cause__
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(Path(torch.optim.__file__).parent):
            raise Violation(
                f"build fails in torch: {error}", cause="is a parameter in two groups, or is a setting out of torch's range?"
            ) from error
        raise


def _parameters(case: Case, weights: Sequence[Tensor] | None) -> list[NamedParameter]:
    generator = torch.Generator().manual_seed(case.seed)
    known = _TINY if case.tiny else _PARAMETERS
    chosen = [(name, role, shape) for name, role, shape in known if role in case.roles]
    drawn = [torch.randn(shape, generator=generator) for _, _, shape in chosen] if weights is None else weights
    return [
        NamedParameter(name, nn.Parameter(tensor.clone()), role, _layer(name))
        for (name, role, _), tensor in zip(chosen, drawn, strict=True)
    ]


def _layer(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith("blocks.") else None


def initial_weights(case: Case) -> list[Tensor]:
    """Return the weights that a run of this case begins with."""
    return [parameter.tensor.detach().clone() for parameter in _parameters(case, None)]


def check_equal(run: Run, other: Run, what: str, cause: str) -> None:
    """Check that two runs have equal weights.

    Raises:
        Violation: A weight differs.
    """
    if (name := run.differing(other.weights())) is not None:
        raise Violation(f"{what}: {name} differs", cause=cause)
