"""Two runs, trained once, and a working folder in which they are a stranger's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from minigpt.registry import REGISTRY
from tests import tiny
from tests.registry.trust.mailed import PART


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: `plain` has only shipped components, `own` has one of a plugin."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "own.py").write_text(PART)
    plain = tiny.write(folder, "plain", training={"max_iters": 2})
    own = folder / "own.json"
    own.write_text(json.dumps({"extends": "plain.json", "model": {"norm": "own"}, "plugins": ["own.py"]}))
    with REGISTRY.temporarily():
        for file in (plain, own):
            tiny.train(file, folder / "runs")
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of the trained runs, as mailed to a person who trusts none of its plugins."""
    folder = tmp_path / "here"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MINIGPT_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("MINIGPT_TRUSTED", raising=False)
    return folder
