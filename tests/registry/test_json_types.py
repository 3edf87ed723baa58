"""Parameter types: a value is read back equal from experiment.json, or its type is refused at registration."""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from typing_extensions import TypedDict

from minigpt.contracts import Norm, NormSpec
from minigpt.errors import ExperimentError, RegistryError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, register
from minigpt.registry.paths import UserPath


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Corner(enum.Enum):
    LEFT = (0, 0)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Size:
    pair: tuple[int, int] = (1, 2)
    file: Path = Path("a/b")
    more: dict[int, float] = field(default_factory=lambda: {1: 0.5})


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sizes: tuple[int, ...] = (1,)
    color: Color = Color.RED


class OptionsWithNorm(BaseModel):
    norm: NormSpec
    factor: float = 1.0


class NotValidated(BaseModel):
    norm: NormSpec = "rmsnorm"  # type: ignore[assignment]


class Keys(TypedDict):
    a: int
    b: tuple[int, int]


class Point(NamedTuple):
    x: int
    y: int


def component(annotation: Any, *default: Any) -> None:
    """Register the norm `typed`, whose parameter `value` is of this type."""

    class Typed(Norm):
        def __init__(self, width: int, *, value: annotation = ...):  # type: ignore[valid-type]
            super().__init__()
            self.value = value

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    Typed.__init__.__annotations__["value"] = annotation
    Typed.__init__.__kwdefaults__ = {"value": default[0]} if default else None  # type: ignore[assignment]
    register("norm", "typed")(Typed)


def comes_back(*values: Any) -> Any:
    """Write an experiment, read it again, check that both are equal, and return the parameter's value."""
    experiment = load_experiment({"model": {"norm": {"name": "typed", **({"value": values[0]} if values else {})}}})
    again = load_experiment(json.loads(json.dumps(experiment.to_json(), allow_nan=False)))
    assert again == experiment
    assert again.to_json() == experiment.to_json()
    value, other = experiment.model.norm.params["value"], again.model.norm.params["value"]
    assert type(other) is type(value)
    return value


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (Size, Size()),
        (Size | None, Size(pair=(3, 4))),
        (list[Size], [Size(), Size((5, 6))]),
        (dict[int, float], {1: 0.5, 10: 2.0}),
        (dict[float, str], {0.5: "a"}),
        (dict[Color, int], {Color.RED: 1}),
        (dict[str, dict[int, list[float]]], {"a": {3: [0.5]}}),
        (Path, Path("some/where")),
        (list[Path], [Path("a"), Path("b")]),
        (Path | None, None),
        (dict[str, Path], {"x": Path("y")}),
        (tuple[int, float], (1, 0.5)),
        (tuple[tuple[int, int], ...], ((1, 2), (3, 4))),
        (set[int], {3, 1}),
        (frozenset[str], frozenset({"b", "a"})),
        (Color, Color.BLUE),
        (Level, Level.HIGH),
        (list[Color], [Color.RED]),
        (Options, Options(sizes=(2, 3), color=Color.BLUE)),
        (Keys, {"a": 1, "b": (2, 3)}),
        (Point, Point(1, 2)),
        (datetime.date, datetime.date(2020, 1, 2)),
        (datetime.timedelta, datetime.timedelta(minutes=3)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (Literal["a", 3], 3),
        (bytes, b"abc"),
        (Any, [1, {"a": None}]),
        (Annotated[tuple[int, int], Field(description="x")], (1, 2)),
        (Annotated[str, AfterValidator(str.upper)], "ABC"),
        (collections.abc.Sequence[int], [1, 2]),
        (complex, 1 + 2j),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, frozenset) else str(value),  # in one order everywhere
)
def test_a_default_of_any_type_that_json_can_represent_is_read_back_equal(annotation: Any, default: Any) -> None:
    component(annotation, default)
    assert comes_back() == default


@pytest.mark.parametrize(
    ("annotation", "default", "reason"),
    [
        (torch.dtype, torch.float32, "JSON has no values of its type torch.dtype"),
        (Callable[[int], int], abs, "JSON has no values of its type"),
        (Callable[[int], int] | None, None, "JSON has no values of its type"),
        (Corner, Corner.LEFT, ""),
        (Any, (1, 2), "is written to JSON as [1, 2] and read back as [1, 2]"),
        (dict, {1: 0.5}, 'is written to JSON as {"1": 0.5}'),  # the annotation does not state the type of the keys
        (str | Path, Path("a"), 'is written to JSON as "a" and read back as'),
        (dict[tuple[int, int], float], {(1, 2): 0.5}, ""),
        (SecretStr, SecretStr("x"), "is written to JSON as"),
        (bytes, b"\xff", "cannot be written as JSON"),
        (Annotated[int, BeforeValidator(lambda value: value + 1)], 1, "and read back as"),
        (object, object(), "cannot be written as JSON"),
        (tuple[int, int], (1, 2, 3), 'the default of "value" is not of its type'),
        (list[Any], [{1, 2}], "is written to JSON as"),
    ],
)
def test_a_type_that_is_not_read_back_equal_is_refused_at_registration(annotation: Any, default: Any, reason: str) -> None:
    with pytest.raises(RegistryError) as error:
        component(annotation, default)
    assert "Typed" in str(error.value)
    assert "value" in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not REGISTRY.has("norm", "typed")


def test_without_a_default_a_type_that_json_cannot_represent_is_refused_too() -> None:
    for annotation in (torch.dtype, Callable[[], int], type):
        with pytest.raises(RegistryError):
            component(annotation)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (Size, {"pair": [1, "2"]}, 'model.norm.value.pair[1]: found "2" (text); allowed: a whole number'),
        (
            Size,
            {"pairs": []},
            'model.norm.value.pairs: unknown key "pairs"; allowed: file, more, pair; did you mean "pair"?',
        ),
        (Options, {"sizes": 3}, "model.norm.value.sizes: found 3 (number); allowed: a list in [ ]"),
        (Options, {"size": 3}, 'model.norm.value.size: unknown key "size"; allowed: color, sizes; did you mean "sizes"?'),
        (dict[int, float], {"a": 1.0}, "model.norm.value"),
        (Path, 3, "model.norm.value: found 3 (number)"),
        (tuple[int, int], [1], "model.norm.value"),
        (dict[str, Any], {"x": float("inf")}, "model.norm.value"),
        (SecretStr, "x", "model.norm.value: "),
    ],
)
def test_a_value_that_is_wrong_or_not_read_back_equal_is_named_with_its_path(
    annotation: Any, value: Any, message: str
) -> None:
    component(annotation)
    with pytest.raises(ExperimentError) as error:
        load_experiment({"model": {"norm": {"name": "typed", "value": value}}})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_components_inside_other_types_are_read_back_equal_too() -> None:
    component(OptionsWithNorm)
    value = comes_back({"norm": {"name": "rmsnorm", "eps": 0.5}})
    assert value.norm.params["eps"] == 0.5
    component_types: list[tuple[Any, Any]] = [
        (tuple[NormSpec, Path], ["rmsnorm", "a/b"]),
        (dict[int, NormSpec], {"1": "rmsnorm"}),
        (list[tuple[NormSpec, int]], [["rmsnorm", 3]]),
        (NormSpec | Path | None, "rmsnorm"),
    ]
    for annotation, value in component_types:
        REGISTRY.remove("norm", "typed")
        component(annotation)
        comes_back(value)


def test_a_component_in_a_class_that_does_not_validate_its_default_is_reported() -> None:
    component(NotValidated, NotValidated())
    with pytest.raises(
        ExperimentError, match="value: the value that is read back differs from the value that was written to JSON"
    ):
        load_experiment({"model": {"norm": "typed"}})


LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**53), 2**53)),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (str, st.text(st.characters(codec="utf-8"), max_size=5)),
    (Path, st.sampled_from(["a", "a/b", "../c", "/d"]).map(Path)),
    (Color, st.sampled_from(Color)),
    (Literal["x", 2], st.sampled_from(["x", 2])),
    (Size, st.builds(Size, pair=st.tuples(st.integers(0, 9), st.integers(0, 9)))),
    (Options, st.builds(Options, sizes=st.lists(st.integers(0, 9)).map(tuple), color=st.sampled_from(Color))),
    (datetime.date, st.dates()),
]
Typed = tuple[Any, st.SearchStrategy[Any]]


def compound_types(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """A strategy for compound types, each with a strategy for its values."""
    keys = st.sampled_from([LEAVES[0], LEAVES[3], LEAVES[5]])
    return st.one_of(
        inner.map(lambda one: (list[one[0]], st.lists(one[1], max_size=3))),  # type: ignore[name-defined]
        inner.map(lambda one: (typing.Optional[one[0]], st.none() | one[1])),  # noqa: UP045 - made at run time
        st.tuples(inner, inner).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),  # type: ignore[name-defined]
        st.tuples(keys, inner).map(
            lambda two: (dict[two[0][0], two[1][0]], st.dictionaries(two[0][1], two[1][1], max_size=3))  # type: ignore[name-defined]
        ),
        st.sampled_from(LEAVES[:4]).map(lambda one: (frozenset[one[0]], st.frozensets(one[1], max_size=3))),  # type: ignore[name-defined]
        inner.map(lambda one: (one[0] | NormSpec, one[1] | st.just("rmsnorm")) if one[0] is not str else one),
    )


@given(st.recursive(st.sampled_from(LEAVES), compound_types, max_leaves=4), st.data())
def test_any_type_is_read_back_equal_or_is_refused_at_registration(typed: Typed, data: st.DataObject) -> None:
    annotation, values = typed
    value = data.draw(values)
    with REGISTRY.temporarily():
        try:
            component(annotation, value)
        except RegistryError:
            return
        try:
            comes_back()
        except ExperimentError:  # the text is not the name of a component
            return


def test_a_path_in_a_collection_starts_at_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    component(tuple[UserPath, ...], ("a.txt",))
    assert comes_back() == (str(tmp_path / "a.txt"),)
