"""Tests of tuning: equal trials for all variants, on seeds and with a budget that the verdict does not use."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from minigpt.cli.compare import Watching
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.compare import Compared, Settings, Source, Tune, Tuning, compare, comparing
from minigpt.lab.compare import tuning as module
from minigpt.lab.compare.costs import Costs
from minigpt.lab.compare.grid import Grid
from minigpt.lab.compare.plan import ComparisonPlan, make_plan
from minigpt.lab.compare.record import Comparison
from minigpt.lab.compare.tables import notes
from minigpt.lab.compare.tuned import RecordedTuning, Trial
from minigpt.lab.compare.tuner import Tuner
from minigpt.lab.compare.tuning import Search
from minigpt.lab.compare.variants import read_variant
from minigpt.lab.cost import Cost
from minigpt.reading import AS_WRITTEN
from minigpt.run.status import Status
from tests.lab.compare.conftest import Write, train_here
from tests.lab.compare.results import comparison, run

Loss = Callable[[Experiment], float | None]
COST = Cost({}, 1, 16, 1, 1, 1, 1, 1)
RATE = "training.optimizer.learning_rate"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Search]:
    """A search to its end, with losses from a function in place of training; None is a crashed run."""

    def search(
        files: list[Path | Source], loss: Loss, *tunes: Tune, seeds: int = 1, share: float = 1.0, **settings: Any
    ) -> Search:
        monkeypatch.setattr(Grid, "missing", lambda self: [])
        monkeypatch.setattr(Costs, "of", lambda self, experiment, corpus: COST)
        monkeypatch.setattr(module, "read_result", lambda cell, unit: run(cell.seed, loss(cell.variant.experiment)))
        tuning = Tuning(tunes or (Tune(),), seeds, share)
        found = Search(make_plan(files, Settings(seeds=1, device="cpu", **settings)), tuning)
        assert found.next() is None
        return found

    return search


def tuned(file: Path, loss: Loss, *tunes: Tune) -> Tuner:
    """The tuning of one variant, with losses from a function."""
    tuner = Tuner.of(read_variant(file), tunes or (Tune(),), AS_WRITTEN)
    while wanted := tuner.wanted():
        for values in wanted:
            variant = tuner.read(values)
            known = loss(variant.experiment)
            outcome = Status.CRASHED if known is None else Status.FINISHED
            tuner.record(values, variant, [Trial(values=values, seed=10_005, outcome=outcome, loss=known)])
        tuner.advance()
    return tuner


def record_of(tuner: Tuner) -> RecordedTuning:
    found = tuner.tuned(1.0, is_base=False).tuned
    assert found is not None
    return found


def records(search: Search) -> list[RecordedTuning]:
    return [source.tuned for source in search.sources() if source.tuned is not None]


def rate(experiment: Experiment) -> float:
    value = experiment.to_json()["training"]["optimizer"]["learning_rate"]
    assert isinstance(value, float)
    return value


def dropout(experiment: Experiment) -> float:
    assert isinstance(experiment.model.dropout, float)
    return experiment.model.dropout


def optimum(best: dict[str, float], fails_above: float = math.inf) -> Loss:
    """A loss with its minimum at a learning rate that depends on the feed-forward."""

    def loss(experiment: Experiment) -> float | None:
        distance = math.log2(rate(experiment) / best[experiment.model.ffn.name])
        return None if rate(experiment) > fails_above else 1 + distance**2

    return loss


def test_each_variant_has_equal_trials_and_its_own_best_value(write: Write, searched: Callable[..., Search]) -> None:
    glu_file = Source(write("glu", model={"ffn": "glu"}), optional=True)
    base_file = write("base", training={"optimizer": {"learning_rate": 0.004}})
    search = searched([base_file, glu_file], optimum({"mlp": 0.004, "glu": 1.5e-4}), seeds=2)
    base, glu = records(search)
    assert [source.optional for source in search.sources()] == [False, False]
    assert base.chosen == base.written == {RATE: 0.004}
    assert (glu.written, glu.chosen, glu.edges) == ({RATE: 3e-4}, {RATE: 1.5e-4}, {})
    assert [trial.values[RATE] for trial in glu.trials] == [
        7.5e-5,
        7.5e-5,
        1.5e-4,
        1.5e-4,
        3e-4,
        3e-4,
        6e-4,
        6e-4,
        12e-4,
        12e-4,
    ]
    assert (base.tried, glu.tried) == (5, 5)
    assert base.seeds == glu.seeds == [10_005, 10_006], "no comparison with at most 10,000 seeds from 5 on has them"
    assert [source.settings for source in search.sources()] == [(), (f"{RATE}=0.00015",)]
    assert glu.adjustments == (f"{RATE} 0.0003 → 0.00015 (--tune: 5 trials, full budget)",)
    assert base.adjustments == (f"{RATE} stays 0.004 (--tune: 5 trials, full budget)",)
    failed = record_of(tuned(base_file, lambda _: None))
    assert failed.adjustments == (f"{RATE} stays 0.004, because no trial finished (--tune: 5 trials, full budget)",)


@pytest.mark.parametrize(
    ("best", "fails_above", "chosen", "tried", "edge"),
    [
        pytest.param(3e-4, math.inf, 3e-4, 5, None, id="inside"),
        pytest.param(1.2e-3, math.inf, 1.2e-3, 6, None, id="extended-once"),
        pytest.param(9.6e-3, math.inf, 9.6e-3, 8, "highest", id="extended-to-the-bound"),
        pytest.param(1.0, math.inf, 9.6e-3, 8, "highest", id="far"),
        pytest.param(1.0, 1e-3, 6e-4, 5, None, id="failures-are-worst"),
        pytest.param(1e-9, math.inf, 9.375e-6, 8, "lowest", id="below"),
        pytest.param(1.0, 0.0, 3e-4, 5, None, id="all-fail"),
    ],
)
def test_a_best_value_at_the_edge_extends_the_grid(
    write: Write, best: float, fails_above: float, chosen: float, tried: int, edge: str | None
) -> None:
    found = record_of(tuned(write("base"), optimum({"mlp": best}, fails_above)))
    assert found.chosen == {RATE: pytest.approx(chosen, rel=1e-3)}
    assert found.tried == tried
    assert found.edges == ({} if edge is None else {RATE: edge})


def test_settings_are_tuned_one_after_another_and_integers_stay_integers(write: Write) -> None:
    def loss(experiment: Experiment) -> float:
        distance = abs(math.log2(rate(experiment) / 6e-4)) + abs(math.log2(experiment.model.n_heads / 4))
        return 1 + distance + (experiment.model.ffn.name == "glu")

    tuner = tuned(write("base"), loss, Tune(), Tune("n_heads"), Tune("model.ffn", ("mlp", "glu")))
    found = record_of(tuner)
    assert found.chosen == {RATE: 6e-4, "model.n_heads": 4, "model.ffn": "mlp"}
    assert found.written["model.ffn"] == "mlp", "as it is named, without all its parameters"
    values = [tuple(trial.values.values()) for trial in found.trials]
    assert [heads for _, heads, _ in values[:5]] == [2] * 5
    assert sorted(heads for *_, heads, _ in values[5:-1]) == [1, 4, 8, 16], "32 do not divide the width"
    assert values[-1] == (6e-4, 4, "glu")
    assert tuner.tuned(1.0, is_base=False).settings == (f"{RATE}=0.0006", "model.n_heads=4")


def test_a_range_that_ends_gives_more_values_on_the_other_side(write: Write) -> None:
    found = record_of(tuned(write("base", model={"dropout": 0.3}), lambda each: -dropout(each), Tune("dropout")))
    assert [trial.values["model.dropout"] for trial in found.trials] == [0.0375, 0.075, 0.15, 0.3, 0.6]
    assert found.edges == {"model.dropout": "highest"}, "1.2 is no rate"


def test_a_part_of_the_budget_shortens_the_training_and_its_schedule(write: Write, searched: Callable[..., Search]) -> None:
    seen = []

    def loss(experiment: Experiment) -> float:
        seen.append((experiment.training.max_iters, experiment.training.batch_size))
        return abs(rate(experiment) - 0.1)

    files = [write("base", training={"max_iters": 41}), write("half", training={"max_iters": 82, "batch_size": 2})]
    search = searched(files, loss, Tune(values=(0.05, 0.1, 0.2)), share=0.25)
    assert set(seen) == {(10, 4), (20, 2)}, "equal in tokens, although 0.25 * 82 is rounded to 20 or 21"
    assert [source.settings for source in search.sources()] == [(f"{RATE}=0.1",)] * 2, "the verdict has the whole budget"
    assert {record.adjustments for record in records(search)} == {
        (f"{RATE} 0.0003 → 0.1 (--tune: 3 trials, 0.25 of the updates)",)
    }


def test_trials_are_matched_like_the_comparison_and_the_base_keeps_its_budget(
    write: Write, searched: Callable[..., Search]
) -> None:
    seen = set()

    def loss(experiment: Experiment) -> float:
        seen.add((experiment.model.ffn.name, experiment.training.batch_size, experiment.training.max_iters))
        return -experiment.training.batch_size

    files = [write("base"), write("glu", model={"ffn": "glu"}, training={"max_iters": 5})]
    search = searched(files, loss, Tune("batch_size", (2, 4, 8)), budget="tokens")
    assert {(batch, updates) for _, batch, updates in seen} == {(2, 12), (4, 6), (8, 3), (16, 2), (32, 1), (64, 1)}
    base, glu = search.sources()
    assert base.settings == ("training.batch_size=64", "training.max_iters=1")
    assert glu.settings == ("training.batch_size=64",)


MISTAKES = {
    "training.optimizer.lr": r'^--tune training.optimizer.lr: base has no "lr" in training.optimizer$',
    "learning_rat": r"^--tune learning_rat: no setting of base, or more than one, has this name; give its path, such as",
    "model.attention": r"^--tune model.attention: base has .*; name the values, such as --tune model.attention=v1,v2$",
    "dropout": r"^--tune model.dropout: base has 0.0, and a grid around it needs a number other than 0; name the values",
    "model.d_model=16,18,19": r"base.json: model.n_heads: .*does not divide d_model 19",
    f"learning_rate {RATE}": rf"^--tune {RATE} is given more than once; name all its values in one --tune$",
    "seed": r"^--tune seed is not possible: it is the same for all. Name another setting$",
    "max_iters": r"^--tune training.max_iters is not possible: it is the budget. Name another setting$",
    "expansion": r"^--tune model.ffn.expansion is not possible: it is what --match changes. Name another setting$",
    "batch_size=4,8": r"^base-batch_size-8 and base are trained on different numbers of tokens",
}


def test_what_cannot_be_tuned_is_reported(write: Write) -> None:
    plan = make_plan([write("base"), write("same")], Settings(seeds=1, device="cpu", match="params"))
    for words, message in MISTAKES.items():
        for share in (0.5, 1.0):
            with pytest.raises(MinigptError, match=message) as caught:
                Search(plan, Tuning(tuple(map(Tune.parse, words.split())), share=share)).next()
            assert len(str(caught.value).splitlines()) == (2 if "batch_size" in words else 1), "a line for each variant"


def test_trained_runs_cannot_be_tuned(write: Write, minigpt: Any) -> None:
    base = write("base")
    assert minigpt("run", base, "--no-check")[0] == 0
    code, _, err = minigpt("compare", write("other"), "runs/base", "--tune", "learning_rate", "--plan")
    assert code == 2
    assert err == "error: --tune changes variants, but runs/base is trained already; name its experiment file\n"


def test_a_plan_with_tuning_shows_all_trials_and_trains_nothing(write: Write, minigpt: Any) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    options = ["--tune", "learning_rate", "--tune", "weight_decay=0.1,0.2", "--tune-seeds", "2", "--tune-budget", "0.5"]
    code, out, err = minigpt("compare", *files, "--plan", *options)
    assert code == 0, err
    assert "tuning-0.5: 10 variants, seeds 10005 to 10006: 20 runs, 0 exist already" in out
    assert "20 runs to train: about" in out
    assert "after them: 4 trials of further settings, then 9 runs with each variant's own best values: about" in out
    assert not list(Path("comparisons").rglob("metrics.jsonl"))


def test_what_follows_the_trials_is_printed_once(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComparisonPlan, "seconds", lambda *_, **__: (1.0, 1.0, 1.0))
    plan = make_plan([write("base")], Settings(seeds=1, device="cpu"))
    search = Search(plan, Tuning())
    trials = search.next()
    assert trials is not None
    with Watching(Console()) as watcher:
        for _ in range(2):  # a second round, in which a grid is extended
            watcher.tuning(trials, search.later, plan)
    assert capsys.readouterr().out.count("after them: ") == 1


def test_the_record_can_be_read_and_the_notes_say_how_it_was_tuned(write: Write, tmp_path: Path) -> None:
    base, plain = write("base"), comparison(base=[run()], glu=[run()])

    def noted(best: float, fails_above: float) -> Comparison:
        losses = optimum({"mlp": 3e-4}), optimum({"mlp": best}, fails_above)
        pairs = zip(plain.variants, losses, strict=True)
        variants = [each.model_copy(update={"tuning": record_of(tuned(base, loss))}) for each, loss in pairs]
        return plain.model_copy(update={"variants": tuple(variants)})

    written = noted(1.0, math.inf)
    written.write(tmp_path / "comparison.json")
    assert Comparison.read(tmp_path / "comparison.json") == written
    edge = "glu is best at the edge 0.0096"
    assert f"tuned: {RATE} over 5 to 8 values (base 0.0003, glu 0.0096); {edge}; 1 tuning seed, full budget" in notes(
        written
    )
    assert f"glu, trial {RATE} 0.0012, seed 10005: crashed" in notes(noted(3e-4, 1e-3))
    assert not [note for note in notes(plain) if "tuned" in note or "trial" in note]


def train(search: Search, at_most: int = 10**9) -> int:
    """Train the trials in this process; stop after so many of them. Returns the number of those that were trained."""
    trained = 0
    while (trials := search.next()) is not None:
        for cell in trials.grid.missing():
            if trained == at_most:
                return trained
            whole, trials.grid.cells = trials.grid.cells, [cell]
            train_here(trials.grid)
            trials.grid.cells = whole
            trained += 1
    return trained


@pytest.mark.slow
def test_a_search_that_was_stopped_anywhere_repeats_no_trial_and_leaves_none_out(write: Write) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    tuning = Tuning((Tune(values=(0.005, 0.02)), Tune("model.norm", ("layernorm", "rmsnorm"))))

    def begin(name: str) -> Search:
        return Search(make_plan(files, Settings(seeds=1, device="cpu"), name=name), tuning)

    whole, trained = begin("whole"), 0
    total = train(whole)
    assert total == sum(record.tried for record in records(whole)) > 6, "the grids were extended"
    for _ in range(total):
        halted = begin("halted")
        trained += train(halted, at_most=1)
    halted = begin("halted")
    assert train(halted) == 0
    assert trained == total
    assert records(halted) == records(whole)
    assert len(list(Path("comparisons/halted").rglob("metrics.jsonl"))) == total


@pytest.mark.slow
def test_a_comparison_with_tuning_can_be_stopped_and_continued_and_records_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    trained: list[int] = []

    def train_until_stopped(plan: ComparisonPlan, *_: Any) -> int | None:
        trained.append(len(plan.grid.missing()))
        train_here(plan.grid)
        return signal.SIGTERM if len(trained) == 1 else None

    monkeypatch.setattr(comparing, "_train", train_until_stopped)
    watcher = Mock()

    def call(**options: Any) -> Compared:
        tuning = Tuning((Tune(values=(1e-4, 3e-4, 1e-3)),), share=0.5)
        return compare(files, Settings(seeds=1, device="cpu", tuning=tuning), watcher=watcher, **options)

    assert call(only_plan=True).comparison is None
    assert trained == []
    assert call().stop_signal == signal.SIGTERM
    watcher.planned.assert_not_called()
    found = call().comparison
    assert trained[0] == 6, "no trial of the base as written"
    assert sum(trained[1:-1]) == len(trained[1:-1]) * 2, "each variant extends its grid by one value"
    assert found is not None
    for name, variant in zip(("base", "glu"), found.variants, strict=True):
        assert variant.tuning is not None
        assert variant.name == name
        assert variant.experiment["training"]["optimizer"]["learning_rate"] == variant.tuning.chosen[RATE]  # type: ignore
        assert [run.seed for run in variant.runs] == [5]
        assert variant.adjusted == variant.tuning.adjustments
        assert all(trial.loss is not None for trial in variant.tuning.trials)
    watcher.planned.assert_called_once()
    assert Comparison.read(Path("comparisons/base/comparison.json")) == found.seen_from(Path("comparisons/base"))
    record = next(Path("comparisons/base/tuning-0.5/cells").glob("glu-*0.001-*.json"))
    record.write_text(record.read_text().replace('"finished"', '"crashed"'))
    failed, again = call().comparison, call(retry=True).comparison
    assert failed is not None
    assert again is not None
    assert failed.variants[1].tuning is not None
    assert [trial.values[RATE] for trial in failed.variants[1].tuning.failed] == [0.001]
    assert again.variants[1].tuning == found.variants[1].tuning


EAGER = '''
from minigpt import register
from minigpt.components.init.gpt2 import GPT2
from minigpt.contracts import Factors

@register("init", "eager")
class Eager(GPT2):
    """The usual weights, with twice the learning rate that the experiment says."""
    def factors(self, parameter):
        return Factors(lr=2.0)
'''


@pytest.mark.slow
def test_a_variant_that_needs_half_the_learning_rate_is_worse_untuned_and_equivalent_tuned(write: Write) -> None:
    Path("eager.py").write_text(EAGER)
    training = {"max_iters": 40, "eval_interval": 40, "optimizer": {"name": "adamw", "learning_rate": 0.04}}
    files = [
        write("base", training=training),
        write("eager", training=training, plugins=["eager.py"], model={"init": "eager"}),
    ]

    def verdict(plan: ComparisonPlan) -> str:
        train_here(plan.grid)
        return plan.judge().variants[1].verdict

    settings = Settings(device="cpu")
    untuned = make_plan(files, settings)
    assert verdict(untuned) == "worse"
    search = Search(untuned, Tuning())
    train(search)
    base, eager = records(search)
    assert base.chosen == {RATE: 0.04}
    assert eager.chosen == {RATE: 0.02}
    sources: list[Path | Source] = [*search.sources()]
    assert verdict(make_plan(sources, settings, name="tuned", within=untuned)) == "equivalent within 0.01"
