"""A check leaves the process as it was, and computes the same in another process."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from minigpt.check import Violation, check, component_target, find_targets
from minigpt.check.properties import dataset as dataset_check
from minigpt.check.properties.surroundings import outcome_in_another_process, random_states
from minigpt.contracts import Splits
from minigpt.errors import TrustError
from minigpt.registry import REGISTRY
from tests.check.other_families import Squares, results_of


def test_a_check_leaves_the_global_random_numbers_as_they_were() -> None:
    @REGISTRY.register("dataset", "seeding")
    class Seeding(Squares):
        def load(self) -> Splits:
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            return super().load()

    before = random.getstate(), random_states()
    results_of("dataset", "seeding")
    for family, name in (("tokenizer", "char"), ("optimizer", "soap"), ("schedule", "cosine")):
        check(component_target(family, name), quick=True)
    assert (random.getstate(), random_states()) == before


@pytest.mark.slow
def test_another_process_can_load_components_of_modules_and_of_plugin_files(tmp_path: Path) -> None:
    REGISTRY.register("dataset", "squares")(Squares)
    file = tmp_path / "cubes.py"
    file.write_text(
        "from minigpt.contracts import Dataset, Splits\n"
        "from minigpt.registry import register\n"
        "@register('dataset', 'cubes')\n"
        "class Cubes(Dataset):\n"
        "    def __init__(self, *, start: int = 0):\n"
        "        self.start = start\n"
        "    def load(self) -> Splits:\n"
        "        print('cubes')\n"
        "        return Splits.of_text(' '.join(str(n**3) for n in range(self.start, 999)), 0.1)\n"
    )
    (cubes,) = find_targets([str(file)])
    for target, chosen in ((cubes, {"start": 5}), (component_target("dataset", "squares"), {})):
        outcome = outcome_in_another_process(target, chosen)
        assert outcome is not None
        assert outcome == dataset_check.outcome(target, chosen)
    file.write_text(f"{file.read_text()}\nraise SystemExit(7)\n")
    with pytest.raises(TrustError, match=r"not executed: .*cubes\.py was edited meanwhile"):
        check(cubes, only=["repeatable"])


def test_a_failure_only_in_another_process_breaks_a_property() -> None:
    REGISTRY.register("dataset", "squares")(Squares)
    target = component_target("dataset", "squares")
    with pytest.raises(Violation, match=r"^it fails in another process: .*unknown_word"):
        outcome_in_another_process(target, {"unknown_word": 1})


def test_a_class_defined_in_a_function_is_not_checked_in_another_process() -> None:
    @REGISTRY.register("dataset", "local")
    class Local(Squares):
        pass

    assert outcome_in_another_process(component_target("dataset", "local"), {}) is None
    assert all(result.verdict == "pass" for result in results_of("dataset", "local"))
