"""The JSON Schema of experiment files, made from the currently registered components."""

from __future__ import annotations

from typing import Any

from minigpt.experiment import Experiment
from minigpt.registry import REGISTRY
from minigpt.registry.entry import Entry

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def experiment_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) for experiment files, including `extends` and overlays."""
    schema = Experiment.model_json_schema()
    definitions = schema.pop("$defs")
    for family in REGISTRY.families():
        entries = REGISTRY.entries(family.name)
        names = {"enum": [entry.name for entry in entries]}
        definitions[family.name] = {
            "anyOf": [names, *({"$ref": f"#/$defs/{family.name}.{entry.name}"} for entry in entries)]
        }
        for entry in entries:
            definitions[f"{family.name}.{entry.name}"] = _component(entry, definitions)
    schema["properties"] = {
        "$schema": {"type": "string", "description": "Where an editor finds this schema."},
        "extends": {"type": "string", "description": "A file that this one is laid over, relative to it."},
        **schema["properties"],
    }
    schema = {"$schema": _DRAFT, "title": "minigpt experiment", **schema, "$defs": definitions}
    return dict(_with_references(schema))


def _component(entry: Entry, definitions: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.params.model_json_schema()
    definitions.update(parameters.pop("$defs", {}))
    return {
        "type": "object",
        "description": entry.summary,
        # The name is not required, because a file may change only a parameter of the component that it extends.
        "properties": {"name": {"const": entry.name}, **parameters.get("properties", {})},
        "additionalProperties": False,
    }


def _with_references(node: Any) -> Any:
    """Replace each component's schema by a reference to the union of its family."""
    if isinstance(node, list):
        return [_with_references(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "x-family" in node:
        rest = {key: value for key, value in node.items() if key != "x-family"}
        return {"$ref": f"#/$defs/{node['x-family']}", **rest}
    return {key: _with_references(value) for key, value in node.items()}
