"""Tests of a whole comparison by one call in Python."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from minigpt.errors import CheckError
from minigpt.lab.compare import Settings, compare, comparing
from minigpt.lab.compare.rehearsal import Rehearsal, Rehearsed
from minigpt.lab.compare.rehearsal import _try as tried
from minigpt.reading import AS_WRITTEN
from tests.lab.compare.conftest import Write

LEAKING = '''
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "leaking")
class Leaking(Norm):
    """Mixes later tokens into earlier ones."""
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x - x.mean(-2, keepdim=True)
'''


def test_a_comparison_that_is_only_planned_trains_and_judges_nothing(write: Write) -> None:
    watcher = Mock()
    files = [write("base"), write("variant", model={"ffn": "glu"})]
    compared = compare(files, Settings(noise=False, seeds=2), only_plan=True, watcher=watcher)
    watcher.planned.assert_called_once_with(compared.plan)
    assert len(compared.plan.grid.missing()) == 4
    assert compared.comparison is None
    assert not compared.file.exists()
    watcher.started.assert_not_called()


def test_a_variant_that_breaks_its_contract_is_not_trained(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a rehearsal, because its part comes from an installed package."""
    Path("leaking.py").write_text(LEAKING)
    files = [write("base"), write("variant", plugins=["leaking.py"], model={"norm": "leaking"})]
    monkeypatch.setattr(comparing, "rehearse", lambda *_, **__: Rehearsed())
    watcher = Mock()
    with pytest.raises(CheckError, match="norm/leaking breaks causality"):
        compare(files, Settings(noise=False, seeds=1), watcher=watcher)
    (report,) = watcher.checked.call_args.args
    assert report.broken
    watcher.started.assert_not_called()


def test_a_variant_that_breaks_its_contract_fails_when_it_is_tried(write: Write) -> None:
    Path("leaking.py").write_text(LEAKING)
    variant = write("variant", plugins=["leaking.py"], model={"norm": "leaking"})
    reason = tried(Rehearsal(variant, AS_WRITTEN, "cpu", {}))
    assert reason is not None
    assert reason.startswith("one of its parts violates its contract: norm/leaking breaks causality: ")


@pytest.mark.slow
def test_a_comparison_can_be_made_in_python(write: Write) -> None:
    files = [write("base"), write("variant", model={"ffn": "glu"})]

    def losses(*, retry: bool = False) -> list[list[float]]:
        compared = compare(files, Settings(noise=False, seeds=1, device="cpu"), retry=retry)
        assert compared.comparison is not None
        assert compared.comparison.name == "base"
        assert compared.stop_signal is None
        return [variant.losses for variant in compared.comparison.variants]

    first = losses()
    assert [len(each) for each in first] == [1, 1]
    document = json.loads(Path("comparisons/base/comparison.json").read_text())
    assert [[run["loss"] for run in variant["runs"]] for variant in document["variants"]] == first
    assert losses() == first
    record = json.loads(next(Path("comparisons/base/cells").glob("variant*")).read_text())
    record["outcome"] = "crashed"
    next(Path("comparisons/base/cells").glob("variant*")).write_text(json.dumps(record))
    assert losses() == [first[0], []]
    compare(files, Settings(noise=False, seeds=1, device="cpu"), retry=True, only_plan=True)
    assert losses() == [first[0], []], "a plan changes nothing"
    assert losses(retry=True) == first
