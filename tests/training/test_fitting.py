"""Memory and disk that a run needs are estimated first, and a run that does not fit is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.contracts import Batch
from minigpt.data import load_corpus
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run.checkpoint import Progress, save
from minigpt.training import fitting
from minigpt.training.loop import compute_gradients, take_step
from minigpt.training.machine import build_optimizer
from tests.conftest import Command
from tests.training.conftest import Write

CPU = torch.device("cpu")
PARTS = [
    (family, entry.name, precision)
    for family in ("attention", "position", "norm", "ffn", "block", "optimizer")
    for entry in REGISTRY.entries(family)
    for precision in (("fp32", "bf16") if family in ("attention", "optimizer") else ("fp32",))
]


@pytest.mark.parametrize(("family", "name", "precision"), PARTS)
def test_the_estimate_equals_the_memory_used(family: str, name: str, precision: str) -> None:
    """For every shipped component, the count without values is compared with a real update."""
    parts: dict[str, Any] = {family: name} if family != "optimizer" else {}
    if family == "attention":
        parts["position"] = "none"
    experiment = load_experiment(
        {
            "model": {"d_model": 32, "n_heads": 4, "n_layers": 2 if precision == "fp32" else 1, "block_size": 32, **parts},
            "training": {"batch_size": 2, **({"optimizer": name} if family == "optimizer" else {})},
        }
    )
    needs = fitting.estimate(experiment, 65, CPU, precision)
    model = build_model(experiment, 65).train()
    optimizer = build_optimizer(experiment, model, precision)
    ids = torch.randint(65, (2, 33), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    kept = fitting.bytes_kept(model, batch, precision)
    compute_gradients(model, batch, experiment, precision)
    take_step(model, optimizer)
    assert needs.weights == sum(
        value.nbytes for value in {id(v): v for v in model.state_dict(keep_vars=True).values()}.values()
    )
    assert needs.gradients == sum(parameter.tensor.nbytes for parameter in model.named_roles())
    assert needs.optimizer == pytest.approx(fitting._bytes_of(optimizer.state), rel=0.01)
    if name == "moe":  # its shapes depend on values, so the estimate is a real count of one sequence times their number
        assert 0.9 * kept < needs.activations < 1.6 * kept
    else:
        assert needs.activations == pytest.approx(kept, rel=0.01)
    assert needs.memory <= fitting._bound(experiment, 65, CPU), "the bound is an upper bound"


def test_a_checkpoint_has_the_estimated_size(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment())
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size)
    optimizer = build_optimizer(experiment, model, "fp32")
    ids = torch.zeros((2, 8), dtype=torch.int64)
    compute_gradients(model, Batch(ids, ids), experiment, "fp32")
    take_step(model, optimizer)
    saved = save(tmp_path / "checkpoints", model, optimizer, Progress(step=1), best=True)
    size = sum(file.stat().st_size for file in saved.iterdir())
    assert size == pytest.approx(fitting.estimate(experiment, corpus.vocab_size, CPU, "fp32").checkpoint, rel=0.15)


def test_too_much_memory_is_refused_with_the_estimate(
    minigpt: Command, write_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_experiment()
    monkeypatch.setattr(fitting, "available_memory", lambda device: 400_000)
    code, _, err = minigpt("run", file, "--no-check")
    assert code == 2
    expected = r"training needs .* of memory \(weights .* kB, gradients .* kB, optimizer .* kB, activations .*\), and 400 kB are free here"
    assert re.search(expected, err), err
    assert len([line for line in err.splitlines() if not line.startswith("plugin: ")]) == 1


def test_a_model_that_no_machine_holds_is_refused_in_seconds(minigpt: Command, write_experiment: Write) -> None:
    huge = [("d_model", 131072), ("n_heads", 64), ("n_layers", 48)]
    changes = [word for name, value in huge for word in ("--set", f"model.{name}={value}")]
    code, _, err = minigpt("run", write_experiment(), "--no-check", *changes)
    assert code == 2
    assert "training needs" in err
    assert "TB" in err or "PB" in err


def test_too_little_disk_is_refused_with_the_size_of_a_checkpoint(
    minigpt: Command, write_experiment: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "free_disk", lambda folder: 500_000)
    code, _, err = minigpt("run", write_experiment(), "--no-check")
    assert code == 2
    assert "the checkpoints of this run will need" in err
    assert "500 kB are free there; make room, or name another place with --out" in err


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path) -> None:
    from minigpt.system import memory

    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "current").write_text("400\n")
    assert memory._of_container(((str(tmp_path / "max"), str(tmp_path / "current")),)) == 600
    (tmp_path / "max").write_text("max\n")
    assert memory._of_container(((str(tmp_path / "max"), str(tmp_path / "current")),)) is None
    assert [memory.size(n) for n in (999, 12_900_000, 345_000_000, 10**15)] == ["999 bytes", "12.9 MB", "345 MB", "1.0 PB"]


PEAK = """
import io, json, sys, torch
from minigpt.data import load_corpus
from minigpt.reading import load_experiment
from minigpt.training import PlainObserver, fitting, train

def peak():  # not ru_maxrss, which includes the memory of the parent process
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def train_one(**model):
    model = {"d_model": 512, "n_heads": 8, "n_layers": 1, "block_size": 64, **model}
    training = {"batch_size": 1, "max_iters": 2, "eval_interval": 2, "precision": "fp32", "compile": False}
    data = {"name": "text", "paths": ["corpus.txt"]}
    name = f"x{model['n_layers']}"
    document = {"name": name, "data": data, "model": model, "training": training, "sampling": {"max_new_tokens": 3}}
    experiment = load_experiment(document)
    before = peak()
    train(experiment, device="cpu", threads=1, observer=PlainObserver(io.StringIO()))
    taken = peak() - before
    needs = fitting.estimate(experiment, load_corpus(experiment).vocab_size, torch.device("cpu"), "fp32")
    return taken, needs.memory

train_one(d_model=64)  # memory that torch allocates once
print(json.dumps(train_one(n_layers=8)))
"""


@pytest.mark.slow
def test_the_peak_of_a_process_is_near_the_estimate(tmp_path: Path) -> None:
    """The peak of the whole process, including saves. Only for Linux, which reports it in kilobytes."""
    (tmp_path / "corpus.txt").write_text("abc def ghi.\n" * 200)
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=tmp_path, capture_output=True, text=True, check=True)
    measured, estimated = json.loads(done.stdout)
    assert 0.85 * measured < estimated < 1.3 * measured
