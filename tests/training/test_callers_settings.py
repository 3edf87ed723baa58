"""A training is the same whatever the program that calls it has set in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "another default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast that is off": lambda: torch.autocast("cpu", enabled=False),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_training_is_the_same_within_a_callers_context(
    setting: str, precision: str, write_experiment: Write, tmp_path: Path
) -> None:
    experiment = load_experiment(write_experiment(max_iters=6, precision=precision))
    alone = run(experiment, tmp_path / "alone").run
    with SETTINGS[setting]():
        within = run(experiment, tmp_path / "within").run
        assert next(build_model(experiment, 50).parameters()).device.type == "cpu"
    assert not differences(alone, within)
