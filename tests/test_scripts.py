"""scripts/check: what it runs, in which order, and that a step that fails ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("pip", "ruff", "mypy", "lint-imports", "pytest", "python", "minigpt")
RECORDING = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n[ "$(basename "$0")" != "$FAILS" ]\n'

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts are for a POSIX shell")


def calls(folder: Path, script: str, fails: str = "") -> tuple[int, list[str]]:
    """The exit status of a script, and the commands that it called, where every tool only records that it was called."""
    for tool in (*(f"venv/bin/{name}" for name in TOOLS), "path/python3", "path/chromium"):
        file = folder / tool
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(RECORDING)
        file.chmod(0o755)
    log = folder / "calls"
    log.write_text("")
    path = f"{folder / 'path'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VENV": str(folder / "venv"), "CALLS": str(log), "FAILS": fails}
    done = subprocess.run([ROOT / "scripts" / script], env=environment, cwd=folder, capture_output=True, text=True)
    return done.returncode, log.read_text().splitlines()


def test_the_check_runs_the_readmes_test_command_then_lint_then_the_rest(tmp_path: Path) -> None:
    code, ran = calls(tmp_path, "check")
    assert code == 0
    assert ran[:3] == [f"python3 -m venv {tmp_path}/venv", "pip install -e .[test]", "pytest -n 2"]
    assert ran[3:8] == ["pip install --quiet -e .[dev]", "ruff format --check .", "ruff check .", "mypy ", "lint-imports "]
    assert any(call.startswith("pytest -q -n 2 -m slow") and "tests/training" in call for call in ran[8:])
    for script in ("test", "lint", "docs"):
        called = calls(tmp_path, script)[1]
        assert called
        assert set(called) <= set(ran)


@pytest.mark.parametrize("tool", [*TOOLS, "python3"])
def test_a_step_that_fails_ends_the_check(tmp_path: Path, tool: str) -> None:
    code, ran = calls(tmp_path, "check", fails=tool)
    assert code == 1
    assert ran[-1].split()[0] == tool


def test_contributing_names_every_script() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert [file.name for file in (ROOT / "scripts").iterdir() if f"`scripts/{file.name}`" not in text] == []
