"""Tests that a comparison is trained from copies made with its plan, whatever is edited meanwhile."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from minigpt.components.dataset.text import TextFiles
from minigpt.data import Corpus, load_corpus, tokenizer_fingerprint
from minigpt.errors import MinigptError, PlanError, PluginError, RunError
from minigpt.lab.compare import cell as cell_module
from minigpt.lab.compare import grid as grid_module
from minigpt.lab.compare.frozen import freeze_corpus, freeze_experiment, frozen_corpus, frozen_experiment
from minigpt.lab.compare.plan import ComparisonPlan, Settings, make_plan
from minigpt.reading import load_experiment
from minigpt.run.status import Status
from tests.conftest import Command
from tests.forging import forge
from tests.lab.compare.conftest import TEXT, Write, train_here

SCALED = '''
from minigpt import register
from minigpt.components.norm.rmsnorm import RMSNorm
{more}
@register("norm", "scaled")
class Scaled(RMSNorm):
    """A norm with a factor."""
    def forward(self, x):
        return {factor} * super().forward(x)
'''
RECALL = Path(__file__).parents[3] / "plugins/associative_recall.py"
PLUGGED: dict[str, Any] = {"plugins": ["scaled.py"], "model": {"norm": "scaled"}}


def plan(*files: Path, **settings: Any) -> ComparisonPlan:
    return make_plan(files, Settings(**{"noise": False, **settings}))


def losses(of: ComparisonPlan) -> dict[str, list[float]]:
    return {result.name: result.losses for result in of.judge().variants}


def scaled(factor: float) -> None:
    Path("scaled.py").write_text(SCALED.format(factor=factor, more=""))


def text_of(tensors: Any) -> dict[str, tuple[torch.dtype, list[Any]]]:
    return {name: (tensor.dtype, tensor.tolist()) for name, tensor in vars(tensors).items() if tensor is not None}


ROWS: dict[str, Any] = {"plugins": [str(RECALL)], "data": {"name": "associative_recall"}, "model": {"block_size": 64}}


@pytest.mark.parametrize(
    "changes",
    [{}, {"tokenizer": "byte"}, {"tokenizer": "word"}, ROWS, {"training": {"batching": "documents"}}],
    ids=["char", "byte", "word", "rows", "documents"],
)
def test_a_frozen_corpus_equals_the_corpus(write: Write, tmp_path: Path, changes: dict[str, Any]) -> None:
    experiment = load_experiment(write("base", **changes))
    corpus = load_corpus(experiment)
    file = freeze_corpus(tmp_path / "inputs", corpus)
    read = frozen_corpus(file, experiment)
    assert {**vars(read), "train": 0, "val": 0, "tokenizer": 0} == {**vars(corpus), "train": 0, "val": 0, "tokenizer": 0}
    assert (type(read.train), type(read.val)) == (type(corpus.train), type(corpus.val))
    assert (text_of(read.train), text_of(read.val)) == (text_of(corpus.train), text_of(corpus.val))
    assert tokenizer_fingerprint(read) == tokenizer_fingerprint(corpus)


def test_a_corpus_that_variants_share_is_kept_once(write: Write) -> None:
    long = {"model": {"block_size": 32}, "training": {"batch_size": 2}}
    files = write("base"), write("variant", model={"ffn": "glu"}), write("other", tokenizer="byte")
    found = plan(*files, seeds=2, unit="bits-per-byte")
    found.grid.freeze(found.variants)
    inputs = found.folder / "inputs"
    assert len(list((inputs / "tensors").iterdir())) == len(list((inputs / "corpora").iterdir())) == 2
    before = {file: file.stat().st_mtime_ns for file in inputs.rglob("*.*")}
    other = load_experiment(write("long", **long))
    assert freeze_corpus(inputs, load_corpus(other)) == found.grid.frozen["base"][1]
    assert before == {file: file.stat().st_mtime_ns for file in inputs.rglob("*.*")}


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_plugin_is_frozen_as_it_was_loaded(write: Write, tmp_path: Path, is_folder: bool) -> None:
    plugin = Path("scaled" if is_folder else "scaled.py")
    edited = plugin / "factor.py" if is_folder else plugin
    if is_folder:
        plugin.mkdir()
        edited.write_text("FACTOR = 1.0\n")
        (plugin / "__init__.py").write_text(SCALED.format(factor="FACTOR", more="from .factor import FACTOR\n"))
    else:
        scaled(1.0)
    experiment = load_experiment(write("base", plugins=[str(plugin)], model={"norm": "scaled"}))
    frozen = freeze_experiment(tmp_path / "inputs", experiment)
    original = edited.read_text()
    edited.write_text(original.replace("1.0", "3.0"))
    read = frozen_experiment(frozen, 5)
    assert read.seed == 5
    norm = read.model.norm.build(16)
    x = torch.randn(2, 16)
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(2), rtol=1e-3, atol=0)
    assert freeze_experiment(tmp_path / "inputs", read) == frozen, "freezing it again gives the same copies"
    with pytest.raises(PluginError, match=r"changed since it was loaded"):
        freeze_experiment(tmp_path / "again", experiment)


def test_an_edited_copy_is_detected_and_gives_no_outcome(write: Write) -> None:
    scaled(1.0)
    found = plan(write("base", **PLUGGED), write("variant", model={"ffn": "glu"}), seeds=1)
    cell = found.grid.cells[0]
    job = found.grid.job(cell, "cpu", None, True)
    cell.record.parent.mkdir(parents=True)
    files = [file for file in (found.folder / "inputs").rglob("*") if file.is_file()]
    of_base = [file for file in files if file.suffix != ".json" or file in (job.experiment, job.corpus)]
    assert len(of_base) == 4, "experiment, plugin, corpus, tensors"
    for file in of_base:
        content = file.read_bytes()
        for damaged in (content + b" ", content[:-1], None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(PlanError, match=r"; run the command again to make a new copy") as caught:
                cell_module.do(job)
            assert str(file) in str(caught.value)
            file.write_bytes(content)
    assert not cell.record.exists()
    files[0].write_bytes(b"{}")
    again = plan(write("base", **PLUGGED), write("variant", model={"ffn": "glu"}), seeds=1)
    train_here(again.grid)
    assert not again.grid.missing(), "the next comparison makes new copies"


def edit_corpus() -> None:
    Path("corpus.txt").write_text("something else, as long. " * 300)


@pytest.mark.slow
def test_edits_while_a_comparison_runs_do_not_change_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled(1.0)
    files = write("base", **PLUGGED), write("variant", **PLUGGED, training={"optimizer": "lion"})
    undisturbed = make_plan(files, Settings(noise=False, seeds=2), name="undisturbed", runs=())
    train_here(undisturbed.grid)
    found = plan(*files, seeds=2)
    found.grid.freeze(found.variants)  # as it begins
    first, *later = found.grid.missing()
    job = found.grid.job(first, "cpu", None, True)
    cell_module.do(job)  # does not write the record
    edit_corpus()
    scaled(3.0)
    with monkeypatch.context() as patch:
        patch.setattr(TextFiles, "load", lambda self: pytest.fail("the corpus is read again"))
        train_here(found.grid)
    expected = losses(undisturbed)
    assert losses(found) == expected
    positions = [each.position_loss for result in found.judge().variants for each in result.runs]
    assert positions == [each.position_loss for result in undisturbed.judge().variants for each in result.runs]
    assert len(later) == 3

    edited = plan(*files, seeds=2)
    assert len(edited.grid.missing()) == 4, "with edited files all cells are different"
    train_here(edited.grid)
    assert all(a != b for name in expected for a, b in zip(losses(edited)[name], expected[name], strict=True))

    Path("corpus.txt").write_text(TEXT)
    scaled(1.0)
    restored = plan(*files, seeds=2)
    train_here(restored.grid)
    assert losses(restored) == expected, "no loss of the edited source is used for the old one"


def test_a_cell_is_not_trained_with_other_code_than_planned(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(write("base"), write("variant", model={"ffn": "glu"}), seeds=1)
    now = cell_module.provenance
    with monkeypatch.context() as patch:
        patch.setattr(
            cell_module, "provenance", lambda *args, **kwargs: now(*args, **kwargs).model_copy(update={"core": "edited"})
        )
        with pytest.raises(PlanError, match=r"base, seed 5: the source of minigpt.* was edited since the plan was made"):
            train_here(found.grid)
    assert len(found.grid.missing()) == 2
    assert not any((found.folder / "runs").iterdir())
    assert not any((found.folder / "cells").iterdir())
    train_here(found.grid)
    assert not found.grid.missing(), "the source is restored"


@pytest.mark.slow
def test_a_comparison_whose_source_is_edited_ends_with_one_line(
    write: Write, minigpt: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write("base"), write("variant", model={"ffn": "glu"})
    now = grid_module.provenance
    monkeypatch.setattr(
        grid_module, "provenance", lambda *args, **kwargs: now(*args, **kwargs).model_copy(update={"core": "before"})
    )
    code, _, err = minigpt("compare", *files, "--seeds", "1", "--no-noise")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "the source of minigpt, or of a module that a plugin imports, was edited since the plan was made" in err
    assert not list(Path("comparisons/base/cells").glob("*.json"))
    assert not list(Path("comparisons/base/runs").rglob("experiment.json"))


def test_a_run_that_replaced_another_is_not_used_for_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was killed after the last update of the new run, before its record. Then the file is restored."""
    files = write("base"), write("variant", model={"ffn": "glu"})
    found = plan(*files, seeds=1)
    train_here(found.grid)
    expected = losses(found)
    edit_corpus()

    def killed(*arguments: Any) -> None:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(cell_module, "_measured", killed)
        with pytest.raises(SystemExit):
            train_here(plan(*files, seeds=1).grid)
    Path("corpus.txt").write_text(TEXT)
    restored = plan(*files, seeds=1)
    assert [cell.variant.name for cell in restored.grid.missing()] == ["base"]
    train_here(restored.grid)
    assert losses(restored) == expected


def test_a_replaced_run_in_another_folder_is_not_used_for_the_old_one(write: Write, minigpt: Command) -> None:
    base, variant = write("base"), write("variant", model={"ffn": "glu"})
    assert minigpt("run", base, "--no-check")[0] == 0
    found = plan(base, variant, seeds=1)
    train_here(found.grid)
    expected = losses(found)
    assert minigpt("run", base, "--no-check", "--fresh", "--set", "training.optimizer=lion")[0] == 0
    again = plan(base, variant, seeds=1)
    assert [cell.status() for cell in again.grid.cells] == [Status.MISSING, Status.FINISHED]
    train_here(again.grid)
    assert losses(again) == expected


def test_a_run_that_its_own_variant_will_set_aside_is_not_used_for_another(write: Write) -> None:
    train_here(plan(write("base"), write("variant"), seeds=1).grid)
    shutil.rmtree("comparisons/base/runs/base")
    changed = plan(write("base"), write("variant", model={"ffn": "glu"}), seeds=1)
    train_here(changed.grid)
    assert {result.name: len(result.losses) for result in changed.judge().variants} == {"base": 1, "variant": 1}


def test_named_runs_of_another_tokenizer_are_refused(write: Write, minigpt: Command) -> None:
    file = write("base")
    for name in ("base", "variant"):
        assert minigpt("run", write(name), "--no-check")[0] == 0
    recorded = Path("runs/variant/seed-5/provenance.json")
    document = json.loads(recorded.read_text())
    document["data"]["tokenizer"] = "0" * 64
    forge(recorded, document)
    with pytest.raises(MinigptError, match=r"seed-5 was trained on a tokenizer with the fingerprint 000000000000"):
        plan(Path("runs/base"), Path("runs/variant"))
    assert isinstance(load_corpus(load_experiment(file)), Corpus)


LETTERS = """
import random
from minigpt import register
from minigpt.contracts import Dataset, Splits
@register("dataset", "letters")
class Letters(Dataset):
    \"\"\"Random letters.\"\"\"
    def load(self):
        text = "".join(random.Random(7).choices("{alphabet}", k=4000))
        return Splits(text[:3000], text[3000:])
"""


def test_the_data_of_two_versions_of_a_plugin_are_not_confused(write: Write, minigpt: Command) -> None:
    letters: dict[str, Any] = {"plugins": ["letters.py"], "data": {"name": "letters"}}
    Path("letters.py").write_text(LETTERS.format(alphabet="abcdefghij"))
    assert minigpt("run", write("base", **letters), "--no-check")[0] == 0
    Path("letters.py").write_text(LETTERS.format(alphabet="abc"))
    with pytest.raises(MinigptError, match="variant and base have different data: their content has the fingerprints"):
        plan(Path("runs/base"), write("variant", **letters))


BLOCKS = {"kind": "windows", "starts": [0, 4], "losses": [1, 2], "targets": [3], "all_bytes": None, "tokenizer": None}


@pytest.mark.parametrize(
    "damage", [{"outcome": "nope"}, {"position_loss": "xyz"}, {"run": 3}, {"message": None}, {"blocks": BLOCKS}]
)
def test_a_damaged_record_of_a_cell_is_reported_in_one_line(write: Write, damage: dict[str, Any]) -> None:
    base, variant = write("base"), write("variant", model={"norm": "rmsnorm"})
    comparison = plan(base, variant, seeds=1)
    record = comparison.grid.cells[0].record
    record.parent.mkdir(parents=True)
    cell = comparison.grid.cells[0]
    sound = {"format": 2, "key": cell.key, "run": str(cell.run.path), "outcome": "crashed", "updates": 0}
    record.write_text(json.dumps({**sound, **damage}))
    with pytest.raises(RunError, match=r"base-seed-5.json is damaged; remove it"):
        comparison.grid.missing()


@pytest.mark.parametrize("where", ["logs/base-seed-5.log", "runs"])
def test_a_comparison_is_written_into_its_own_folder_only(write: Write, tmp_path: Path, where: str) -> None:
    comparison = plan(write("base"), write("variant", model={"norm": "rmsnorm"}), seeds=1)
    link = comparison.folder / where
    link.parent.mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match=r"is a symbolic link, which would lead writes out of"):
        comparison.grid.run(Mock(), jobs=1, device="cpu", threads=1)
    assert list((tmp_path / "precious").iterdir()) == []
