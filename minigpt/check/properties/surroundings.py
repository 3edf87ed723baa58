"""Varies what a component must not depend on: random seeds, the clock, the process."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from minigpt.check.property import Unsuitable, Violation
from minigpt.check.targets import Target, component_target
from minigpt.errors import ExperimentError, MinigptError, TrustError
from minigpt.registry import REGISTRY, plugins, trust
from minigpt.registry.spec import is_shipped
from minigpt.system import child


def built(target: Target, params: Mapping[str, Any], *received: Any) -> Any:
    """Build a component.

    Raises:
        Unsuitable: The component refuses these parameters.
    """
    with refusals():
        return target.spec(params).build(*received)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal with a reason into `Unsuitable`; other exceptions of a constructor are failures."""
    try:
        yield
    except ExperimentError as error:
        cause = error.__cause__
        if cause is not None and not isinstance(cause, ValueError | ExperimentError):
            raise cause from None
        raise Unsuitable("; ".join(map(str, error.problems))) from error


def random_states() -> dict[str, str]:
    """Return the states of torch's and numpy's global generators; beartype itself draws from Python's."""
    numpy_state = [np.asarray(part).tolist() for part in np.random.get_state()]
    return {"torch": str(torch.get_rng_state().tolist()), "numpy": str(numpy_state)}


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the states of the global random generators on exit."""
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def other_seeds_and_clock() -> Iterator[None]:
    """Inside, the global random generators have other seeds and the clocks show another time."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(random_states_kept())
        for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns"):
            stack.enter_context(mock.patch.object(time, name, _shifted(getattr(time, name))))
        torch.default_generator.manual_seed(987)
        random.seed(987)
        np.random.seed(987)
        yield


def _shifted(clock: Callable[[], float]) -> Callable[[], float]:
    return lambda: clock() + 1_000_001


@dataclass(frozen=True)
class Origin:
    """Where another process finds a component.

    Attributes:
        plugins: Files that register the component.
        announced: The argument of `trust.expect`.
        family: The component's family.
        name: The component's registered name.
        module: The module of its class.
        qualname: The qualified name of its class in that module.
        is_foreign: Whether installed plugins must be loaded, because the class is not shipped.
    """

    plugins: tuple[Path, ...]
    announced: dict[str, str]
    family: str
    name: str
    module: str
    qualname: str
    is_foreign: bool

    @classmethod
    def of(cls, target: Target) -> Origin | None:
        """Return the origin of a target's component.

        Return None if another process cannot import it, because it was defined in a console, a notebook or a function.
        """
        assert target.entry is not None
        component = target.entry.cls
        plugin = plugins.plugin_of(component)
        module, qualname = component.__module__, component.__qualname__
        if module == "__main__" or _member(sys.modules.get(module), qualname) is not component:
            return None
        return cls(
            plugins=(*target.reading.plugin_files, *([plugin.path] if plugin else [])),
            announced=trust.announced(),
            family=target.family,
            name=target.entry.name,
            module=module,
            qualname=qualname,
            is_foreign=not is_shipped(component),
        )

    def target(self) -> Target | None:
        """Return the target in the other process; None if the module cannot be imported there."""
        trust.expect(self.announced)
        importlib.import_module("minigpt.components")
        if self.is_foreign:
            plugins.load_installed()
        for file in self.plugins:
            plugins.load_file(file)
        if not REGISTRY.has(self.family, self.name):  # a test registers a class that its module only defines
            try:
                module = importlib.import_module(self.module)
            except ModuleNotFoundError:
                return None
            REGISTRY.register(self.family, self.name)(_member(module, self.qualname))
        return component_target(self.family, self.name)


@dataclass(frozen=True)
class _Question:
    """The arguments of a family's `outcome` in another process.

    Attributes:
        origin: Where the component is found.
        params: The component's parameters, as JSON.
    """

    origin: Origin
    params: dict[str, Any]


def outcome_in_another_process(target: Target, params: Mapping[str, Any]) -> str | None:
    """Return the family's `outcome` in a new process, where sets of strings have another order.

    Return None if that process cannot import the class.

    Raises:
        Violation: The component fails in that process.
        TrustError: A plugin's file was edited since this process read it.
    """
    origin = Origin.of(target)
    if origin is None:
        return None
    order = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    try:
        answer = child.call(_outcome_here, _Question(origin, dict(params)), PYTHONHASHSEED=order)
    except TrustError:
        raise
    except MinigptError as error:
        reason = str(error)
    else:
        if not isinstance(answer, child.Exit):
            return answer
        reason = answer.last_line or "without a message"
    raise Violation(f"it fails in another process: {reason}", cause="does it need something that only this process has?")


def _outcome_here(question: _Question) -> str | None:
    """Answer the question; runs in the other process."""
    target = question.origin.target()
    if target is None:
        return None
    outcome: str = importlib.import_module(f"minigpt.check.properties.{target.family}").outcome(target, question.params)
    return outcome


def _member(module: Any, path: str) -> Any:
    """Return the object at a dotted path in a module, or None."""
    return functools.reduce(lambda place, name: getattr(place, name, None), path.split("."), module)
