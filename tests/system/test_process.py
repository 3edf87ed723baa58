"""Child processes in a folder full of traps: files named like modules that Python, torch or minigpt import."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import minigpt
from minigpt.system import process
from tests.lab.compare.conftest import writer

TRAP = "import os\nwith open(os.environ['TRAPPED'], 'a') as file:\n    print(__file__, file=file)\nraise SystemExit(66)\n"
NAMES = ("random", "platformdirs", "torch", "numpy", "minigpt", "pickle", "tempfile", "socket", "json", "sitecustomize")
SOURCES = sorted(Path(minigpt.__file__).parent.rglob("*.py"))


@pytest.fixture
def trapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that lists the executed traps; the working folder is full of them, and is on the import path."""
    folder, log = tmp_path / "downloads", tmp_path / "trapped"
    folder.mkdir()
    log.touch()
    for name in NAMES:
        (folder / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TRAPPED", str(log))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return log


CHILD = f"import json, sys\nimport {', '.join(NAMES[:6])}\nprint(json.dumps([sys.path, minigpt.__file__]))"


@pytest.mark.parametrize("entry", ["", ".", os.curdir + os.sep, "absolute", "link"])
def test_a_child_imports_the_same_modules_and_none_from_the_working_folder(
    trapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    (tmp_path / "link").symlink_to(Path.cwd())
    (tmp_path / "own").mkdir()
    entry = {"absolute": str(Path.cwd()), "link": str(tmp_path / "link")}.get(entry, entry)
    monkeypatch.setattr(sys, "path", [entry, str(tmp_path / "own"), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([entry, str(tmp_path / "own"), ""]))
    done = subprocess.run(process.python("-c", CHILD), env=process.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path, home = json.loads(done.stdout)
    assert str(tmp_path / "own") in path, "a folder with the user's plugins stays on the path"
    assert home == minigpt.__file__
    assert not trapped.read_text()


def test_children_of_a_child_are_isolated_too(trapped: Path) -> None:
    grandchild = [sys.executable, "-c", "import random"]
    code = f"import subprocess, sys; sys.exit(subprocess.run({grandchild!r}).returncode)"
    assert subprocess.run(process.python("-c", code), env=process.environment()).returncode == 0
    assert not trapped.read_text()


def test_spawned_processes_are_isolated_and_this_process_is_not_changed(
    trapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    variables, path = dict(os.environ), list(sys.path)
    with process.spawning_isolated():
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        answer = pool.submit(eval, "[__import__('sys').path, __import__('random').__file__]")
    with pool:
        found, file = answer.result()
    assert "" not in found
    assert str(Path.cwd()) not in found
    assert Path(file).parent == Path(sysconfig.get_path("stdlib"))
    assert (dict(os.environ), sys.path) == (variables, path)
    assert not trapped.read_text()


def test_a_clone_that_is_run_in_its_own_folder_finds_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(minigpt.__file__).parents[1]
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    assert process.search_path()[0] == str(home)


def test_there_is_no_other_way_to_start_a_python() -> None:
    """Only process.py uses the path of Python, and all spawning is isolated."""
    for file in SOURCES:
        names = {
            ast.unparse(node) for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Attribute)
        }
        assert "sys.executable" not in names or file.name == "process.py", file
        assert "multiprocessing.get_context" not in names or "process.spawning_isolated" in names, file


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["compare", "base.json", "plugged.json", "--no-noise", "--seeds", "1"], id="compare"),
        pytest.param(
            ["compare", "base.json", "plugged.json", "--no-noise", "--seeds", "1", "--jobs", "2"], id="compare-jobs"
        ),
        pytest.param(
            ["check", "norm/none", "norm/scalenorm", "schedule/constant", "tokenizer/byte", "--jobs", "2"], id="check"
        ),
        pytest.param(["check", "tokenizer/byte", "--jobs", "1"], id="check-one"),
        pytest.param(["bench", "startup", "--repeats", "1"], id="bench-startup"),
        pytest.param(["bench", "mixers", "--names", "mha", "--times", "16", "--repeats", "1"], id="bench-mixers"),
    ],
)
def test_no_command_executes_files_of_the_working_folder(trapped: Path, tmp_path: Path, command: list[str]) -> None:
    write = writer(Path.cwd())
    write("base")
    (tmp_path / "odd.py").write_text(
        "from minigpt import register\nfrom minigpt.components.norm.rmsnorm import RMSNorm\n"
        '@register("norm", "odd")\nclass Odd(RMSNorm):\n    """Like rmsnorm."""\n'
    )
    write("plugged", plugins=[str(tmp_path / "odd.py")], model={"norm": "odd"})
    script = Path(sysconfig.get_path("scripts")) / "minigpt"
    done = subprocess.run([script, *command], capture_output=True, text=True)
    assert not trapped.read_text()
    assert done.returncode == 0, done.stderr
