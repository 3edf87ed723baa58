"""Tests of --budget time: equal work gets equal updates on a busy machine, or an error says that it is too busy."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import MinigptError
from minigpt.lab.compare import speeds as speeds_module
from minigpt.lab.compare.grid import Corpora
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.lab.compare.speeds import WIDTH, Speeds
from minigpt.lab.compare.trials import Tuning
from minigpt.lab.compare.tuning import Search
from minigpt.lab.compare.variants import read_variants
from minigpt.run import Provenance
from minigpt.training.interleaved import measure_ratio
from tests.conftest import Command
from tests.lab.compare.conftest import Write
from tests.simulated_machine import Machine

LONG = {"training": {"max_iters": 1000, "eval_interval": 1000}}


def simulate(monkeypatch: pytest.MonkeyPatch, machine: Machine, **seconds: float) -> list[str]:
    """Simulate updates that take these seconds, by the experiment's name; returns the names that were timed."""
    timed: list[str] = []

    class Simulated:
        def __init__(self, experiment: Any, *_: object):
            timed.append(experiment.name)
            self.update = machine.work(seconds[experiment.name])

        def evaluation(self) -> float:
            return 1.0

    monkeypatch.setattr(speeds_module, "Trial", Simulated)
    monkeypatch.setattr(speeds_module, "measure_ratio", functools.partial(measure_ratio, now=machine.now))
    return timed


def timed_plan(*files: Path, name: str = "timed") -> ComparisonPlan:
    return make_plan(files, Settings(noise=False, seeds=1, budget="time"), name=name)


def test_equal_work_gets_equal_updates_on_a_machine_with_bursts_and_drift(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When they were timed one after another, one of two equal experiments got 456 to 4,981 updates."""
    base, twin = write("base", **LONG), write("twin", training={**LONG["training"], "grad_clip": 0.9})
    twice = write("twice", training={**LONG["training"], "grad_clip": 0.8})
    found: dict[str, list[int]] = {"twin": [], "twice": []}
    for seed in range(5):
        simulate(monkeypatch, Machine(seed), base=0.05, twin=0.05, twice=0.1)
        plan = timed_plan(base, twin, twice, name=f"timed-{seed}")
        for variant in plan.variants[1:]:
            found[variant.name].append(variant.experiment.training.max_iters)
            assert re.search(
                r"\(--budget time; an update takes [\d.]+ ± 0\.\d+ of the base's; the machine was busy", variant.adjusted[0]
            )
    assert all(abs(updates - 1000) <= 1000 * WIDTH for updates in found["twin"])
    assert all(abs(updates - 500) <= 500 * WIDTH for updates in found["twice"])


def test_measurements_are_kept_and_used_for_the_time_estimate(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write("base", **LONG), write("twin", training={**LONG["training"], "grad_clip": 0.9})
    timed = simulate(monkeypatch, Machine(1), base=0.05, twin=0.05)
    first = timed_plan(*files)
    assert timed == ["base", "twin"]
    again = timed_plan(*files)
    assert [variant.experiment for variant in again.variants] == [variant.experiment for variant in first.variants]
    assert [variant.adjusted for variant in again.variants] == [variant.adjusted for variant in first.variants]
    seconds, low, high = again.seconds()
    assert low < seconds < high
    assert timed == ["base", "twin"], "nothing is measured again"
    assert "±" in first.judge().variants[1].adjusted[0]


def test_the_same_experiment_twice_needs_no_measurement(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(speeds_module, "measure_ratio", refuse)
    plan = timed_plan(write("base", **LONG), write("same", **LONG))
    assert plan.variants[1].experiment.training.max_iters == 1000
    assert plan.variants[1].adjusted == (
        "training.max_iters stays 1,000 (--budget time; an update has the same parts and settings as the base's, so it takes the same time)",
    )


def test_trials_of_other_learning_rates_have_the_measured_budget(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write("base", **LONG), write("slow", training={**LONG["training"], "grad_clip": 0.9})
    timed = simulate(monkeypatch, Machine(1), base=0.05, slow=0.1)
    plan = timed_plan(*files)
    trials = Search(plan, Tuning(share=0.5)).next()
    assert trials is not None
    assert len(trials.variants) == 10
    whole = plan.variants[1].experiment.training.max_iters
    for variant in trials.variants:
        expected = 500 if variant.name.startswith("base") else whole / 2
        assert abs(variant.experiment.training.max_iters - expected) <= 1
    assert timed == ["base", "slow"], "nothing is measured again"


def test_a_machine_that_is_too_busy_is_reported_in_one_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, minigpt: Command
) -> None:
    write("base", **LONG)
    write("twin", training={**LONG["training"], "grad_clip": 0.9})
    simulate(monkeypatch, Machine(3, jitter=1.0, burst=20.0), base=0.5, twin=0.5)
    code, _, err = minigpt("compare", "base.json", "twin.json", "--budget", "time", "--plan")
    assert code == 2
    assert len(err.splitlines()) == 1
    for words in ("--budget time: the machine is too busy to measure (load ", "equal updates varied by", "± 3% is needed"):
        assert words in err
    assert not Path("comparisons/base/speeds.json").exists(), "no imprecise measurement is kept"


def _with(recorded: Provenance, part: str) -> Provenance:
    """A provenance that differs in one part."""
    changed = {
        "components": (recorded.components[0].model_copy(update={"sha256": "other"}), *recorded.components[1:]),
        "core": "other",
        "machine": recorded.machine.model_copy(update={"processor": "other"}),
        "versions": recorded.versions.model_copy(update={"torch": "other"}),
        "precision": "bf16",
        "data": recorded.data.model_copy(update={"fingerprint": "other"}),
    }
    return recorded.model_copy(update={part: changed[part]})


@pytest.mark.parametrize("part", ["components", "core", "machine", "versions", "precision", "data"])
def test_another_source_machine_torch_or_corpus_is_measured_again(
    write: Write, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    files = write("base", **LONG), write("twin", training={**LONG["training"], "grad_clip": 0.9})
    timed = simulate(monkeypatch, Machine(1), base=0.05, twin=0.05)
    timed_plan(*files)
    now = speeds_module.provenance
    monkeypatch.setattr(speeds_module, "provenance", lambda *args, **kwargs: _with(now(*args, **kwargs), part))
    timed_plan(*files)
    assert timed == ["base", "twin"] * 2


def test_another_number_of_threads_is_measured_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    base, twin = read_variants([write("base", **LONG), write("twin", training={**LONG["training"], "grad_clip": 0.9})])
    timed = simulate(monkeypatch, Machine(1), base=0.05, twin=0.05)
    corpora = Corpora()
    for threads in (1, 2, 1):
        Speeds(Path("speeds.json"), corpora.of, "cpu", threads).ratio(base, twin)
    assert timed == ["base", "twin"] * 2


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"ratios": {"a": {"value": 0}}, "speeds": {}}', '{"ratios": {}, "speeds": {"a": [1, 2]}}']
)
def test_damage_is_reported_in_one_line(write: Write, content: str) -> None:
    files = write("base", **LONG), write("twin", training={**LONG["training"], "grad_clip": 0.9})
    file = Path("comparisons/timed/speeds.json")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(MinigptError, match=r"speeds.json is damaged. Remove it; then the speeds are measured again"):
        timed_plan(*files)


def test_two_equal_experiments_get_equal_updates_on_this_machine(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real measurements, unless the machine is too busy."""
    monkeypatch.setattr(speeds_module, "AT_MOST_SECONDS", 5.0)
    files = write("base", **LONG), write("twin", training={**LONG["training"], "grad_clip": 0.9})
    try:
        plan = timed_plan(*files)
    except MinigptError as error:
        if "the machine is too busy to measure" not in str(error):
            raise
        return
    kept = json.loads((plan.folder / "speeds.json").read_text())
    (ratio,) = kept["ratios"].values()
    assert ratio["high"] / ratio["low"] < (1 + WIDTH) ** 2
    assert abs(plan.variants[1].experiment.training.max_iters - 1000) <= 2 * 1000 * WIDTH
