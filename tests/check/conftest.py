"""The plugin file with two norms, written to a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.check.norms import PLUGIN


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "norms.py"
    file.write_text(PLUGIN)
    return file
