"""The documents of one experiment merged: defaults, the files that extend one another, `--set`, and the layers' choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigpt.experiment import Experiment, ModelSection, SamplingSection, Section, TrainingSection
from minigpt.registry.overlay import Place, lay_over, merge, place_of


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Documents, each laid over those before it and the first over the defaults; then each layer's choices over the model's.

    The plugins that they use have to be registered: the types of a component's parameters are its constructor's.
    """
    document = defaults()
    for overlay in documents:
        document = lay_over(document, overlay, Experiment.model_fields)
    model = document.get("model")
    if isinstance(model, dict) and isinstance(model.get("layers"), list):
        document["model"] = {**model, "layers": [_over_model(entry, model) for entry in model["layers"]]}
    return document


def _over_model(entry: Any, model: dict[str, Any]) -> Any:
    """A layer's choices laid over the model's: `{"window": 64}` keeps the model's attention and changes its window."""
    if not isinstance(entry, dict):
        return entry
    fields = ModelSection.model_fields
    return {
        key: merge(model.get(key), value, place_of(fields[key]) if key in fields else Place())
        for key, value in entry.items()
    }


def defaults() -> dict[str, Any]:
    """The documented experiment as plain JSON, components by name only."""
    sections: dict[str, type[Section]] = {"model": ModelSection, "training": TrainingSection, "sampling": SamplingSection}
    document = {key: field.default for key, field in Experiment.model_fields.items() if key not in sections}
    for key, section in sections.items():
        document[key] = {name: field.default for name, field in section.model_fields.items()}
    return document
