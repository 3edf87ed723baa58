"""Tests that any damage to a run's files gives the same result or a one-line error, for every command that reads it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.conftest import Command
from tests.records import row

RUN = Path("runs/small/seed-1337")
OTHER = Path("runs/other/seed-1337")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one experiment that were stopped before their last update."""
    folder = tmp_path_factory.mktemp("damaged")
    for name in ("small", "other"):
        tiny.train(tiny.write(folder, name), folder / "runs")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = ["experiment.json", "provenance.json", "tokenizer.json", "metrics.jsonl", "samples.txt", "manifest.json"]


def _flip(at: float) -> Callable[[Path], None]:
    def flip(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(at * (len(content) - 1))] ^= 1
        file.write_bytes(content)

    return flip


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _insert(file: Path) -> None:
    file.write_bytes(b"\xff\x00" + file.read_bytes())


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _digit(file: Path) -> None:
    """Change a value but not the structure of a JSON file; only a digest reveals it."""
    text = file.read_text()
    place = next(index for index in range(len(text) // 2, len(text)) if text[index].isdigit())
    file.write_text(text[:place] + str(9 - int(text[place])) + text[place + 1 :])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit at the beginning": _flip(0.0),
    "a bit early on": _flip(0.2),
    "a bit in the middle": _flip(0.5),
    "a bit at the end": _flip(1.0),
    "a digit": _digit,
    "cut": _cut,
    "empty": lambda file: file.write_bytes(b""),
    "bytes before it": _insert,
    "deleted": Path.unlink,
    "a folder": _folder,
    "a pipe": _pipe,
}
COMMANDS: dict[str, list[str | Path]] = {
    "generate": ["generate", RUN, "--seed", "1"],
    "report": ["report", RUN, "--out", "page.html"],
    "diff": ["diff", RUN, OTHER],
    "show": ["show", RUN],
    "compare": ["compare", RUN, OTHER, "--plan"],
    "resume": ["resume", RUN],
}
READS = {
    "generate": {"experiment.json", "provenance.json", "tokenizer.json", "manifest.json"},
    "report": {"experiment.json", "provenance.json", "metrics.jsonl", "samples.txt", "manifest.json"},
    "diff": {"experiment.json", "provenance.json", "metrics.jsonl", "manifest.json"},
    "show": {"experiment.json", "provenance.json", "manifest.json"},
    "compare": {"experiment.json", "provenance.json", "metrics.jsonl", "manifest.json"},
    "resume": {"experiment.json", "provenance.json", "tokenizer.json", "metrics.jsonl", "samples.txt", "manifest.json"},
}


def _prepare(command: str) -> None:
    """Remove the last checkpoint, because only an unfinished run can be resumed."""
    if command == "resume":
        shutil.rmtree(RUN / "checkpoints" / "step-00000004")
        (RUN / "checkpoints" / "last").write_text("step-00000002\n")
        progress = json.loads((RUN / "checkpoints/step-00000002/state.json").read_text())["progress"]
        os.truncate(RUN / "metrics.jsonl", progress["metrics_bytes"])  # later bytes would be cut off
        os.truncate(RUN / "samples.txt", progress["samples_bytes"])


@pytest.mark.parametrize("command", COMMANDS)
def test_any_damage_to_any_file_is_found_by_every_command_that_reads_it(command: str, minigpt: Command, here: Path) -> None:
    _prepare(command)
    for file in sorted(READS[command]):
        for how, damage in DAMAGE.items():
            if command in ("report", "compare", "resume") and how in ("a bit early on", "bytes before it", "a pipe"):
                continue  # the same code reads them in other commands, and each of these takes a second
            is_harmless = file == "manifest.json" and how in ("deleted", "a bit at the end")  # of its last line
            if is_harmless and command == "resume":
                continue  # then the run would be finished
            place, kept = RUN / file, here / "kept"
            shutil.copy2(place, kept)
            damage(place)
            code, out, err = minigpt(*COMMANDS[command])
            context = (command, file, how, code, out, err)
            if not (is_harmless and code == 0):
                assert code == 2, context
                assert len(err.splitlines()) == 1, context
                assert err.startswith("error: "), context
                assert file.removesuffix(".json") in err or "is not a run folder: it has no experiment.json" in err, context
                assert str(RUN) in err, context
            if place.is_dir():
                place.rmdir()
            else:
                place.unlink(missing_ok=True)
            shutil.copy2(kept, place)
    code, _, err = minigpt(*COMMANDS[command])
    assert code == 0, err


def test_runs_lists_a_damaged_run_beside_the_others(minigpt: Command, here: Path) -> None:
    for file in ("experiment.json", "metrics.jsonl", "manifest.json"):
        for how, damage in DAMAGE.items():
            if how == "deleted" and file != "metrics.jsonl":
                continue
            if file == "manifest.json" and how == "a bit at the end":
                continue
            place, kept = RUN / file, here / "kept"
            shutil.copy2(place, kept)
            damage(place)
            code, out, err = minigpt("runs", "--json")
            assert code == 0, (file, how, err)
            rows = {row["run"]: row for row in json.loads(out)}
            assert rows[str(OTHER)]["state"] == "finished"
            if str(RUN) in rows:  # a folder without the file experiment.json is not a run
                assert rows[str(RUN)]["state"] == "damaged", (file, how)
                assert file.removesuffix(".json") in rows[str(RUN)]["problem"], (file, how)
            if place.is_dir():
                place.rmdir()
            else:
                place.unlink(missing_ok=True)
            shutil.copy2(kept, place)


def test_an_intended_edit_is_named_and_can_be_accepted(minigpt: Command, here: Path) -> None:
    _prepare("resume")
    file = RUN / "experiment.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "description": "what I tried on Monday"}))
    code, _, err = minigpt("generate", RUN)
    assert code == 2
    assert f"{file} is damaged or was edited" in err
    assert f"Undo the edit, or accept it: minigpt resume {RUN} --accept-changes" in err
    code, _, err = minigpt("resume", RUN, "--accept-changes")
    assert code == 0, err
    assert minigpt("generate", RUN)[0] == 0


def _row(**changes: str) -> str:
    """A normal line of metrics.jsonl with some values replaced or added."""
    texts = {key: json.dumps(value) for key, value in row(5).to_json().items()} | changes
    return "{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}"


@pytest.mark.parametrize(
    "line",
    [
        *("[5]", "{", "{}", *(_row(step=step) for step in ("true", "0", "1.5", "3", "5e3", "null"))),
        *(_row(val_loss=loss) for loss in ("NaN", "true", "1e999", '"2"')),
        *(_row(tokens=tokens) for tokens in ("9" * 400, "1.5", "null")),
        _row(another="1"),
    ],
)
def test_a_line_after_the_last_checkpoint_is_valid_or_is_named(line: str, minigpt: Command, here: Path) -> None:
    records = (RUN / "metrics.jsonl").read_text()
    (RUN / "metrics.jsonl").write_text(f"{records}{_row()}\n")
    assert minigpt("diff", RUN, OTHER)[0] == 0, "the same line without an error"
    (RUN / "metrics.jsonl").write_text(f"{records}{line}\n")
    code, _, err = minigpt("diff", RUN, OTHER)
    assert code == 2, (line, err)
    assert f"{RUN / 'metrics.jsonl'} is damaged: line 5" in err


def test_a_run_that_is_being_written_can_be_read(minigpt: Command, here: Path) -> None:
    """With half a line and half a character at the end, the rest is shown."""
    with (RUN / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "tok')
    with (RUN / "samples.txt").open("ab") as file:
        file.write("--- step 6, validation loss 1.0\nROMEO: é".encode()[:-1])
    for command in ("report", "diff", "show"):
        code, _, err = minigpt(*COMMANDS[command])
        assert code == 0, err


def test_the_last_checkpoint_and_the_manifest_cover_all_recorded_bytes(here: Path) -> None:
    """Damage is noticed only in bytes whose length and SHA-256 were recorded."""
    state: dict[str, Any] = json.loads((RUN / "checkpoints/step-00000004/state.json").read_text())["progress"]
    assert state["metrics_bytes"] == (RUN / "metrics.jsonl").stat().st_size
    assert state["samples_bytes"] == (RUN / "samples.txt").stat().st_size
    assert set(json.loads((RUN / "manifest.json").read_text())["files"]) == {
        "experiment.json",
        "provenance.json",
        "tokenizer.json",
    }
