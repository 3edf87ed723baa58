"""A comparison gives no verdict on a variant whose trained model is no honest scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minigpt.lab.compare.plan import Settings, make_plan
from minigpt.lab.report.content import content_of, content_of_runs
from minigpt.run.status import Status
from tests.dishonest import PLUGIN
from tests.lab.compare.conftest import Write, train_here


def test_a_violated_run_is_an_outcome_with_a_reason_and_the_report_carries_the_stamps(write: Write) -> None:
    Path("dishonest.py").write_text(PLUGIN)
    changes: dict[str, Any] = {"plugins": ["dishonest.py"], "model": {"ffn": "dishonest"}}
    found = make_plan([write("base"), write("variant", **changes)], Settings(noise=False, seeds=1))
    train_here(found.grid)
    base, variant = found.grid.cells
    assert [cell.status() for cell in (base, variant)] == [Status.FINISHED, Status.VIOLATED]
    assert not found.grid.missing()
    comparison = found.judge()
    (result,) = comparison.variants[1].runs
    assert result.message.startswith("the trained model violates targets: the loss at position ")
    assert result.loss is None
    assert comparison.variants[1].verdict == "violated"
    stamps = [shown.stamps for shown in content_of(comparison, Path()).variants]
    assert stamps == [("checked at update 6: holds",), (variant.run.stamp(),)]
    uncompared = content_of_runs([variant.run.path])
    assert uncompared.variants[0].stamps == (variant.run.stamp(),)
    assert uncompared.comparison.variants[0].runs[0].outcome is Status.VIOLATED
    assert uncompared.comparison.variants[0].runs[0].loss is None


def test_a_finished_run_that_was_not_checked_is_checked_before_it_is_used(write: Write) -> None:
    plan = make_plan([write("base"), write("variant", model={"ffn": "glu"})], Settings(noise=False, seeds=1))
    train_here(plan.grid)
    cell = plan.grid.cells[0]
    (cell.run.path / "manifest.json").unlink()  # without it, a missing record is no damage
    (cell.run.path / "check.json").unlink()
    cell.record.unlink()
    assert cell.run.stamp() == "not checked"
    train_here(plan.grid)
    assert cell.run.stamp() == "checked at update 6: holds"
