"""`minigpt run`: every shipped experiment, its options, and where it writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.components.dataset.tinyshakespeare import TinyShakespeare
from minigpt.reading import load_experiment
from minigpt.run import RunFolder
from minigpt.system import download as cache
from tests.cli.small import ROOT, SHORT, TINY
from tests.conftest import Command

pytestmark = pytest.mark.usefixtures("own_folder")

EXPERIMENTS = [
    # The default suite computes the families in test_families.py.
    pytest.param(file, id=f"{file.parent.name}/{file.stem}", marks=[pytest.mark.slow] * (file.parent.name == "families"))
    for file in sorted((ROOT / "experiments").rglob("*.json"))
]


@pytest.mark.parametrize("file", EXPERIMENTS)
def test_every_shipped_experiment_runs_and_generates(file: Path, minigpt: Command, corpus: list[str]) -> None:
    """With its own components, on a small text and for a few updates."""
    pattern = load_experiment(file).model.layers
    small = [
        "model.block_size=32",
        f"model.n_layers={max(2, len(pattern))}",
        "training.max_iters=3",
        "training.eval_interval=3",
    ]
    changes = [word for change in small for word in ("--set", change)]
    code, out, err = minigpt("run", file, *SHORT, *corpus, *changes, "--no-check")
    assert code == 0, err
    assert "validation loss" in out
    next_command = re.search(r"minigpt (generate \S+)", out)
    assert next_command
    code, out, err = minigpt(*next_command[1].split(), "ROMEO", "--max-new-tokens", "10", "--seed", "1")
    assert code == 0, err
    assert out.startswith("ROMEO")
    if load_experiment(file).tokenizer.name == "char":  # one token per character
        assert len(out) == len("ROMEO") + 10 + 1


@pytest.mark.slow
def test_the_plugin_example_is_found_loaded_copied_and_announced(minigpt: Command, corpus: list[str]) -> None:
    code, out, err = minigpt("run", ROOT / "experiments/talking_heads.json", *SHORT, *corpus)
    assert code == 0, err
    assert f"plugin: {ROOT / 'plugins/talking_heads.py'}" in out
    assert (Path("runs/talking_heads/seed-1337/plugins/talking_heads.py")).is_file()
    code, _, err = minigpt("run", ROOT / "experiments/talking_heads.json", "--no-plugins", "--fresh")
    assert code == 2
    assert "plugins are refused (--no-plugins)" in err


@pytest.mark.slow
def test_the_baseline_trains_on_the_real_corpus_if_it_is_in_the_cache(
    minigpt: Command, corpus: list[str], real_corpus: bool
) -> None:
    """The documented model; on a small text if TinyShakespeare is not in the cache."""
    data = [] if real_corpus else corpus
    updates = ["--set", "training.max_iters=2", "--set", "training.batch_size=2", "--set", "training.eval_interval=2"]
    code, out, err = minigpt(
        "run", ROOT / "experiments/baseline.json", *updates, *data, "--set", "sampling.max_new_tokens=5"
    )
    assert code == 0, err
    if real_corpus:
        assert "baseline: 10,770,816 parameters, 1,024 tokens in 2 steps" in out
    assert RunFolder(Path("runs/baseline/seed-1337")).rows()[-1].val_loss < 4.3


@pytest.fixture
def real_corpus() -> bool:
    return cache.cached(TinyShakespeare.remote)


def test_without_a_network_the_baseline_says_how_to_continue(minigpt: Command) -> None:
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "minigpt data add tinyshakespeare FILE; or start with experiments/quickstart.json" in err
    assert not RunFolder(Path("runs/baseline/seed-1337")).path.exists()


def test_options_override_the_file(minigpt: Command, corpus: list[str]) -> None:
    options = ["--seed", "7", "--name", "mine", "--out", "other", "--set", "model.attention.name=gqa", "--device", "cpu"]
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus, *options)
    assert code == 0, err
    resolved = json.loads(Path("other/mine/seed-7/experiment.json").read_text())
    assert (resolved["name"], resolved["seed"], resolved["model"]["attention"]["name"]) == ("mine", 7, "gqa")


def test_fresh_keeps_the_existing_run(minigpt: Command, corpus: list[str], trained: Path) -> None:
    again = ["run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus]
    code, _, err = minigpt(*again)
    assert code == 2
    assert "holds a run already" in err
    code, out, _ = minigpt(*again, "--fresh")
    assert code == 0
    assert "the earlier run is kept as runs/baseline/seed-1337.old-1" in out
    assert RunFolder(Path("runs/baseline/seed-1337.old-1")).rows() != []


def test_a_prompt_with_characters_not_in_the_corpus_is_refused_before_training(minigpt: Command, corpus: list[str]) -> None:
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *corpus, "--set", "sampling.prompt=xyz")
    assert code == 2
    assert "sampling.prompt: character 'x' (U+0078, at 0) is not in the vocabulary" in err
    assert not list(Path("runs").rglob("experiment.json"))


def test_an_output_folder_that_cannot_be_written_is_reported(minigpt: Command, corpus: list[str]) -> None:
    Path("in-the-way").write_text("")
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus, "--out", "in-the-way")
    assert code == 2
    assert re.search(r"^error: in-the-way\S* cannot be written: (Not a directory|File exists)$", err, re.MULTILINE)


@pytest.mark.slow
def test_the_quickstart_beats_the_bigram_entropy_by_far(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minigpt", "run", str(ROOT / "experiments/quickstart.json")]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr
    run = RunFolder(tmp_path / "runs/quickstart/seed-1337")
    bigram = run.provenance().data.entropies["bigram"]
    assert run.rows()[-1].val_loss < bigram - 0.5
