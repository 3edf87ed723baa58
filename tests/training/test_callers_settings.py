"""A training is the same whatever the program that calls it has set in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from minigpt import build_model
from minigpt.reading import load_experiment
from minigpt.run import RunFolder
from minigpt.training import resume
from tests.soak.children import differences
from tests.training.conftest import Watcher, Write, run


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_and_its_resuming_are_fp32_whatever_torchs_default_is(
    optimizer: str, write_experiment: Write, undisturbed: Callable[..., RunFolder], tmp_path: Path, float64_by_default: None
) -> None:
    named = {"name": optimizer, "learning_rate": 1e-2}
    experiment = load_experiment(write_experiment(optimizer=named))
    part = run(experiment, tmp_path, Watcher(("updated", 14)))
    assert torch.get_default_dtype() == torch.float64, "the caller's default is restored"
    assert resume(part.run.path, observer=Watcher()).status == "finished"
    assert {parameter.dtype for parameter in build_model(experiment, 50).parameters()} == {torch.float32}
    torch.set_default_dtype(torch.float32)
    assert not differences(undisturbed(optimizer=named), part.run)
