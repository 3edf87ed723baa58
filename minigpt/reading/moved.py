"""Keys of experiments that have moved: refused where a person wrote them, and read from their new place in recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigpt.errors import ExperimentError, Problem
from minigpt.registry.overlay import lay_over


@dataclass(frozen=True)
class Moved:
    """A key that has moved, with its value.

    Attributes:
        old: Its path until then.
        new: Its path now.
        component: The name of the component that it is a parameter of now; None if it is no parameter.
    """

    old: str
    new: str
    component: str | None = None


MOVED: tuple[Moved, ...] = (
    *(Moved(f"sampling.{key}", f"sampling.sampler.{key}", "filtered") for key in ("temperature", "top_k", "top_p", "min_p")),
    Moved("model.tied_head", "model.embedding.tied", "table"),
    Moved("model.unit_embeddings", "model.embedding.unit", "table"),
    Moved("model.embedding_norm", "model.embedding.norm", "table"),
    Moved("model.embedding_scale", "model.embedding.scale", "table"),
    Moved("model.logit_softcap", "model.embedding.softcap", "table"),
    Moved("model.z_loss", "model.objective.z_loss", "next_token"),
)


def refuse_moved(document: Mapping[str, Any], source: str) -> None:
    """Refuse a document that a person wrote with keys from before they moved.

    Raises:
        ExperimentError: Each of these keys, with its new path.
    """
    moved = [each for each in MOVED if _has(document, each.old.split("."))]
    if moved:
        raise ExperimentError([Problem((), f"{each.old} has moved to {each.new}") for each in moved], source)


def migrated(document: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded document, with each key in its present place."""
    result = dict(document)
    for each in MOVED:
        path = each.old.split(".")
        if _has(result, path):
            result, value = _taken_out(result, path)
            *parents, key = each.new.split(".")
            overlay = {key: value} if each.component is None else {"name": each.component, key: value}
            for parent in reversed(parents):
                overlay = {parent: overlay}
            result = lay_over(result, overlay)
    return result


def _has(document: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(document, Mapping) or key not in document:
            return False
        document = document[key]
    return True


def _taken_out(document: Mapping[str, Any], path: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """A copy of the document without the value at a path, and the value."""
    key, *rest = path
    if not rest:
        return {other: value for other, value in document.items() if other != key}, document[key]
    inner, value = _taken_out(document[key], rest)
    return {**document, key: inner}, value
