"""A ladder from its files to its findings."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from minigpt.errors import MinigptError, RunError
from minigpt.lab.compare import Settings
from minigpt.lab.compare.plan import ComparisonPlan
from minigpt.lab.compare.record import Comparison, FailedVariant
from minigpt.lab.ladder import Growth, ladder
from minigpt.lab.ladder.judging import judge
from minigpt.lab.ladder.record import Finding, Ladder
from minigpt.lab.ladder.tables import csv_text, lines, markdown_text, notes, size_table
from minigpt.run import RunFolder
from tests.conftest import Command
from tests.lab.compare.conftest import Write
from tests.lab.compare.results import comparison, run

SIZES = Growth(sizes=("8x1", "16x1", "16x2"))


@pytest.mark.slow
def test_a_ladder_trains_each_size_and_continues_where_it_stopped(write: Write, trained_here: list[str]) -> None:
    short = {"max_iters": 4, "precision": "auto"}
    files = [write("base", training=short), write("glu", model={"ffn": "glu"}, training=short)]
    planned = ladder(files, SIZES, Settings(seeds=1), only_plan=True)
    assert trained_here == []
    assert planned.results is None
    assert not list(Path("comparisons").rglob("runs"))
    laddered = ladder(files, SIZES, Settings(seeds=1))
    assert trained_here == ["8x1", "16x1", "16x2"]
    assert laddered.results is not None
    assert Ladder.read(Path("comparisons/base-ladder/ladder.json")) == laddered.results
    sizes = laddered.results.sizes
    for size in sizes:
        kept = Comparison.read(Path("comparisons/base-ladder") / size.folder / "comparison.json")
        assert [list(point.losses) for point in size.variants] == [variant.losses for variant in kept.variants]
        assert {json.dumps(variant.experiment["model"]["init"]["name"]) for variant in kept.variants} == {'"mup"'}  # type: ignore[index, call-overload]
    tokens, parameters = ([getattr(size.variants[0], key) for size in sizes] for key in ("tokens", "parameters"))
    for number, each in zip(tokens, parameters, strict=True):
        assert number / tokens[-1] == pytest.approx(each / parameters[-1], rel=0.2), "tokens grow with the parameters"
    (finding,) = laddered.results.findings
    assert finding.sizes == ("8x1", "16x1", "16x2")
    assert finding.curves is not None
    rows = {file: file.stat().st_mtime_ns for file in Path("comparisons").rglob("metrics.jsonl")}
    assert len(rows) == 6
    assert ladder(files, SIZES, Settings(seeds=1)).results == laddered.results
    assert rows == {file: file.stat().st_mtime_ns for file in Path("comparisons").rglob("metrics.jsonl")}


def test_a_stopped_size_ends_the_ladder_without_results(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Mock(return_value=Mock(comparison=None, stop_signal=15))
    monkeypatch.setattr("minigpt.lab.ladder.laddering.compare", calls)
    stopped = ladder([write("base"), write("glu", model={"ffn": "glu"})], SIZES, Settings(seeds=1))
    assert (stopped.stop_signal, stopped.results, calls.call_count) == (15, None, 1)
    assert not stopped.file.exists()


@pytest.mark.slow
def test_a_ladder_that_is_killed_anywhere_ends_as_an_uninterrupted_one(write: Write) -> None:
    training = {"max_iters": 200, "eval_interval": 100, "checkpoint_interval": 20}
    files = [write("base", training=training), write("glu", model={"ffn": "glu"}, training=training)]

    def command(name: str) -> list[str]:
        words = ["--sizes", "8x1,16x1,16x2", "--seeds", "2", "--device", "cpu", "--name", name]
        return [sys.executable, "-m", "minigpt", "ladder", *map(str, files), *words]

    subprocess.run(command("whole"), check=True, capture_output=True)
    for after, number in ((12, signal.SIGKILL), (25, signal.SIGTERM), (15, signal.SIGKILL)):
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            code = process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            code = process.wait()
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM)
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert not list(Path("comparisons/killed").rglob("*.old-*"))
    whole, killed = (Ladder.read(Path("comparisons") / name / "ladder.json") for name in ("whole", "killed"))
    assert (killed.sizes, killed.findings) == (whole.sizes, whole.findings)
    for size in killed.sizes:
        for cell in Path("comparisons/killed", size.name, "runs").glob("*/seed-*"):
            steps = [row.step for row in RunFolder(cell).rows()]
            assert steps == list(range(1, len(steps) + 1)), "no update is missing or repeated"


@pytest.mark.slow
def test_a_plugin_that_fails_leaves_out_only_its_own_variant(write: Write) -> None:
    Path("odd.py").write_text("raise RuntimeError('boom')")
    files = [write("base"), write("glu", model={"ffn": "glu"}), write("odd", plugins=["odd.py"])]
    planned = ladder(files, SIZES, Settings(seeds=1), only_plan=True)
    assert [[variant.name for variant in rung.plan.variants] for rung in planned.rungs] == [["base", "glu"]] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"layers": [{}, {"ffn": "glu"}], "n_layers": 2}}, "at the size 8x1: "),
        (
            {"training": {"optimizer": {"name": "sgd", "learning_rate": 0.1}}},
            "--rate mup is for optimizers as Adam is, and variant",
        ),
    ],
)
def test_a_variant_that_cannot_be_built_at_a_size_is_named_before_any_training(
    write: Write, change: dict[str, Any], message: str, trained_here: list[str]
) -> None:
    base = write("base", model={"n_layers": 2})
    with pytest.raises(MinigptError, match=message):
        ladder([base, write("variant", **change)], Growth(sizes=("8x1", "16x1", "16x2")), Settings(seeds=1))
    assert trained_here == []


# ------------------------------------------------------------------------------------------------------ without training


def compared(
    *, failing: tuple[str, ...] = (), power: float = 0.2, variant_power: float = 0.2, sizes: int = 4
) -> list[Comparison]:
    """Comparisons of a base and two variants: `better`, and `failing`, one of whose runs crashed at some sizes."""
    draw, found = np.random.default_rng(0), []
    for size in range(sizes):
        compute = 10**12 * 4**size
        noise = 0.002 * draw.normal(size=3)
        base = 1 + 0.7 * 4 ** (-power * size) + noise
        better = 1 + 0.6 * 4 ** (-variant_power * size) + noise + 0.0005 * draw.normal(size=3)
        name = f"{32 * (size + 1)}x1"
        runs = [run(seed, None if name in failing and seed == 6 else 1.0) for seed in (5, 6, 7)]
        each = comparison(
            base=[run(seed + 5, loss) for seed, loss in enumerate(base)],
            better=[run(seed + 5, loss) for seed, loss in enumerate(better)],
            failing=runs,
        )
        variants = tuple(variant.model_copy(update={"training_flops": compute}) for variant in each.variants)
        found.append(each.model_copy(update={"name": name, "variants": variants}))
    return found


def test_the_finding_says_the_speed_up_and_what_happens_with_size() -> None:
    better = judge("one", Growth(), compared()).findings[0]
    assert better.curves is not None
    assert better.curves.speedup.value == pytest.approx((0.7 / 0.6) ** 5, rel=0.1)
    assert better.statement.startswith("better: reaches the base's loss with 2.")
    assert " times less compute (90 %: " in better.statement
    assert (
        ") at the largest size; this stays so at all sizes: tenfold compute multiplies the speed-up by " in better.statement
    )
    vanishing = judge("one", Growth(), compared(variant_power=0.16)).findings[0]
    assert "the advantage vanishes with size, from 2." in vanishing.statement
    worse = judge("one", Growth(), compared(variant_power=0.1)).findings[0]
    assert re.search(
        r"needs [\d.]+ times the base's compute \(90 %: .*\) for the same loss at the largest size", worse.statement
    )


def test_a_variant_that_fails_at_a_size_is_reported_and_the_others_are_not_affected() -> None:
    all_sizes = judge("one", Growth(), compared())
    for failing, used in ((("32x1",), 3), (("32x1", "128x1"), 2)):
        found = judge("one", Growth(), compared(failing=failing))
        assert found.findings[0] == all_sizes.findings[0]
        finding = found.findings[1]
        assert len(finding.sizes) == used
        assert finding.cautions[0] == f"{', '.join(failing)} left out: not all runs of it and of the base finished there"
        assert (finding.curves is None) == (used < 3)
    assert finding.statement == "failing: no speed-up: 2 sizes with finished runs, and a curve needs 3"
    assert "32x1 failing" in [row[0] for row in size_table(found).rows]
    assert any(row[-1] == "crashed with seed 6" for row in size_table(found).rows)


def test_a_variant_with_fewer_seeds_than_the_base_is_paired_with_the_same_seeds() -> None:
    """With a range of seeds, a variant that has its verdict gets no more of them, and the base does."""

    def first_seeds(*names: str) -> Finding:
        found = []
        for each in compared():
            variants = [v.model_copy(update={"runs": v.runs[:2]}) if v.name in names else v for v in each.variants]
            found.append(each.model_copy(update={"variants": tuple(variants)}))
        return judge("one", Growth(), found).findings[0]

    assert first_seeds("better") == first_seeds("base", "better", "failing")


def test_everything_is_written_and_read_again(tmp_path: Path) -> None:
    failed = FailedVariant(name="odd", source="odd.json", message="RuntimeError: boom")
    found = judge("one", Growth(rate="width"), compared(failing=("32x1",)), [failed])
    found.write(tmp_path / "ladder.json")
    assert Ladder.read(tmp_path / "ladder.json") == found
    (tmp_path / "ladder.json").write_text((tmp_path / "ladder.json").read_text().replace('"width"', '"same"'))
    with pytest.raises(RunError, match="was edited: .* Call minigpt ladder again to rewrite it"):
        Ladder.read(tmp_path / "ladder.json")
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert len(rows) == 4 * 3 * 3
    assert {row["loss"] for row in rows if row["variant"] == "failing" and row["seed"] == "6" and row["size"] == "32x1"} == {
        ""
    }
    text = markdown_text(found)
    assert "| 32x1 better | 1.00e+12 |" in text
    for line in (*lines(found), *notes(found)):
        assert line.strip().split(" ")[0] in text
    assert "odd: RuntimeError: boom" in text
    assert "caution: 32x1 left out" in text


# ------------------------------------------------------------------------------------------------------------ the command


def test_the_command_prints_the_plan_and_the_findings(
    write: Write, monkeypatch: pytest.MonkeyPatch, minigpt: Command
) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    words = ["ladder", *files, "--sizes", "8x1,16x1,16x2", "--seeds", "1", "--device", "cpu"]
    results = iter(compared(failing=("32x1",), sizes=3))
    compare = Mock(side_effect=lambda *_, **__: Mock(comparison=next(results)))
    monkeypatch.setattr("minigpt.lab.ladder.laddering.compare", compare)
    monkeypatch.setattr(ComparisonPlan, "seconds", lambda *_, **__: (1.0, 1.0, 1.0))
    code, out, err = minigpt(*words, "--plan")
    assert (code, compare.call_count) == (0, 0), err
    assert "16x2 glu" in out
    assert "in total: about" in out
    assert "trial" not in out
    code, out, err = minigpt(*words, "--plan", "--tune", "learning_rate=0.01,0.02", "--tune", "weight_decay=0,0.1")
    assert (code, compare.call_count) == (0, 0), err
    assert "in total: about 6 s" in out
    assert "before these runs: at least 18 trials of --tune; the table shows the settings without it" in out
    written = ["--json", "all.json", "--csv", "runs.csv", "--markdown", "tables.md", "--name", "mine"]
    Path("comparisons/mine").mkdir(parents=True)
    code, out, err = minigpt(*words, *written)
    assert code == 0, err
    assert "better: reaches the base's loss with 2." in out
    assert "caution: with 3 sizes, 5 numbers are fitted to 6 mean losses" in out
    assert "saved in comparisons/mine" in out
    assert json.loads(Path("all.json").read_text()) == json.loads(Path("comparisons/mine/ladder.json").read_text())
    assert len(Path("runs.csv").read_text().splitlines()) == 28
    assert Path("tables.md").read_text().startswith("**Losses at each size**")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base.json"], "ladder needs a base and at least one variant"),
        (
            ["base.json", "other.json", "--rate", "mup2"],
            '--rate: found "mup2"; allowed: mup, same, width; did you mean "mup"?',
        ),
        (["base.json", "other.json", "--sizes", "8x1"], "--sizes: found 8x1; a curve needs at least 3 sizes"),
        (["base.json", "other.json", "--name", ".."], '--name: found ".." (text); allowed: letters, digits'),
        (["base.json", "other.json", "--json", "no/all.json"], "no/all.json: there is no folder no"),
        (["base.json", "."], ".: a run has one size; name its experiment file"),
    ],
)
def test_mistakes_are_reported_in_one_line(minigpt: Command, write: Write, arguments: list[str], message: str) -> None:
    write("base")
    write("other", model={"ffn": "glu"})
    code, _, err = minigpt("ladder", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
