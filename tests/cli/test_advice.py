"""Commands that minigpt prints as advice work in a shell unchanged, for any folder name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from minigpt.errors import command_line
from minigpt.reading import load_experiment
from tests.conftest import Command
from tests.training.conftest import Watcher, run, writer

FOLDER = """it's "mine" $HOME `x` &; """


def words_of_the_shell(command: str) -> list[str]:
    """The words into which a shell splits a command."""
    script = f'minigpt() {{ printf "%s\\0" "$@"; }}\n{command}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("word", ["plain", "two words", "it's", "$HOME", "*", "a\nb", "", '"', "\\"])
def test_a_quoted_word_stays_one_word(word: str) -> None:
    assert words_of_the_shell(command_line("resume", word)) == ["resume", word]


def test_a_path_with_a_leading_dash_is_no_option() -> None:
    assert words_of_the_shell(command_line("resume", Path("-x"), "--accept-changes")) == [
        "resume",
        "./-x",
        "--accept-changes",
    ]


def test_every_command_in_advice_works(minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = writer(tmp_path)("small", max_iters=6, checkpoint_interval=2, eval_interval=3)
    experiment = load_experiment(file, overrides=["plugins=[]", "training.schedule=constant"])
    folder = run(experiment, Path(FOLDER), Watcher(("updated", 3))).run.path

    code, _, err = minigpt("run", file, "--out", FOLDER, "--no-check")
    assert code == 2
    shutil.copytree(folder, tmp_path / "kept")
    shutil.rmtree(folder / "checkpoints")
    _, _, nothing_yet = minigpt("generate", folder)
    shutil.copytree(tmp_path / "kept" / "checkpoints", folder / "checkpoints")
    advised = [
        _matched(r"continue it: (minigpt .*), or begin", err),
        _matched(r"continue with: (minigpt .*)", nothing_yet),
    ]
    for command in advised:
        assert words_of_the_shell(command) == ["resume", str(folder)]
    code, out, err = minigpt(*words_of_the_shell(advised[0]))
    assert code == 0, err
    code, _, err = minigpt(*words_of_the_shell(_matched(r"\n    (minigpt generate .*)\n", out)))
    assert code == 0, err
    code, _, err = minigpt(*words_of_the_shell(advised[0]))
    assert code == 2
    code, _, err = minigpt(*words_of_the_shell(_matched(r"is finished \(step 6\); try: (minigpt .*), or train", err)))
    assert code == 0, err


@pytest.mark.parametrize("named", [["--name", "helped2"], ["--name=helped2"], [], ["--set", "model.norm=rmsnorm"]])
def test_the_advised_variant_has_one_name(
    named: list[str], minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = json.loads(writer(tmp_path)("helped", max_iters=3, eval_interval=3).read_text())
    file = tmp_path / "my file.json"
    file.write_text(json.dumps({**document, "name": "helped"}))
    changes = ["--set", "plugins=[]", "--set", "training.schedule=constant", "--no-check", "--fresh"]
    monkeypatch.setattr("sys.argv", ["minigpt", "run", str(file), *changes, *named])
    code, out, err = minigpt("run", file, *changes, *named)
    assert code == 0, err
    words = words_of_the_shell(_matched(r"\n    (minigpt run .*)\n", out))
    name = "helped2" if "helped2" in " ".join(named) else "helped"
    assert [word for word in words if word.startswith("--name")] == ["--name"]
    assert words[-2] == "--name"
    other = "layernorm" if "model.norm=rmsnorm" in named else "rmsnorm"
    assert words[-1] == f"{name}-{other}"
    assert [word for word in words if word.startswith("model.norm")] == [f"model.norm={other}"]
    assert "--fresh" not in words


def _matched(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text
    return match[1]
