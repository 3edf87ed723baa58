"""One document laid over another: the rule by which files extend one another, --set changes them, and layers differ.

Objects merge, everything else replaces, and a component that names another mechanism than the one beneath it replaces that
whole: parameters of two mechanisms never mix. What is beneath has a name wherever it came from, a default's too.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from minigpt.experiment import Experiment, ModelSection, SamplingSection, Section, TrainingSection
from minigpt.registry import REGISTRY, Family


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Documents, each laid over those before it and the first over the defaults; then each layer's choices over the model's.

    The plugins that they use have to be registered: a default inside of a component is its constructor's.
    """
    document = defaults()
    for overlay in documents:
        document = lay_over(document, overlay)
        document = _named(document, Experiment)
    model = document.get("model")
    if isinstance(model, dict) and isinstance(model.get("layers"), list):
        document["model"] = {**model, "layers": [_over_model(entry, model) for entry in model["layers"]]}
    return document


def _over_model(entry: Any, model: dict[str, Any]) -> Any:
    """A layer's choices stand over the model's: `{"window": 64}` keeps the model's attention and changes its window."""
    if not isinstance(entry, dict):
        return entry
    return {key: merge(model[key], value) if key in model else value for key, value in entry.items()}


def defaults() -> dict[str, Any]:
    """The documented experiment as plain JSON, components by name only."""
    sections: dict[str, type[Section]] = {"model": ModelSection, "training": TrainingSection, "sampling": SamplingSection}
    document = {key: field.default for key, field in Experiment.model_fields.items() if key not in sections}
    for key, section in sections.items():
        document[key] = {name: field.default for name, field in section.model_fields.items()}
    return document


def lay_over(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Lay one object over another, key by key."""
    return {**base, **{key: merge(base[key], value) if key in base else value for key, value in overlay.items()}}


def merge(base: Any, overlay: Any) -> Any:
    """Lay one value inside an experiment over another."""
    if isinstance(base, str) and isinstance(overlay, dict):
        base = {"name": str(base)}  # a component in its short form
    if isinstance(base, dict) and "name" in base and isinstance(overlay, str):
        overlay = {"name": str(overlay)}
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return overlay
    if "name" in base and overlay.get("name", base["name"]) != base["name"]:
        return overlay
    return lay_over(base, overlay)


def _named(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The same values; components inside of components that have no name get their default's, and its parameters."""
    return {key: _named_value(value, model.model_fields.get(key)) for key, value in values.items()}


def _named_value(value: Any, field: FieldInfo | None) -> Any:
    if field is None or not isinstance(value, dict):
        return value
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return _named(value, field.annotation)
    family = _family((*field.metadata, field.annotation))
    if family is None or not isinstance(value.get("name"), str) or not REGISTRY.has(family.name, value["name"]):
        return value
    entry = REGISTRY.entry(family.name, value["name"])
    return _named({key: entry.completed(key, item) for key, item in value.items()}, entry.params)


def _family(annotations: Sequence[Any]) -> Family | None:
    """The family of a parameter that is a component, or may be one."""
    for annotation in annotations:
        if isinstance(annotation, Family):
            return annotation
        inside = (*typing.get_args(annotation), *getattr(annotation, "__metadata__", ()))
        if found := _family(inside):
            return found
    return None
