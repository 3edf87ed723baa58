"""What the initial weights of a part depend on: the seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minigpt.check.cases import Case
from minigpt.check.probe import build
from minigpt.check.property import Violation
from minigpt.check.targets import Target

_RANDOM = {"normal_", "uniform_", "randn", "rand", "randn_like", "rand_like", "randint", "randperm", "normal", "bernoulli_"}


def check_seeds(target: Target, case: Case) -> None:
    """Check that initial weights that are drawn differ between two seeds.

    Raises:
        Violation: The part seeds torch, or draws the same weights for every seed.
    """
    subjects, drawn = [], []
    for seed in (case.seed, case.seed + 1):
        with _no_seeding(), _Draws() as draws:
            subjects.append(build(target, replace(case, seed=seed), initial=True))
        drawn.append(draws.results)
    again = {result.numel() for result in drawn[0] for other in drawn[1] if torch.equal(result, other)}
    others = subjects[1].own_parameters()
    for name, parameter in subjects[0].own_parameters().items():
        is_constant = bool((parameter == parameter.flatten()[:1]).all())
        if parameter.numel() in again and not is_constant and torch.equal(parameter, others[name]):
            raise Violation(
                f"{name}: two seeds give the same initial values, although they are drawn",
                cause="a private generator with a fixed seed? torch's is seeded by the run",
            )


class _Draws(TorchFunctionMode):
    """Keeps the results of all random functions."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _RANDOM and isinstance(result, Tensor) and result.numel() > 1:
            self.results.append(result.detach().clone())
        return result


@contextlib.contextmanager
def _no_seeding() -> Iterator[None]:
    """Report a part that seeds torch."""
    before = torch.manual_seed

    def refuse(seed: int) -> torch.Generator:
        raise Violation(
            f"it calls torch.manual_seed({seed}), so all weights drawn after it are the same for every seed",
            cause="torch is seeded by the run; draw without seeding",
        )

    torch.manual_seed = refuse
    try:
        yield
    finally:
        torch.manual_seed = before
