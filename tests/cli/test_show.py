"""`minigpt show` with files that only look like files of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Command


def test_a_users_own_file_may_be_called_experiment_json(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parent.json").write_text('{"model": {"d_model": 12, "n_heads": 2}}')
    Path("experiment.json").write_text('{"extends": "parent.json"}')
    code, out, err = minigpt("show", "experiment.json", "--json", "--set", "model.dropout=0.5")
    assert code == 0, err
    model = json.loads(out)["model"]
    assert (model["d_model"], model["dropout"]) == (12, 0.5)
