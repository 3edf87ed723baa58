"""Values to try for each parameter are found from its type."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from torch import Tensor

from minigpt.check import check_component, component_target
from minigpt.check.parameters import alternatives, parameter_sets
from minigpt.contracts import Norm, NormSpec, UserPath
from minigpt.registry import REGISTRY, register


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shape(BaseModel):
    kind: Literal["round"]
    size: Annotated[int, Field(gt=2)]


@register("norm", "many_knobs")
class ManyKnobs(Norm):
    """Every kind of parameter."""

    def __init__(
        self,
        width: int,
        *,
        needed: Annotated[int, Field(gt=0)],
        flag: bool = True,
        count: Annotated[int, Field(ge=5, le=6)] = 5,
        maybe: Annotated[float, Field(gt=0, lt=1)] | None = None,
        word: Literal["a", "b"] = "a",
        colour: Colour = Colour.RED,
        inner: NormSpec = "rmsnorm",  # type: ignore[assignment]
        shape: Shape | None = None,
        pair: tuple[float, float] = (0.5, 0.5),
        several: Annotated[list[int], Field(min_length=1)] = [1, 2],
        chosen: Annotated[float, Field(examples=[77.0])] = 1.0,
    ):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


REGISTRY.remove("norm", "many_knobs")


@pytest.mark.parametrize(
    ("name", "values", "beginning"),
    [
        ("needed", {1, 2}, []),
        ("flag", {False}, [False]),
        ("count", {6}, [6]),
        ("maybe", {0.5}, [0.5]),
        ("word", {"b"}, ["b"]),
        ("colour", {"blue"}, ["blue"]),
        ("inner", {"layernorm", "none"}, []),
        ("shape", set(), [{"kind": "round", "size": 4}]),
        ("pair", set(), [[0.75, 0.5]]),
        ("several", set(), [[2, 2]]),
        ("chosen", {77.0}, [77.0]),
    ],
)
def test_values_are_derived_from_the_schema(name: str, values: set[Any], beginning: list[Any]) -> None:
    register("norm", "many_knobs")(ManyKnobs)
    entry = REGISTRY.entry("norm", "many_knobs")
    derived = alternatives(entry)[name]
    assert derived[: len(beginning)] == beginning
    assert all(value in derived for value in values)
    for value in derived:
        entry.validate({"needed": 1, name: value})
        default = entry.params.model_fields[name].default
        assert value != default
        assert not isinstance(default, enum.Enum) or value != default.value


def test_every_shipped_parameter_has_a_value_to_try() -> None:
    for family in REGISTRY.families():
        for entry in REGISTRY.entries(family.name):
            sets = parameter_sets(component_target(family.name, entry.name))
            for name, values in alternatives(entry).items():
                assert values, f"{family.name}/{entry.name}: {name}"
                assert entry.params.model_fields[name].is_required() or any(name in params for params in sets)


def test_a_required_parameter_without_a_value_is_reported() -> None:
    @register("norm", "opaque")
    class Opaque(Norm):
        """Requires a parameter without a known value."""

        def __init__(self, width: int, *, table: dict[str, int]):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    report = check_component("norm", "opaque", quick=True)
    assert report.verdict == "untried"
    assert "table" in report.results[0].note


def test_the_paths_that_an_author_gives_as_examples_are_the_only_ones() -> None:
    class WithFiles(Norm):
        """Needs files."""

        def __init__(
            self,
            width: int,
            *,
            table: Annotated[UserPath, Field(examples=["/some/table"])],
            maybe: Annotated[UserPath, Field(examples=["/other/table"])] | None = None,
            several: Annotated[list[UserPath], Field(examples=[["/a", "/b"]])] = [],
            any_text: UserPath | None = None,
        ):
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x

    register("norm", "with_files")(WithFiles)
    found = alternatives(REGISTRY.entry("norm", "with_files"))
    assert [found[name] for name in ("table", "maybe", "several")] == [["/some/table"], ["/other/table"], [["/a", "/b"]]]
    assert Path(found["any_text"][0]).name == "squares.txt"
