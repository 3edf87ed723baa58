"""Tests of the pages of ladders, ablations and comparisons on several corpora."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt.errors import RunError
from minigpt.lab.ablate.record import Ablation, ChangedSetting, ChangeResult, Effect
from minigpt.lab.compare.record import Comparison
from minigpt.lab.corpora.record import CorporaRecord
from minigpt.lab.ladder import Growth
from minigpt.lab.ladder.judging import judge
from minigpt.lab.report.study import study_in, write_study
from minigpt.lab.sealed import Sealed
from tests.conftest import Command
from tests.lab.compare.results import comparison, run
from tests.lab.report.conftest import HOW, mutated, paths, sealed_again


def compared(name: str, effect: float, compute: int = 10**12) -> Comparison:
    base = [run(seed, 1.5 + 0.01 * seed) for seed in range(3)]
    found = comparison(base=base, new=[run(each.seed, (each.loss or 0) + effect * (1 + 0.1 * each.seed)) for each in base])
    variants = tuple(variant.model_copy(update={"training_flops": compute}) for variant in found.variants)
    return found.model_copy(update={"name": name, "variants": variants})


def keep(folder: Path, comparisons: list[Comparison]) -> None:
    for each in comparisons:
        (folder / each.name).mkdir()
        each.write(folder / each.name / "comparison.json")


def a_ladder(folder: Path) -> tuple[Path, Sealed]:
    sizes = []
    for power, name in enumerate(("8x1", "16x1", "32x1")):
        each = compared(name, -0.1, 10 ** (12 + power))
        variants = []
        for variant in each.variants:
            runs = tuple(r.model_copy(update={"loss": (r.loss or 0) - 0.3 * power}) for r in variant.runs)
            variants.append(variant.model_copy(update={"runs": runs, "mean": (variant.mean or 0) - 0.3 * power}))
        sizes.append(each.model_copy(update={"variants": tuple(variants)}))
    keep(folder, sizes)
    return folder / "ladder.json", judge("study", Growth(), sizes)


def an_ablation(folder: Path) -> tuple[Path, Sealed]:
    without, alone = compared("without", 0.1), compared("alone", -0.1)
    keep(folder, [without, alone])
    changes = [
        ChangeResult(
            name=f"model.{name}",
            settings=(ChangedSetting(path=f"model.{name}", base=1, recipe={"name": "glu"}),),
            without=Effect.of(without, "new"),
            alone=Effect.of(alone, "new"),
        )
        for name in ("ffn", "norm")
    ]
    return folder / "ablation.json", Ablation(
        name="study",
        recipe="recipe",
        base="base",
        chosen="--from",
        settings=alone.settings,
        family=5,
        base_mean=1.5,
        whole=Effect.of(alone, "new"),
        changes=tuple(changes),
    )


def corpora(folder: Path) -> tuple[Path, Sealed]:
    rows = [compared("plays", -0.1), compared("code", 0.1)]
    keep(folder, rows)
    data = {"name": "shortened", "fraction": 0.5}
    return folder / "corpora.json", CorporaRecord.of("study", [(each.name, data, 2.0, each) for each in rows])


Make = Callable[[Path], tuple[Path, Sealed]]
EACH = pytest.mark.parametrize(
    ("make", "sentence", "numbers", "pictures"),
    [
        (a_ladder, "new: reaches the base's loss with", ["16x1 new", "1.00e+13"], ["Loss against training compute"]),
        (
            an_ablation,
            "needed (worse without it): model.ffn, model.norm",
            ["model.ffn 1 → glu", "+0.1100"],
            ["Differences: recipe without each change", "Differences: base with each change alone"],
        ),
        (
            corpora,
            "new against base: disagree: better on plays, worse on code",
            ["-0.1100, better", "training passes about 2 times over 50.00% of the training text"],
            ["Differences: plays", "Differences: code"],
        ),
    ],
)


@EACH
def test_the_page_begins_with_what_was_found_and_shows_the_results(
    make: Make, sentence: str, numbers: list[str], pictures: list[str], tmp_path: Path, minigpt: Command
) -> None:
    file, record = make(tmp_path)
    record.write(file)
    code, out, err = minigpt("report", tmp_path)
    assert code == 0, err
    assert str(tmp_path / "report.html") in out
    text = (tmp_path / "report.html").read_text("utf-8")
    words = re.sub(r"\s+", " ", text).replace("&#39;", "'")
    start = words.index(sentence)
    assert words.index("<h1>study</h1>") < start < words.index("Not shown: ") < words.index("<h2")
    assert "tuned for each variant (none was)" in words[start : words.index("<h2")]
    assert all(number in words for number in numbers)
    assert re.findall("<figcaption>(.*?)</figcaption>", words) == pictures
    assert "<script" not in words
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "ids are unique over all pictures"


@EACH
def test_a_record_without_its_comparisons_makes_a_page_and_a_damaged_one_is_named(
    make: Make, sentence: str, numbers: list[str], pictures: list[str], tmp_path: Path, minigpt: Command
) -> None:
    file, record = make(tmp_path)
    record.write(file)
    damaged = next(tmp_path.glob("*/comparison.json"))
    damaged.write_text("[]")
    code, _, err = minigpt("report", tmp_path)
    assert (code, len(err.splitlines()), str(damaged) in err) == (2, 1, True)
    for each in tmp_path.glob("*/comparison.json"):
        each.unlink()
    assert minigpt("report", tmp_path, "--out", "page.html")[0] == 0
    assert sentence in Path("page.html").read_text("utf-8").replace("&#39;", "'")


@pytest.fixture(params=[a_ladder, an_ablation, corpora])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Sealed]:
    """A record alone, as an untrusted person may send it."""
    (tmp_path / "made").mkdir()
    file, record = request.param(tmp_path / "made")
    return tmp_path / file.name, record


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings.default.max_examples // 4)
@given(data=st.data())
def test_any_content_gives_a_page_or_a_one_line_error(data: st.DataObject, recorded: tuple[Path, Sealed]) -> None:
    file, record = recorded
    document: Any = record.document()
    path = data.draw(st.sampled_from(list(paths(document))))
    changed = sealed_again(
        mutated(document, path, data.draw(st.sampled_from(HOW))), type(record), keep_format=path == ("format",)
    )
    file.write_text(json.dumps(changed))
    assert study_in(file.parent) == file
    try:
        write_study(file, file.parent / "page.html")
        message = str(file)
    except RunError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert str(file) in message
