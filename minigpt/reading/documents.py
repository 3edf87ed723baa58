"""Merge the documents of one experiment.

They are the defaults, the files that extend one another, `--set`, and the layers' choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigpt.errors import ExperimentError, Problem
from minigpt.experiment import Experiment, ModelSection, SamplingSection, Section, TrainingSection
from minigpt.reading.files import strict_json
from minigpt.registry.overlay import Place, lay_over, merge, place_of
from minigpt.system.files import refuse_surrogates


def merged(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lay documents over the defaults, in order; then lay each layer's choices over the model's.

    The plugins that they use must be registered, because a component's constructor gives the types of its parameters.
    """
    document = defaults()
    for overlay in documents:
        document = lay_over(document, overlay, Experiment.model_fields)
    model = document.get("model")
    if isinstance(model, dict) and isinstance(model.get("layers"), list):
        document["model"] = {**model, "layers": [_over_model(entry, model) for entry in model["layers"]]}
    return document


def _over_model(entry: Any, model: dict[str, Any]) -> Any:
    """A layer's choices laid over the model's.

    `{"window": 64}` keeps the model's attention and changes its window.
    """
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


def overrides_as_document(overrides: Sequence[str]) -> dict[str, Any]:
    """`path=value` texts as one document, in any order: a component's name may come after its parameters.

    Raises:
        ExperimentError: A text does not have that form.
    """
    document: dict[str, Any] = {}
    try:
        for override in overrides:
            document = lay_over(document, _spelled_out(document, _override(override)))
    except RecursionError as error:
        raise ExperimentError([Problem((), "nested too deeply")], "--set") from error
    return document


def _spelled_out(before: Any, value: Any) -> Any:
    """A component's short name as an object, where parameters of that component were set before it."""
    if isinstance(before, dict) and isinstance(value, dict):
        return {key: _spelled_out(before.get(key), item) for key, item in value.items()}
    return {"name": value} if isinstance(before, dict) and isinstance(value, str) else value


def _override(text: str) -> dict[str, Any]:
    """`a.b=1` as `{"a": {"b": 1}}`."""
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ExperimentError([Problem((), f'found "{text}"; allowed: path=value, such as training.max_iters=100')], "--set")
    try:
        value = strict_json(raw)
    except (ValueError, RecursionError):
        value = raw
    try:
        refuse_surrogates([keys, value])
    except ValueError as error:
        raise ExperimentError([Problem((), f"{'.'.join(map(repr, keys))}: {error}")], "--set") from error
    for key in reversed(keys):
        value = {key: value}
    return dict(value)
