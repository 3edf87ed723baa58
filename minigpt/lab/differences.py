"""Where two experiments differ."""

from __future__ import annotations

import json
from typing import Any

_UNTOLD = ("name", "description", "plugins", "seed")


def differences(base: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Where two experiments differ: path, value there, value here; a component of another name counts as a whole."""
    ours, theirs = ({key: value for key, value in each.items() if key not in _UNTOLD} for each in (base, other))
    return _differences(ours, theirs, "")


def _differences(base: Any, other: Any, path: str) -> list[tuple[str, str, str]]:
    if base == other:
        return []
    if isinstance(base, dict) and isinstance(other, dict) and base.get("name") == other.get("name"):
        keys = [*base, *(key for key in other if key not in base)]
        each = (_differences(base.get(key), other.get(key), f"{path}.{key}" if path else key) for key in keys)
        return [line for lines in each for line in lines]
    return [(path, json.dumps(base, ensure_ascii=False), json.dumps(other, ensure_ascii=False))]
