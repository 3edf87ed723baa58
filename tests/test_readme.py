"""The blocks of the README, executed as written (with shorter runs)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    shutil.copytree(ROOT / "plugins", tmp_path / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("block", blocks("json"))
def test_every_experiment_in_it_is_valid(block: str, clone: Path) -> None:
    (clone / "experiments" / "mine.json").write_text(block)
    experiment = load_experiment(clone / "experiments" / "mine.json")
    assert experiment.name in block


@pytest.mark.slow
def test_its_plugin_trains_with_the_command_below_it(clone: Path) -> None:
    plugin = next(block for block in blocks("python") if "@register" in block)
    (clone / "softsign.py").write_text(plugin)
    command = next(line for block in blocks("bash") for line in block.splitlines() if "--plugin softsign.py" in line)
    short = ["--set", "training.max_iters=3", "--set", "model.d_model=16"]
    answer = subprocess.run(
        [sys.executable, "-m", *command.split(), *short], cwd=clone, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    assert (clone / "runs/softsign/seed-1337/plugins/softsign.py").read_text() == plugin


@pytest.mark.slow
def test_its_python_runs(clone: Path) -> None:
    code = next(block for block in blocks("python") if "import build_model" in block)
    assert "minutes=1," in code
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", code.replace("minutes=1,", "minutes=0.05,")],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr


def test_its_error_message_is_printed(clone: Path) -> None:
    shown = re.search(r"^error: experiments/mine.json: (.*?); allowed: attention, block, …(.*)$", README, re.MULTILINE)
    assert shown
    (clone / "experiments" / "mine.json").write_text('{"extends": "baseline.json", "model": {"atention": "gqa"}}')
    command = [sys.executable, "-m", "minigpt", "run", "experiments/mine.json"]
    answer = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    assert answer.stderr.startswith(f"error: experiments/mine.json: {shown[1]}; allowed: attention, block, ")
    assert answer.stderr.rstrip().endswith(shown[2])


def test_its_table_of_components_matches_the_registry() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (`.*) \|$", README, re.MULTILINE))
    assert list(rows) == [
        "attention", "position", "norm", "ffn", "block", "embedding", "init", "objective", "tokenizer", "batching",
        "optimizer", "schedule", "dataset", "sampler",
    ]  # fmt: skip
    for family, parts in rows.items():
        names = [name for name in re.findall(r"`([^`]+)`", parts) if not name.startswith("pip ")]
        assert sorted(names) == [entry.name for entry in REGISTRY.entries(family)], family


def test_its_commands_are_all_commands() -> None:
    from minigpt.cli import app

    listed = set(re.findall(r"^\| `minigpt (\w+)", README, re.MULTILINE))
    there = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert listed == there | {group.name for group in app.registered_groups}
