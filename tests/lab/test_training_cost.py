"""Costs of a training: the operations are those of the batches that are trained, and a teacher's are among them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minigpt.contracts import Batch, Batching, BatchShape, Draw, Source
from minigpt.data import load_corpus, tokens_trained, train_batch
from minigpt.errors import RunError
from minigpt.experiment import Experiment
from minigpt.lab.bench import train as bench_train
from minigpt.lab.bench.train import measure_training
from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.cost import measure_cost, measure_training_cost
from minigpt.lab.flops import count_flops
from minigpt.lab.report.content import content_of_runs
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.registry import register
from minigpt.run.teaching import Teacher
from minigpt.training import PlainObserver, fitting, train
from minigpt.training.building import build_trainable
from tests.lab.compare.conftest import TEXT, train_here, writer

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_train, "_CORPUS_TOKENS", 2000)


@pytest.fixture
def growing_memory() -> None:
    @register("batching", "growing-memory")
    class GrowingMemory(Batching):
        """More and more earlier tokens."""

        def __init__(self) -> None:
            pass

        def shape(self, draw: Draw) -> BatchShape:
            return BatchShape(draw.batch_size, draw.block_size, draw.step // 2)

        def batch(self, source: Source, draw: Draw) -> Batch:
            places = draw.rng().integers(0, len(source.data.ids) - 2 * draw.block_size, draw.batch_size)
            memory = source.data.at(places, draw.step // 2).tokens if draw.step > 1 else None
            drawn = source.data.at(places + draw.step // 2, draw.block_size)
            return Batch(drawn.tokens, drawn.targets, memory=memory)


def file(tmp_path: Path, name: str = "one", plugins: list[str] | None = None, **changes: Any) -> Path:
    model = {"position": "rope", "block_size": 32, **changes.pop("model", {})}
    training = {"max_iters": 12, "eval_interval": 12, **changes.pop("training", {})}
    return writer(tmp_path)(name, model=model, training=training, **({"plugins": plugins} if plugins else {}), **changes)


def true_flops(experiment: Experiment) -> int:
    """The operations of every batch, counted one by one."""
    corpus = load_corpus(experiment)
    model = build_trainable(experiment, corpus)
    return sum(count_flops(model, train_batch(corpus, experiment, step)).needed for step in range(12))


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({"training": {"batching": {"name": "growing", "context": 0.25, "multiple": 4}}}, 1e-6),
        ({"training": {"batching": {"name": "growing", "context": 0.25, "over": 1.0, "equal_tokens": True}}}, 1e-6),
        ({"training": {"batching": {"name": "growing", "batch": 0.25, "over": 1.0, "multiple": 4}}}, 1e-6),
        ({"model": {"position": "none", "attention": "hyena"}}, 1e-6),
        ({"model": {"position": "fire"}, "training": {"batching": {"name": "growing", "multiple": 4}}}, 1e-6),
        ({"training": {"batching": {"name": "transformer_xl", "memory": 24}}}, 1e-6),
        ({"training": {"batching": "growing-memory"}}, 1e-6),
        ({"data": {"name": "text", "paths": ["documents"]}, "training": {"batching": "documents"}}, 0.01),
    ],
)
@pytest.mark.usefixtures("growing_memory")
def test_operations_are_those_of_the_trained_batches(tmp_path: Path, changes: dict[str, Any], precision: float) -> None:
    (tmp_path / "documents").mkdir()
    for number, end in enumerate(np.cumsum([100, 30, 400, 9, 60])):
        (tmp_path / "documents" / f"{number}.txt").write_text(TEXT[end - 9 : 40 + end + 40 * number] * 3)
    needs_plugin = "transformer_xl" in str(changes)
    plugins = [str(ROOT / "plugins/transformer_xl.py")] if needs_plugin else None
    experiment = load_experiment(file(tmp_path, plugins=plugins, **changes))
    corpus = load_corpus(experiment)
    cost = measure_training_cost(build_trainable(experiment, corpus), experiment, corpus)
    counted = cost.train_flops * tokens_trained(experiment)
    assert counted == pytest.approx(true_flops(experiment), rel=max(precision, 1 / cost.train_flops))
    plain = measure_cost(build_model(experiment, corpus.vocab_size)).train_flops
    assert abs(cost.train_flops / plain - 1) > 0.01, "the batches matter"
    assert cost.train_flops_square >= cost.train_flops


def test_many_shapes_are_counted_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minigpt.lab.flops._SHAPES", 6)
    growing = {"name": "growing", "multiple": 1, "over": 1.0}
    experiment = load_experiment(file(tmp_path, training={"batching": growing}))
    corpus = load_corpus(experiment)
    cost = measure_training_cost(build_trainable(experiment, corpus), experiment, corpus)
    assert cost.train_flops * tokens_trained(experiment) == pytest.approx(true_flops(experiment), rel=0.005)


def test_the_flops_budget_the_results_and_the_report_agree(tmp_path: Path) -> None:
    growing = {"name": "growing", "context": 0.25, "over": 1.0, "multiple": 4}
    files = [file(tmp_path, "base"), file(tmp_path, "grown", training={"batching": growing})]
    plan = make_plan(files, Settings(noise=False, seeds=1, device="cpu", budget="flops"))
    base, grown = (variant.experiment for variant in plan.variants)
    assert grown.training.max_iters > 12
    mean = [flops / 12 for flops in map(true_flops, (base, load_experiment(files[1])))]
    assert grown.training.max_iters == round(12 * mean[0] / mean[1])
    train_here(plan.grid)
    for cell, variant in zip(plan.grid.cells, plan.judge().variants, strict=True):
        assert variant.tokens == cell.run.rows()[-1].tokens
        (uncompared,) = content_of_runs([cell.run.path]).comparison.variants
        assert (uncompared.training_flops, uncompared.cost) == (variant.training_flops, variant.cost)


# ------------------------------------------------------------------------------------------------------------- teachers


@pytest.fixture
def taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment that learns from a run of a larger model."""
    teacher = load_experiment(file(tmp_path, "teacher", model={"d_model": 32, "n_layers": 3}))
    train(teacher, out=tmp_path / "teachers", device="cpu", observer=PlainObserver(io.StringIO()))
    objective = {"name": "distillation", "run": str(tmp_path / "teachers/teacher/seed-5")}
    return file(tmp_path, "student", model={"objective": objective})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of the batches that teachers were asked about."""
    sizes: list[tuple[int, ...]] = []
    answer = Teacher.__call__

    def noted(self: Teacher, tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tokens.shape))
        return answer(self, tokens)

    monkeypatch.setattr(Teacher, "__call__", noted)
    return sizes


def test_a_teachers_forward_pass_counts(tmp_path: Path, taught: Path) -> None:
    plan = make_plan([file(tmp_path, "plain"), taught], Settings(noise=False, seeds=1, device="cpu", budget="flops"))
    plain, student = plan.costs
    teacher = load_experiment(tmp_path / "teacher.json")
    vocab_size = plan.grid.corpora.of(plan.variants[0]).vocab_size
    forward = measure_cost(build_model(teacher, vocab_size)).train_flops / 3
    assert student.train_flops == pytest.approx(plain.train_flops + forward, abs=2)
    assert plan.variants[1].experiment.training.max_iters == round(12 * plain.train_flops / student.train_flops)
    train_here(plan.grid)
    run = plan.grid.cells[1].run
    (uncompared,) = content_of_runs([run.path]).comparison.variants
    assert uncompared.training_flops == plan.judge().variants[1].training_flops
    (tmp_path / "teachers").rename(tmp_path / "elsewhere")
    (unknown,) = content_of_runs([run.path]).comparison.variants
    assert (unknown.training_flops, unknown.cost.train_flops) == (None, None)
    assert unknown.cost.total == uncompared.cost.total


def test_updates_are_timed_with_the_teacher(tmp_path: Path, taught: Path, asked: list[tuple[int, ...]]) -> None:
    plan = make_plan([file(tmp_path, "plain"), taught], Settings(noise=False, seeds=1, device="cpu"))
    asked.clear()
    plan.seconds()
    assert set(asked) == {(4, 32)}, "the plain model asks nobody"
    asked.clear()
    experiment = load_experiment(taught)
    vocab_size = load_corpus(experiment).vocab_size
    measure_training(experiment, vocab_size=vocab_size, repeats=1, device=CPU)
    assert asked.count((4, 32)) == 3, "two to warm up"
    with pytest.raises(RunError, match=rf"has a vocabulary of {vocab_size} tokens, and the model one of 65: .*--vocab-size"):
        measure_training(experiment, vocab_size=65, repeats=1, device=CPU)


def test_a_teacher_needs_memory(tmp_path: Path, taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, plain = load_experiment(taught), load_experiment(file(tmp_path, "plain"))
    corpus = load_corpus(experiment)
    needs, without = (fitting.estimate(each, corpus.vocab_size, CPU, "fp32") for each in (experiment, plain))
    teacher = build_model(load_experiment(tmp_path / "teacher.json"), corpus.vocab_size)
    weights = sum(each.nbytes for each in {id(each): each for each in teacher.parameters()}.values())
    assert without.teachers == 0
    assert needs.teachers == pytest.approx(weights + 4 * 4 * 32 * corpus.vocab_size, rel=0.1)
    assert needs.memory <= fitting._bound(experiment, corpus.vocab_size, CPU)
    monkeypatch.setattr(fitting, "available_memory", lambda device: needs.memory - 1)
    with pytest.raises(Exception, match=r"training needs .*, teachers "):
        fitting.refuse_what_cannot_fit(experiment, corpus, tmp_path, CPU, "fp32")
