"""A planted recipe is seen through: two of its changes matter, one does nothing."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest

from minigpt.lab import ablate as ablation_module
from minigpt.lab.ablate import Ablated, Ablation, ablate, ablating
from minigpt.lab.ablate.ablating import summary
from minigpt.lab.ablate.changes import take_apart
from minigpt.lab.ablate.tables import ablation_table, csv_text, findings, markdown_text
from minigpt.lab.compare import Compared, Settings, Tune, Tuning
from minigpt.lab.compare.grid import Grid
from minigpt.lab.compare.plan import make_plan
from minigpt.lab.compare.record import RunResult
from minigpt.lab.compare.tuning import Search
from minigpt.lab.ledger import Ledger
from minigpt.reading import AS_WRITTEN
from minigpt.training.stopping import StopNow
from tests.conftest import Command
from tests.lab.ablate.conftest import Extend
from tests.lab.compare.conftest import train_here
from tests.lab.compare.results import comparison, run

EFFECTS = {"model.norm": -0.05, "model.ffn": -0.03, "training.eval_interval": 0.0}
PLANTED = {"model": {"norm": "rmsnorm", "ffn": "glu"}, "training": {"eval_interval": 2}}


def planted(extend: Extend) -> Ablation:
    """A recipe whose losses have the planted effects, and noise that is like that of real runs."""
    recipe = take_apart(extend(**PLANTED), None, Settings(), AS_WRITTEN)
    random = np.random.default_rng(7)

    def runs(effect: float) -> list[RunResult]:
        return [run(seed, 1.5 + effect + random.normal(0, 0.001)) for seed in range(5)]

    whole = sum(EFFECTS.values())
    alone = {f"with-{name}": runs(effect) for name, effect in EFFECTS.items()}
    without = {f"without-{name}": runs(whole - effect) for name, effect in EFFECTS.items()}
    return summary(
        "study",
        recipe,
        comparison(recipe.family, **{"base": runs(0), "recipe": runs(whole), **alone}),
        comparison(recipe.family, **{"recipe": runs(whole), **without}),
    )


def test_a_change_that_does_nothing_is_found_and_the_others_are_confirmed(extend: Extend, tmp_path: Path) -> None:
    found = planted(extend)
    kinds = {each.name: (each.without.kind, each.alone.kind) for each in found.changes}
    assert kinds == {
        "model.norm": ("worse", "better"),
        "model.ffn": ("worse", "better"),
        "training.eval_interval": ("equivalent", "equivalent"),
    }
    assert found.whole.kind == "better"
    assert found.family == 7
    effects = [found.whole, *(effect for each in found.changes for effect in (each.without, each.alone))]
    assert {effect.difference.family for effect in effects if effect.difference is not None} == {7}
    assert findings(found) == [
        "recipe against base: better",
        "needed (worse without it): model.norm, model.ffn",
        "makes no difference (equivalent without it): training.eval_interval",
    ]
    found.write(tmp_path / "ablation.json")
    assert Ablation.read(tmp_path / "ablation.json") == found


def test_tables_and_files_show_every_row(extend: Extend) -> None:
    found = planted(extend)
    table = ablation_table(found)
    assert [row[0] for row in table.rows] == [*EFFECTS, "all of them: recipe"]
    assert [row[2::2] for row in table.rows][2] == ("equivalent within 0.01", "equivalent within 0.01")
    rows = list(csv.DictReader(csv_text(found).splitlines()))
    assert len(rows) == 7
    for row in rows[:-1]:
        sign = 1 if row["part"] == "alone" else -1
        assert float(row["difference"]) == pytest.approx(sign * EFFECTS[row["change"]], abs=0.002)
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    text = markdown_text(found)
    assert "- needed (worse without it): model.norm, model.ffn" in text
    assert "model.ffn: model.ffn mlp → glu" in text
    assert "corrected for 7 rows" in text


def test_a_change_that_cannot_be_made_alone_has_a_row_without_numbers(extend: Extend) -> None:
    recipe = take_apart(extend(model={"d_model": 24, "n_heads": 3}), None, Settings(), AS_WRITTEN)
    runs = [run(seed) for seed in range(3)]
    alone = comparison(3, **{"base": runs, "recipe": runs, "with-model.d_model": runs})
    found = summary("study", recipe, alone, comparison(3, **{"recipe": runs, "without-model.n_heads": runs}))
    rows = {row[0]: row[1:] for row in ablation_table(found).rows}
    assert rows["model.n_heads"][2] == "–"
    assert rows["model.n_heads"][3].startswith("cannot be made alone: model.n_heads: n_heads 3 does not divide")
    assert findings(found)[-1] == "not known: model.d_model"


def test_the_command_prints_and_writes_the_table(extend: Extend, minigpt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found, folder = planted(extend), Path("study")
    folder.mkdir()
    found.write(folder / "ablation.json")
    ended = Ablated(folder, Mock(), (Compared(Mock()),), found)
    stopped = Ablated(folder, Mock(), (Compared(Mock(), stop_signal=2),))
    planned = Ablated(folder, Mock(without=(), alone=()), (Compared(MagicMock()),))
    outcomes = iter([ended, stopped, planned])
    monkeypatch.setattr(ablation_module, "ablate", lambda *_, **__: next(outcomes))
    files = ("--json", "all.json", "--csv", "table.csv", "--markdown", "table.md")
    code, out, err = minigpt("ablate", "recipe.json", *files)
    assert code == 0, err
    assert "makes no difference (equivalent without it): training.eval_interval" in out
    assert "the base is base: recipe.json extends it" in out
    assert Path("all.json").read_bytes() == (folder / "ablation.json").read_bytes()
    assert Path("table.csv").read_text() == csv_text(found)
    assert Path("table.md").read_text() == markdown_text(found)
    code, _, err = minigpt("ablate", "recipe.json")
    assert (code, err) == (130, "stopped, unfinished runs are saved; continue with the same command\n")
    out = minigpt("ablate", "recipe.json", "--plan", "--tune", "learning_rate")[1]
    assert out == "together 0 runs to train after the trials: a run that both parts need is trained once\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "missing.json: there is no such file"),
        (["recipe.json", "--from", "missing.json"], "missing.json: there is no such file"),
        (["recipe.json", "--name", "a/b"], '--name: found "a/b"'),
        (["recipe.json", "--knob", "model.d_model"], "--knob model.d_model names what --match changes"),
        (["recipe.json"], "recipe and base differ in one change (model.norm)"),
    ],
)
def test_mistakes_are_reported_in_one_line(extend: Extend, minigpt: Command, arguments: list[str], message: str) -> None:
    extend(model={"norm": "rmsnorm"})
    code, _, err = minigpt("ablate", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_second_part_finds_the_trials_of_the_first(extend: Extend, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Path("comparisons/recipe-ablation/alone/tuning/runs")
    searched: list[bool] = []

    def compare(*_: object, runs: list[Path], **__: object) -> Compared:
        searched.append(trials in runs)
        trials.mkdir(parents=True, exist_ok=True)
        return Compared(Mock())

    monkeypatch.setattr(ablating, "compare", compare)
    ablate(extend(**PLANTED), only_plan=True)
    assert searched == [False, True]


def test_trials_of_another_comparison_are_used_again(extend: Extend) -> None:
    extend()
    tuning = Tuning((Tune("model.norm", ("layernorm", "rmsnorm")),))
    for name, runs in (("alone", "runs"), ("without", "comparisons/alone/tuning/runs")):
        plan = make_plan([Path("base.json")], Settings(seeds=1, device="cpu"), name=name)
        trials = Search(plan, tuning, runs=[Path(runs)]).next()
        assert trials is not None
        train_here(trials.grid)
    assert len(list(Path("comparisons/alone").rglob("metrics.jsonl"))) == 2
    assert not list(Path("comparisons/without").rglob("metrics.jsonl")), "measured, and not trained"


@pytest.mark.slow
def test_a_real_recipe_that_is_stopped_again_and_again_is_taken_apart_without_a_repeated_run(
    extend: Extend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate helps, dropout harms, and the number of evaluations does nothing."""
    training = {"optimizer": {"learning_rate": 0.01}, "eval_interval": 2}
    recipe = extend(model={"dropout": 0.5}, training=training)
    trained: Counter[str] = Counter()

    def train_some(grid: Grid, *_: object, **__: object) -> None:
        """Four runs, and then a signal."""
        monkeypatch.setattr(Grid, "missing", lambda grid, **words: missing(grid, **words)[:4])
        trained.update(cell.key for cell in grid.missing_runs())
        train_here(grid)
        monkeypatch.setattr(Grid, "missing", missing)
        if grid.missing():
            raise StopNow

    missing = Grid.missing
    monkeypatch.setattr(Grid, "run", train_some)
    settings = Settings(seeds=6, delta=0.002)
    planned = ablate(recipe, settings=settings, only_plan=True)
    assert planned.runs_to_train() == 8 * 6, "base, recipe, and three variants of each"
    for _ in range(20):
        done = ablate(recipe, settings=settings)
        if done.ablation is not None:
            break
        assert done.stop_signal is not None
    assert done.ablation is not None
    assert set(trained.values()) == {1}
    assert len(trained) == 8 * 6
    nothing = {each.name: each for each in done.ablation.changes}["training.eval_interval"]
    for effect in (nothing.without, nothing.alone):
        assert effect.kind == "equivalent"
        assert effect.difference is not None
        assert effect.difference.mean == 0
    others = [each for each in done.ablation.changes if each is not nothing]
    kinds = {each.name: (each.without.kind, each.alone.kind) for each in others}
    assert kinds == {"model.dropout": ("better", "worse"), "training.optimizer.learning_rate": ("worse", "better")}
    assert len(Ledger.read(Path("comparisons/ledger.jsonl")).entries) == 7
    assert ablate(recipe, settings=settings).ablation == done.ablation
    assert Ablation.read(done.file) == done.ablation
    assert len(trained) == 8 * 6
    assert len(Ledger.read(Path("comparisons/ledger.jsonl")).entries) == 7
