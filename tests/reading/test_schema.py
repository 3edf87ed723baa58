"""The JSON Schema of experiment files accepts valid documents and refuses invalid ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from minigpt.reading.schema import experiment_schema
from minigpt.registry import REGISTRY

VALIDATOR = jsonschema.Draft202012Validator(experiment_schema())


def test_the_schema_is_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(experiment_schema())


@pytest.mark.parametrize("file", sorted(Path("experiments").rglob("*.json")), ids=lambda file: file.stem)
def test_shipped_experiments_match_the_schema(file: Path) -> None:
    document = json.loads(file.read_text())
    if not document.get("plugins"):  # a plugin's names are not in the published schema
        VALIDATOR.validate(document)


def test_every_component_and_parameter_is_in_the_schema_with_its_description() -> None:
    definitions = experiment_schema()["$defs"]
    for family in REGISTRY.families():
        for entry in REGISTRY.entries(family.name):
            definition = definitions[f"{family.name}.{entry.name}"]
            assert definition["description"] == entry.summary
            for parameter in entry.params.model_fields:
                assert definition["properties"][parameter]["description"], (
                    f"{family.name}/{entry.name}: describe {parameter}"
                )


@pytest.mark.parametrize(
    "document",
    [
        {"extends": "baseline.json", "training": {"optimizer": {"learning_rate": 1e-3}}},
        {
            "model": {
                "attention": {"name": "gqa", "n_kv_heads": 1, "qk_norm": {"name": "rmsnorm"}},
                "layers": [{"norm": "rmsnorm"}],
            }
        },
        {"training": {"grad_clip": None}},
    ],
)
def test_a_valid_document_matches_the_schema(document: Any) -> None:
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "document",
    [
        {"modle": {}},
        {"model": {"attention": "unknown"}},
        {"model": {"attention": {"name": "mha", "n_kv_heads": 1}}},
        {"model": {"attention": {"name": "gqa", "n_kv_heads": "1"}}},
        {"model": {"attention": {"name": "gqa", "qk_norm": "mha"}}},
        {"model": {"layers": [{"nothing": 1}]}},
        {"seed": -1},
    ],
)
def test_an_invalid_document_does_not_match_the_schema(document: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(document)
