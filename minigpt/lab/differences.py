"""Differences between two experiments."""

from __future__ import annotations

import json
from typing import Any

from minigpt.run.identity import differing

_NOT_SHOWN = ("name", "description", "plugins", "seed")


def differences(base: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Differences as path, value in base, value in other; a component with another name counts as a whole."""
    ours, theirs = ({key: value for key, value in each.items() if key not in _NOT_SHOWN} for each in (base, other))
    return [(path, _json(before), _json(now)) for path, before, now in differing(ours, theirs)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
