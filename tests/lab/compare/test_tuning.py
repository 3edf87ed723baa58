"""Tests of tuning: equal trials for all variants, on seeds and with a budget that the verdict does not use."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.lab.compare import Settings, Source, Tune, Tuning
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

    def search(files: list[Path], loss: Loss, *tunes: Tune, seeds: int = 1, share: float = 1.0, **settings: Any) -> Search:
        monkeypatch.setattr(Grid, "missing", lambda self: [])
        monkeypatch.setattr(Costs, "of", lambda self, experiment, corpus: COST)
        monkeypatch.setattr(module, "read_result", lambda cell, unit: run(cell.seed, loss(cell.variant.experiment)))
        tuning = Tuning(tunes or (Tune(),), seeds, share)
        found = Search(make_plan(files, Settings(seeds=1, device="cpu", **settings)), tuning)
        assert found.next() is None
        return found

    return search


def records(search: Search) -> list[RecordedTuning]:
    return [source.tuned for source in search.sources() if source.tuned is not None]


def rate(experiment: Experiment) -> float:
    value = experiment.to_json()["training"]["optimizer"]["learning_rate"]
    assert isinstance(value, float)
    return value


def optimum(best: dict[str, float], fails_above: float = math.inf) -> Loss:
    """A loss with its minimum at a learning rate that depends on the feed-forward."""

    def loss(experiment: Experiment) -> float | None:
        distance = math.log2(rate(experiment) / best[experiment.model.ffn.name])
        return None if rate(experiment) > fails_above else 1 + distance**2

    return loss


def test_each_variant_has_equal_trials_and_its_own_best_value(write: Write, searched: Callable[..., Search]) -> None:
    files = [write("base", training={"optimizer": {"learning_rate": 0.004}}), write("glu", model={"ffn": "glu"})]
    search = searched(files, optimum({"mlp": 0.004, "glu": 1.5e-4}), seeds=2)
    base, glu = records(search)
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
    tuner, loss = Tuner.of(read_variant(write("base")), [Tune()], AS_WRITTEN), optimum({"mlp": best}, fails_above)
    while wanted := tuner.wanted():
        for values in wanted:
            variant = tuner.read(values)
            known = loss(variant.experiment)
            outcome = Status.CRASHED if known is None else Status.FINISHED
            tuner.record(values, variant, [Trial(values=values, seed=1, outcome=outcome, loss=known)])
        tuner.advance()
    found = tuner.tuned(1.0, is_base=False).tuned
    assert found is not None
    assert found.chosen == {RATE: pytest.approx(chosen, rel=1e-3)}
    assert found.tried == tried
    assert found.edges == ({} if edge is None else {RATE: edge})


def test_settings_are_tuned_one_after_another_and_integers_stay_integers(
    write: Write, searched: Callable[..., Search]
) -> None:
    def loss(experiment: Experiment) -> float:
        distance = abs(math.log2(rate(experiment) / 6e-4)) + abs(math.log2(experiment.model.n_heads / 4))
        return 1 + distance + (experiment.model.ffn.name == "glu")

    files = [write("base"), write("same")]
    search = searched(files, loss, Tune(), Tune("n_heads"), Tune("model.ffn", ("mlp", "glu")))
    for record in records(search):
        assert record.chosen == {RATE: 6e-4, "model.n_heads": 4, "model.ffn": "mlp"}
        assert record.written["model.ffn"] == "mlp", "as it is named, without all its parameters"
        values = [tuple(trial.values.values()) for trial in record.trials]
        assert [heads for _, heads, _ in values[:5]] == [2] * 5
        assert sorted(heads for *_, heads, _ in values[5:-1]) == [1, 4, 8, 16], "32 do not divide the width"
        assert values[-1] == (6e-4, 4, "glu")
    assert search.sources()[0].settings == (f"{RATE}=0.0006", "model.n_heads=4")


def test_a_range_that_ends_gives_more_values_on_the_other_side(write: Write, searched: Callable[..., Search]) -> None:
    files = [write("base", model={"dropout": 0.3}), write("same", model={"dropout": 0.3})]
    search = searched(files, lambda experiment: -float(experiment.model.dropout), Tune("dropout"))  # type: ignore[arg-type]
    for record in records(search):
        assert [trial.values["model.dropout"] for trial in record.trials] == [0.0375, 0.075, 0.15, 0.3, 0.6]
        assert record.edges == {"model.dropout": "highest"}, "1.2 is no rate"


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


@pytest.mark.parametrize(
    ("tunes", "settings", "message"),
    [
        (["training.optimizer.lr"], {}, r'^--tune training.optimizer.lr: base has no "lr" in training.optimizer$'),
        (["learning_rat"], {}, r"^--tune learning_rat: no setting of base, or more than one, has this name; give its path"),
        (["model.attention"], {}, r"^--tune model.attention: base has .*name the values, such as --tune model.attention=v1"),
        (["dropout"], {}, r"^--tune model.dropout: base has 0.0, and a grid around it needs a number other than 0; name"),
        (["model.d_model=16,18,19"], {}, r"base.json: model.n_heads: .*does not divide d_model 19"),
        (["learning_rate", RATE], {}, rf"^--tune {RATE} is given more than once; name all its values in one --tune$"),
        (["seed"], {}, r"^--tune seed is not possible: it is the same for all. Name another setting$"),
        (["max_iters"], {}, r"^--tune training.max_iters is not possible: it is the budget"),
        (["expansion"], {"match": "params"}, r"^--tune model.ffn.expansion is not possible: it is what --match changes"),
        (["batch_size=4,8"], {}, r"base-batch_size-8 and base are trained on different numbers of tokens"),
    ],
)
def test_what_cannot_be_tuned_is_reported_in_one_line(
    write: Write, tunes: list[str], settings: dict[str, Any], message: str
) -> None:
    files = [write("base"), write("same")]
    plan = make_plan(files, Settings(seeds=1, device="cpu", **settings))
    for share in (0.5, 1.0):
        with pytest.raises(MinigptError, match=message) as caught:
            Search(plan, Tuning(tuple(map(Tune.parse, tunes)), share=share)).next()
        assert len(set(map(len, str(caught.value).splitlines()))) == 1, "one line, or one for each trial"


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
    assert "after them: 4 trials of further settings, then 6 runs with each variant's own best values: about" in out
    assert not list(Path("comparisons").rglob("metrics.jsonl"))


def test_the_record_can_be_read_and_the_notes_say_how_it_was_tuned(
    write: Write, searched: Callable[..., Search], tmp_path: Path
) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    tuned = records(searched(files, optimum({"mlp": 3e-4, "glu": 1.0}, 1e-2)))
    plain = comparison(base=[run()], glu=[run()])
    variants = [variant.model_copy(update={"tuning": record}) for variant, record in zip(plain.variants, tuned, strict=True)]
    written = plain.model_copy(update={"variants": tuple(variants)})
    written.write(tmp_path / "comparison.json")
    assert Comparison.read(tmp_path / "comparison.json") == written
    assert (
        f"tuned: {RATE} over 5 to 8 values (base 0.0003, glu 0.0096); glu is best at the edge 0.0096; 1 tuning seed, full "
        "budget"
    ) in notes(written)
    assert not [note for note in notes(plain) if note.startswith("tuned")]
    failing = records(searched(files, optimum({"mlp": 3e-4, "glu": 3e-4}, 1e-3)))
    failed = plain.model_copy(update={"variants": (variants[0], variants[1].model_copy(update={"tuning": failing[1]}))})
    assert f"glu, trial {RATE} 0.0012, seed 10005: crashed" in notes(failed)


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
def test_a_search_that_was_stopped_anywhere_continues_without_a_lost_or_repeated_trial(write: Write) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    tuning = Tuning((Tune(values=(3e-4, 1e-3)), Tune("weight_decay", (0.1, 0.2))))

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
