"""`minigpt.testing`: the check as pytest cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from minigpt import testing
from minigpt.check import property_names


def test_a_package_gets_a_case_for_each_property(plugin: Path) -> None:
    ran = []

    @testing.conformance("norm", "halved", plugin=plugin)
    def test_mine() -> None:
        """Mine."""
        ran.append(True)

    (mark,) = test_mine.pytestmark  # type: ignore[attr-defined]
    assert list(mark.args[1]) == property_names("norm", thorough=False)
    test_mine(property_name="causality")
    assert ran == [True]
    with pytest.raises(pytest.skip.Exception, match="nothing to try"):
        test_mine(property_name="knobs")
    with pytest.raises(
        pytest.fail.Exception, match=r"norm/over_time breaks causality(?s:.*)usual cause: is the mask strict"
    ):
        testing.conformance("norm", "over_time", plugin=plugin)(test_mine)(property_name="causality")


@pytest.mark.slow
def test_all_properties_can_be_asserted_at_once(plugin: Path) -> None:
    with pytest.raises(AssertionError, match="norm/over_time breaks causality"):
        testing.assert_conforms("norm", "over_time", plugin=plugin)
