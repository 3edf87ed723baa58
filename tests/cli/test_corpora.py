"""`minigpt compare --data` as a user calls it, with child processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.lab.compare.conftest import TEXT, Write, write

__all__ = ["write"]  # the fixture

STUDY = Path("comparisons/base-corpora")


def trained() -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in STUDY.rglob("metrics.jsonl")}


@pytest.mark.slow
def test_a_killed_comparison_on_two_corpora_continues(minigpt: Command, write: Write) -> None:
    files = [write("base"), write("glu", model={"ffn": "glu"})]
    Path("other.txt").write_text(TEXT.replace("plus", "and"))
    command = ["compare", *files, "--data", "corpus.txt,other.txt", "--epochs", "0.5", "--seeds", "1", "--no-noise"]
    code, out, err = minigpt(*command, "--plan")
    assert code == 0, err
    assert "corpus-0.5-epochs: 2 variants" in out
    assert "other-0.5-epochs: 2 variants" in out
    assert not trained()

    killed = subprocess.Popen([sys.executable, "-m", "minigpt", *map(str, command)], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (STUDY / "other-0.5-epochs/cells/base-seed-5.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    before = trained()
    assert len(before) >= 3, "the first corpus, and the base on the second"
    assert not (STUDY / "corpora.json").exists()

    code, out, err = minigpt(*command, "--csv", "runs.csv", "--json", "all.json", "--markdown", "tables.md")
    assert code == 0, err
    assert before.items() <= trained().items()
    assert len(trained()) == 4
    with Path("runs.csv").open() as file:
        rows = [(row["corpus"], row["variant"], row["outcome"]) for row in csv.DictReader(file)]
    assert rows == [(f"{name}-0.5-epochs", each, "finished") for name in ("corpus", "other") for each in ("base", "glu")]
    document = json.loads(Path("all.json").read_text())
    assert document["summaries"] == [{"variant": "glu", "words": "no verdict on 2 of 2"}]
    assert list(document["comparisons"]) == ["corpus-0.5-epochs", "other-0.5-epochs"]
    assert Path("tables.md").read_text().count("**Are the variants better than the base?**") == 2
    assert "no verdict on 2 of 2" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere.txt"], '--data: "nowhere.txt" is neither a dataset nor a file'),
        (["--epochs", "0.01"], "--epochs 0.01: the budget of 384 tokens passes 0.19 times over the training text of corpus"),
        (["--epochs", "many"], '--epochs: found "many"; allowed: numbers above 0'),
        (["--data", "corpus.txt", "--set", "data.val_fraction=0.2"], "both set the data"),
    ],
)
def test_mistakes_are_reported_in_one_line(minigpt: Command, write: Write, options: list[str], message: str) -> None:
    code, _, err = minigpt("compare", write("base"), write("glu"), *options)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
