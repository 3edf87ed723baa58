"""A whole comparison as a call in Python."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from minigpt.errors import CheckError
from minigpt.lab.compare import Settings, compare, comparing
from minigpt.lab.compare.rehearsal import Rehearsed
from tests.lab.compare.conftest import Write

LEAKING = '''
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "leaking")
class Leaking(Norm):
    """Mixes what comes later into what comes before."""
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x - x.mean(-2, keepdim=True)
'''


def test_a_comparison_that_is_only_planned_trains_and_judges_nothing(write: Write) -> None:
    watcher = Mock()
    files = [write("base"), write("variant", model={"ffn": "glu"})]
    compared = compare(files, Settings(seeds=2), only_plan=True, watcher=watcher)
    watcher.planned.assert_called_once_with(compared.plan)
    assert len(compared.plan.grid.missing()) == 4
    assert compared.results == ()
    assert not compared.file.exists()
    watcher.started.assert_not_called()


def test_a_variant_that_breaks_its_contract_is_not_trained(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing was rehearsed, since its part comes from an installed package."""
    Path("leaking.py").write_text(LEAKING)
    files = [write("base"), write("variant", plugins=["leaking.py"], model={"norm": "leaking"})]
    monkeypatch.setattr(comparing, "rehearse", lambda *_, **__: Rehearsed())
    watcher = Mock()
    with pytest.raises(CheckError, match="norm/leaking breaks causality"):
        compare(files, Settings(seeds=1), watcher=watcher)
    (report,) = watcher.checked.call_args.args
    assert report.broken
    watcher.started.assert_not_called()


@pytest.mark.slow
def test_a_comparison_can_be_made_in_python(write: Write) -> None:
    files = [write("base"), write("variant", model={"ffn": "glu"})]
    compared = compare(files, Settings(seeds=1, device="cpu"))
    assert [len(result.losses) for result in compared.results] == [1, 1]
    assert compared.stop_signal is None
    assert json.loads(compared.file.read_text())["variants"][1]["runs"][0]["loss"] == compared.results[1].losses[0]
    assert "**Is it better than the base?**" in compared.markdown()
    assert compare(files, Settings(seeds=1, device="cpu")).results[1].losses == compared.results[1].losses
    record = json.loads(next(Path("comparisons/base/cells").glob("variant*")).read_text())
    record["outcome"] = "crashed"
    next(Path("comparisons/base/cells").glob("variant*")).write_text(json.dumps(record))
    assert compare(files, Settings(seeds=1, device="cpu")).results[1].losses == []
    assert compare(files, Settings(seeds=1, device="cpu"), retry=True).results[1].losses == compared.results[1].losses
