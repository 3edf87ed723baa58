"""A small corpus and a run in the test's own working folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.small import ROOT, SHORT, TINY
from tests.conftest import Command


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test works in its own folder: a command without --out writes to `runs/` in the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def corpus(own_folder: None, tmp_path: Path) -> list[str]:
    """Settings for a small corpus."""
    (tmp_path / "corpus.txt").write_text("ROMEO: It was the lark, The herald of the morn.\n" * 60)
    return ["--set", 'data={"name": "text", "paths": ["corpus.txt"]}']


@pytest.fixture
def trained(minigpt: Command, corpus: list[str]) -> Path:
    code, _, err = minigpt("run", ROOT / "experiments/baseline.json", *TINY, *SHORT, *corpus)
    assert code == 0, err
    return Path("runs/baseline/seed-1337")
