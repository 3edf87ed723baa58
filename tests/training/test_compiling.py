"""torch.compile: a measurement decides, a missing compiler is reported, and the numbers stay the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.data import load_corpus
from minigpt.errors import RunError
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.training import compiling, preparing
from minigpt.training.estimate import Speed
from minigpt.training.interleaved import Ratio
from tests.training.conftest import Watcher, Write, run


def ratio(value: float, width: float = 0.02) -> Ratio:
    return Ratio(value, value / (1 + width), value * (1 + width), 9, 100.0, 100.0 * value, 0.1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Simulates a machine where a compiled update takes half of the time; lists whether each measurement compiled."""
    asked: list[bool] = []

    def measure(*_: object, compiled: bool = False, width: float | None = None) -> Speed:
        asked.append(compiled)
        return Speed(update=50.0 if compiled else 100.0, evaluation=1.0, spread=(90.0, 110.0))

    def compare(*_: object) -> Ratio:
        asked.append(True)
        return ratio(0.5)

    monkeypatch.setattr(preparing, "measure_speed", measure)
    monkeypatch.setattr(preparing, "compare_compiled", compare)
    return asked


def chosen(write: Write, wish: object, observer: Watcher, minutes: float | None = None) -> tuple[bool, Speed]:
    experiment = load_experiment(write(compile=wish))
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size)
    return preparing._choose_compile(experiment, corpus, model, "fp32", minutes, observer)


def test_a_long_run_is_compiled_where_that_is_faster(write_experiment: Write, measured: list[bool]) -> None:
    observer = Watcher()
    compiled, speed = chosen(write_experiment, "auto", observer)
    assert compiled
    assert speed.update == 50.0
    assert speed.spread == (45.0, 55.0)
    assert measured == [False, True]
    assert "compiled, an update takes 0.500 ± 0.010 of the time: used" in observer.out.getvalue()


def test_a_long_run_is_not_compiled_where_that_is_no_faster(
    write_experiment: Write, measured: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "is_faster", lambda compiled: False)
    compiled, speed = chosen(write_experiment, "auto", Watcher())
    assert not compiled
    assert speed.update == 100.0


def test_a_short_run_is_not_even_tried(write_experiment: Write, measured: list[bool]) -> None:
    assert chosen(write_experiment, "auto", Watcher(), minutes=5)[0] is False
    assert measured == [False]


def test_an_explicit_setting_is_obeyed(write_experiment: Write, measured: list[bool]) -> None:
    assert [chosen(write_experiment, wish, Watcher())[0] for wish in (True, False)] == [True, False]
    assert measured == [True, False]


def test_a_missing_compiler_is_reported_or_refused(
    write_experiment: Write, measured: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    observer = Watcher()
    assert chosen(write_experiment, "auto", observer)[0] is False
    assert "torch.compile is left out: there is no C++ compiler here (g++; CXX names another)" in observer.out.getvalue()
    with pytest.raises(RunError, match=r'training.compile: there is no C\+\+ compiler here .* or set it to false or "auto"'):
        chosen(write_experiment, True, Watcher())


def test_faster_is_more_than_noise() -> None:
    assert compiling.is_faster(ratio(0.9))
    assert not compiling.is_faster(ratio(0.99))
    assert not compiling.is_faster(ratio(0.9, width=0.2)), "the interval includes slower"


def test_the_choice_is_written_into_the_run(write_experiment: Write, tmp_path: Path) -> None:
    outcome = run(load_experiment(write_experiment(max_iters=1)), tmp_path)
    assert outcome.run.experiment().training.compile is False


COMPARED = """
import sys, torch
from minigpt import build_model, load_corpus, load_experiment
from minigpt.data import train_batch
from minigpt.training.compiling import loss_of
from minigpt.training.loop import compute_gradients

experiment = load_experiment(sys.argv[1], overrides=sys.argv[2:])
corpus = load_corpus(experiment)
found = []
for compiled in (False, True):
    model = build_model(experiment, corpus.vocab_size).double()  # compiled kernels round differently
    compute_gradients(model, train_batch(corpus, experiment, 0), experiment, "fp32", loss_of(model, compiled=compiled))
    found.append({name: parameter.grad for name, parameter in model.named_parameters()})
for name, gradient in found[0].items():
    torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)
print("alike", len(found[0]))
"""


@pytest.mark.slow
def test_compiled_gradients_are_the_plain_ones(write_experiment: Write) -> None:
    # In a separate process, because torch.compile fails with these tests' shape checks and with warnings as errors.
    parts = ["position=rope", "norm=rmsnorm", 'ffn={"name": "mlp", "activation": "relu2"}', "dropout=0.0"]
    command = [sys.executable, "-c", COMPARED, str(write_experiment()), *(f"model.{part}" for part in parts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("alike")
