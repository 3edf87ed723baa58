"""Tests of comparisons on several corpora: which rows there are, what is planned and judged, and the summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from minigpt.contracts import TokenStream
from minigpt.data import load_corpus, tokens_trained
from minigpt.errors import MinigptError
from minigpt.lab.compare import Compared, Settings
from minigpt.lab.compare.record import FailedVariant
from minigpt.lab.compare.variants import read_variant
from minigpt.lab.corpora import ComparedCorpora, CorporaRecord, compare_corpora
from minigpt.lab.corpora.record import summary
from minigpt.lab.corpora.rows import Row, rows_of
from minigpt.lab.corpora.tables import csv_text, json_document, markdown_of, notes, summary_table
from minigpt.reading import Reading
from tests.lab.compare.conftest import TEXT, Write, write
from tests.lab.compare.results import comparison, run

__all__ = ["write"]  # the fixture


def rows(base: Path, data: str | None = None, epochs: str | None = None, *overrides: str) -> list[Row]:
    reading = Reading(overrides)
    return rows_of(read_variant(base, reading), data, epochs, reading)


def test_corpora_are_datasets_files_and_json_with_commas(write: Write, tmp_path: Path) -> None:
    base = write("base", data={"val_fraction": 0.3, "encoding": "latin-1"})
    Path("other text.txt").write_text(TEXT)
    found = rows(base, 'python-docs, other text.txt,{"name": "text", "paths": ["a,b/corpus.md", "c"]} ,corpus.txt')
    assert [row.name for row in found] == ["python-docs", "other-text", "corpus", "corpus-2"]
    assert found[0].data == {"name": "python-docs", "val_fraction": 0.1}
    assert found[1].data["paths"] == [str(tmp_path / "other text.txt")]
    assert found[2].data["paths"] == [str(tmp_path / "a,b/corpus.md"), str(tmp_path / "c")]
    assert {(row.data["val_fraction"], row.data.get("encoding", "utf-8")) for row in found} == {(0.1, "utf-8")}, (
        "no parameter of the base's own data remains"
    )
    assert [row.name for row in rows(base)] == ["corpus"]
    assert rows(base)[0].data["val_fraction"] == 0.3


@pytest.mark.parametrize(
    ("data", "epochs", "message"),
    [
        (
            "pyton-docs",
            None,
            '--data: "pyton-docs" is neither a dataset nor a file; datasets: .*; did you mean "python-docs"',
        ),
        ("corpus.txt,", None, '--data: found "corpus.txt,"; allowed: names of datasets, text files and JSON objects'),
        (",corpus.txt", None, '--data: found ",corpus.txt"; allowed'),
        ("corpus.txt,./corpus.txt", None, '--data: found "corpus.txt,./corpus.txt", in which a corpus is named twice'),
        ("", None, '--data: found ""; allowed'),
        ('{"name": "text"', None, "--data: found {.*, which is no JSON"),
        ('{"name": "text"}x', None, "--data: found"),
        ('{"name": "text"}', None, "--data: data.paths: "),
        (
            '{"name": "text", "paths": ["a"], "error": "any"}',
            None,
            '--data: data.error: unknown key .*did you mean "errors"',
        ),
        (None, "0", '--epochs: found "0"; allowed: numbers above 0 with commas between them, such as 1,10'),
        (None, "1,x", '--epochs: found "1,x"; allowed: numbers'),
        (
            None,
            "0.1,10",
            r"--epochs 0.1: the budget of 384 tokens passes 0.19 times over the training text of corpus \(2,0\d\d tokens\)"
            r". Allowed: 0.19 or more; or name a longer text, or fewer training.max_iters",
        ),
    ],
)
def test_mistakes_are_one_line(write: Write, data: str | None, epochs: str | None, message: str) -> None:
    base = write("base")
    with pytest.raises(MinigptError, match=message) as caught:
        rows(base, data, epochs)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("passes", [0.5, 1, 10])
def test_the_budget_passes_over_the_shortened_text_so_many_times(write: Write, passes: float) -> None:
    (row,) = rows(base := write("base"), None, str(passes))
    assert row.name == f"corpus-{passes}-epoch{'' if passes == 1 else 's'}"
    whole, short = (read_variant(base, Reading(overrides)).experiment for overrides in ((), (row.setting,)))
    corpus, cut = load_corpus(whole), load_corpus(short)
    assert isinstance(cut.train, TokenStream)
    assert isinstance(corpus.val, TokenStream)
    assert isinstance(cut.val, TokenStream)
    assert tokens_trained(short) == tokens_trained(whole) == 384
    assert len(cut.train.ids) == pytest.approx(384 / passes, abs=1)
    assert corpus.val.ids.equal(cut.val.ids)


def test_each_corpus_has_each_number_of_passes(write: Write) -> None:
    base = write("base")
    Path("other.txt").write_text(TEXT)
    found = rows(base, "corpus.txt,other.txt", "1,10,1")
    assert [(row.name, row.passes) for row in found] == [
        ("corpus-1-epoch", 1),
        ("corpus-10-epochs", 10),
        ("other-1-epoch", 1),
        ("other-10-epochs", 10),
    ]


class Comparing:
    """Judges artificial losses in place of training."""

    def __init__(self, *files: Path, stops_at: str = ""):
        self.files, self.stops_at, self.calls, self.families = files, stops_at, list[tuple[str, bool]](), set[int | None]()

    def __call__(self, settings: Settings, *, out: Path, name: str, reading: Reading, only_plan: bool) -> Compared:
        self.calls.append((name, only_plan))
        (out / name).mkdir(parents=True, exist_ok=True)
        assert read_variant(self.files[0], reading).experiment.data.params["paths"][0].endswith(f"{name}.txt")
        plan = Mock(variants=self.files)
        if only_plan:
            return Compared(plan)
        if name == self.stops_at:
            return Compared(plan, stop_signal=15)
        self.families.add(settings.family)
        gain = 0.1 if name == "other" else -0.1
        found = comparison(base=[run(seed) for seed in range(3)], glu=[run(seed, 1 + gain) for seed in range(3)])
        failed = (FailedVariant(name="odd", source="odd.json", message="it raised"),)
        return Compared(plan, found.model_copy(update={"name": name, "failed": failed}))


def compared(write: Write, one: Comparing, **options: Any) -> ComparedCorpora:
    Path("other.txt").write_text(TEXT.replace("plus", "and"))
    options = {"data": "other.txt,corpus.txt", "reading": Reading(), **options}
    return compare_corpora(list(one.files), Settings(seeds=3), one, **options)


def test_all_corpora_are_planned_first_then_compared_and_recorded(write: Write) -> None:
    one = Comparing(write("base"), write("glu", model={"ffn": "glu"}))
    planned = compared(write, one, only_plan=True)
    assert one.calls == [("other", True), ("corpus", True)]
    assert (planned.record, planned.file.exists()) == (None, False)
    found = compared(write, one, name="study")
    assert one.calls[2:] == [("other", True), ("corpus", True), ("other", False), ("corpus", False)]
    assert one.families == {2}, "one variant on two corpora"
    assert found.file == Path("comparisons/study/corpora.json")
    assert CorporaRecord.read(found.file) == found.record
    assert found.record is not None
    assert [(each.variant, each.words) for each in found.record.summaries] == [
        ("glu", "disagree: worse on other, better on corpus"),
        ("odd", "crashed on 2 of 2"),
    ]
    table = summary_table(found.record)
    assert table.columns == ("variant", "other", "corpus", "summary")
    assert table.rows[0][:3] == ("glu", "+0.1000, worse", "-0.1000, better")
    header, *lines = csv_text(found).splitlines()
    assert header.startswith("corpus,variant,seed")
    assert [line.split(",")[0] for line in lines] == ["other"] * 6 + ["corpus"] * 6
    document = json_document(found)
    assert [row["name"] for row in document["rows"]] == list(document["comparisons"])  # type: ignore[index,union-attr]
    assert json.dumps(document)
    text = markdown_of(found)
    assert text.index("| glu | +0.1000, worse | -0.1000, better |") < text.index("### other") < text.index("### corpus")


def test_the_notes_say_how_often_training_passes_over_the_text() -> None:
    found = comparison(base=[run()], glu=[run()])
    rows = [(f"corpus-{number}", {"fraction": 0.2}, float(number), found) for number in (1, 4)]
    assert notes(CorporaRecord.of("study", rows))[-2:] == [
        "corpus-1: training passes about 1 time over 20.00% of the training text",
        "corpus-4: training passes about 4 times over 20.00% of the training text",
    ]


def test_a_stopped_comparison_records_nothing_and_the_same_call_continues(write: Write) -> None:
    files = write("base"), write("glu", model={"ffn": "glu"})
    stopped = compared(write, Comparing(*files, stops_at="corpus"))
    assert (stopped.stop_signal, stopped.record, stopped.file.exists()) == (15, None, False)
    assert compared(write, Comparing(*files)).record is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reading": Reading(("data.val_fraction=0.2",))}, "--set data.val_fraction=0.2 and --data both set the data"),
        ({"name": ".."}, '--name: found ".."'),
    ],
)
def test_contradicting_options_are_refused(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MinigptError, match=message):
        compared(write, Comparing(write("base"), write("glu")), **options)


def test_trained_runs_are_refused(write: Write, tmp_path: Path) -> None:
    Path("runs/glu").mkdir(parents=True)
    for options, option in (({}, "--data"), ({"data": None, "epochs": "1"}, "--epochs")):
        with pytest.raises(MinigptError, match=f"{option} trains on other text, but runs/glu is trained already"):
            compared(write, Comparing(write("base"), Path("runs/glu")), **options)


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (["better", "better"], "better on 2 of 2"),
        (["better", "cannot tell"], "better on a, cannot tell on b"),
        (["better", "equivalent within 0.01", "better"], "better on a and c, equivalent within 0.01 on b"),
        (["better", "diverged with seed 5", "worse"], "disagree: better on a, diverged with seed 5 on b, worse on c"),
        (["no verdict"], "no verdict on 1 of 1"),
    ],
)
def test_a_summary_does_not_average(verdicts: list[str], words: str) -> None:
    assert summary(list(zip("abc", verdicts, strict=False))) == words
