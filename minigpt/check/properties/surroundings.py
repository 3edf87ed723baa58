"""What a component must not depend on: random seeds, the clock, the process it runs in."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from minigpt.check.property import Unsuitable, Violation
from minigpt.check.targets import Target, component_target
from minigpt.errors import ExperimentError
from minigpt.registry import REGISTRY, plugins
from minigpt.registry.spec import is_shipped
from minigpt.system import process


def built(target: Target, params: Mapping[str, Any], *received: Any) -> Any:
    """A component.

    Raises:
        Unsuitable: It refuses these parameters.
    """
    with refusals():
        return target.spec(params).build(*received)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """A refusal with a reason makes a case unsuitable; a constructor that crashes is no refusal."""
    try:
        yield
    except ExperimentError as error:
        cause = error.__cause__
        if cause is not None and not isinstance(cause, ValueError | ExperimentError):
            raise cause from None
        raise Unsuitable("; ".join(map(str, error.problems))) from error


def random_states() -> dict[str, str]:
    """Where torch's and numpy's global random numbers stand; not Python's, which beartype draws to look at some item."""
    numpy_state = [np.asarray(part).tolist() for part in np.random.get_state()]
    return {"torch": str(torch.get_rng_state().tolist()), "numpy": str(numpy_state)}


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the global random numbers go on as if it had not been."""
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def elsewhere() -> Iterator[None]:
    """Other seeds of the global random numbers, and another time."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(random_states_kept())
        for name in ("time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns"):
            stack.enter_context(mock.patch.object(time, name, _later(getattr(time, name))))
        torch.default_generator.manual_seed(987)
        random.seed(987)
        np.random.seed(987)
        yield


def _later(clock: Callable[[], float]) -> Callable[[], float]:
    return lambda: clock() + 1_000_001


def outcome_in_another_process(target: Target, params: Mapping[str, Any]) -> Any:
    """What the family's `outcome` is in a new process, whose sets of texts have another order.

    None where the class cannot be had there: typed into a console or a notebook, or made inside a function.

    Raises:
        Violation: It fails there.
    """
    assert target.entry is not None
    cls = target.entry.cls
    plugin = plugins.plugin_of(cls)
    if cls.__module__ == "__main__" or _member(sys.modules.get(cls.__module__), cls.__qualname__) is not cls:
        return None
    question = {
        "plugins": [str(file) for file in (*target.plugin_files, *([plugin.path] if plugin else []))],
        "family": target.family,
        "name": target.entry.name,
        "module": cls.__module__,
        "class": cls.__qualname__,
        "installed": not is_shipped(cls),
        "params": dict(params),
    }
    environment = process.environment(PYTHONHASHSEED="2" if os.environ.get("PYTHONHASHSEED") == "1" else "1")
    command = process.python("-c", f"from {__name__} import answer; answer()")
    answered = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, env=environment)
    if answered.returncode:
        reason = (answered.stderr.strip().splitlines() or ["no word"])[-1]
        raise Violation(f"in another process it fails: {reason}", cause="does it need something that only this process has?")
    return json.loads(answered.stdout)


def answer() -> None:
    """The other end of `outcome_in_another_process`: question on standard input, answer on standard output."""
    question = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # a component may print
        outcome = _outcome_of(question)
    print(json.dumps(outcome))


def _outcome_of(question: Mapping[str, Any]) -> Any:
    importlib.import_module("minigpt.components")
    if question["installed"]:
        plugins.load_installed()
    for file in question["plugins"]:
        plugins.load_file(Path(file))
    family, name = question["family"], question["name"]
    if not REGISTRY.has(family, name):  # a test registers what its module only defines
        try:
            module = importlib.import_module(question["module"])
        except ModuleNotFoundError:
            return None
        REGISTRY.register(family, name)(_member(module, question["class"]))
    outcome = importlib.import_module(f"minigpt.check.properties.{family}").outcome
    return outcome(component_target(family, name), question["params"])


def _member(module: Any, path: str) -> Any:
    """What stands at a dotted path in a module; None if nothing does."""
    return functools.reduce(lambda place, name: getattr(place, name, None), path.split("."), module)
