"""The registry: names, schemas from constructors, nested components, paths and errors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field

from minigpt.contracts import Dataset, DatasetSpec, Norm, NormSpec, Schedule, Splits
from minigpt.errors import ExperimentError, RegistryError
from minigpt.registry import REGISTRY, Spec, register
from minigpt.registry.paths import LocatedText, UserPath
from minigpt.registry.spec import locate


def norm(name: str = "mine") -> type:
    @register("norm", name)
    class Mine(Norm):
        """Multiply by a constant.

        Args:
            factor: What to multiply by,
                and more about it.
            kind: Which one.
            inner: Applied first.
        """

        def __init__(
            self,
            width: int,
            *,
            factor: Annotated[float, Field(gt=0)] = 2.0,
            kind: Literal["a", "b"] = "a",
            pair: tuple[int, int] = (1, 2),
            inner: NormSpec | None = None,
        ):
            super().__init__()
            self.factor, self.kind, self.pair = factor, kind, pair
            self.inner = inner.build(width) if inner else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * (x if self.inner is None else self.inner(x))

    return Mine


def located(spec: Spec[Any], path: str) -> Spec[Any]:
    """The spec with its path in an experiment."""
    locate(spec, path)
    return spec


def lines(error: pytest.ExceptionInfo[ExperimentError]) -> list[str]:
    return str(error.value).splitlines()


def test_a_spec_is_complete_and_builds() -> None:
    norm()
    spec = REGISTRY.resolve("norm", {"name": "mine", "inner": {"name": "rmsnorm", "gain": False}, "pair": [3, 4]})
    assert spec.to_json() == {
        "name": "mine",
        "factor": 2.0,
        "kind": "a",
        "pair": [3, 4],
        "inner": {"name": "rmsnorm", "eps": 1e-6, "gain": False},
    }
    built = spec.build(4)
    assert built.pair == (3, 4)
    assert torch.equal(built(torch.ones(4)), torch.full((4,), 2.0).div((1 + 1e-6) ** 0.5))
    assert REGISTRY.resolve("norm", spec) == spec
    assert REGISTRY.resolve("norm", "rmsnorm") == REGISTRY.resolve("norm", {"name": "rmsnorm"})


def test_the_docstring_describes_component_and_parameters() -> None:
    norm()
    entry = REGISTRY.entry("norm", "mine")
    assert entry.summary == "Multiply by a constant."
    assert entry.descriptions["factor"] == "What to multiply by, and more about it."
    assert entry.params.model_json_schema()["properties"]["factor"]["description"].startswith("What to multiply by")
    assert entry.file.name == "test_registry.py"
    assert re.search(r"test_registry\.py:\d\d+ \(", entry.place)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"factor": "2"}, 'factor: found "2" (text); allowed: a number'),
        ({"factor": True}, "factor: found true (true/false); allowed: a number"),
        ({"factor": -1}, "factor: found -1 (number); allowed: more than 0.0"),
        ({"factor": float("nan")}, "factor: found NaN (number); allowed: a finite number"),
        ({"kind": "c"}, "kind: found \"c\" (text); allowed: 'a' or 'b'"),
        ({"factr": 1}, 'factr: unknown key "factr"; allowed: factor, inner, kind, pair; did you mean "factor"?'),
        ({"inner": {"name": "rmsnorm", "eps": 0}}, "inner.eps: found 0 (number); allowed: more than 0.0"),
        (
            {"inner": {"name": "rmsnorn"}},
            'inner: "rmsnorn" is not a norm that is registered; known: ',
        ),
        ({"inner": {"name": "mine", "inner": {"name": "mine", "kind": 3}}}, "inner.inner.kind: found 3 (number)"),
        ({"inner": 3}, 'inner: found 3 (number); allowed: a name, or {"name": ..., parameters}'),
        ({"inner": {"eps": 1}}, "inner.name: is required: which norm? One of "),
    ],
)
def test_a_wrong_parameter_is_named_with_its_path(params: dict[str, Any], line: str) -> None:
    norm()
    with pytest.raises(ExperimentError) as error:
        REGISTRY.resolve("norm", {"name": "mine", **params})
    assert any(problem.startswith(line) for problem in lines(error)), lines(error)


def test_all_problems_are_reported_at_once() -> None:
    norm()
    with pytest.raises(ExperimentError) as error:
        REGISTRY.resolve("norm", {"name": "mine", "factor": 0, "kind": 1, "nothing": 2})
    assert len(lines(error)) == 3


def test_registering_a_name_twice_names_both_places() -> None:
    norm()
    with pytest.raises(
        RegistryError, match=r'norm "mine" is registered twice: by .*test_registry.py:\d+ .* and by .*test_registry.py'
    ):
        norm()


def test_the_error_for_an_unknown_family_suggests_the_nearest() -> None:
    with pytest.raises(RegistryError, match='unknown family "nrom"; known: attention, .*; did you mean "norm"'):
        register("nrom", "x")(object)


class _Base(Norm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class NotOfTheFamily:
    def __init__(self, width: int): ...


class WithoutForward(Norm):
    def __init__(self, width: int): ...


class WrongForward(Norm):
    def __init__(self, width: int): ...

    def forward(self, x: torch.Tensor, another: int) -> torch.Tensor:  # type: ignore[override]
        return x


class WrongReceived(_Base):
    def __init__(self, dims: int): ...


class PositionalParameter(_Base):
    def __init__(self, width: int, eps: float = 1.0): ...


class SwallowsKeywords(_Base):
    def __init__(self, width: int, **kwargs: int): ...


class NotAnnotated(_Base):
    def __init__(self, width: int, *, eps=1.0): ...  # type: ignore[no-untyped-def]


class TakesTheWordName(_Base):
    def __init__(self, width: int, *, name: str = "x"): ...


class TakesAnotherKey(_Base):
    def __init__(self, width: int, *, eps: Annotated[float, Field(alias="epsilon")] = 1.0): ...


class ReadsAnotherKey(_Base):
    def __init__(self, width: int, *, eps: Annotated[float, Field(validation_alias="epsilon")] = 1.0): ...


class WritesAnotherKey(_Base):
    def __init__(self, width: int, *, eps: Annotated[float, Field(serialization_alias="epsilon")] = 1.0): ...


class UnreadableAnnotation(_Base):
    def __init__(self, width: int, *, eps: Nowhere = 1.0): ...  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NotOfTheFamily, "norm components inherit from minigpt.contracts.Norm"),
        (WithoutForward, "the norm contract also needs forward"),
        (WrongForward, "does not fit the norm contract forward"),
        (WrongReceived, r"constructor is __init__\(self, width, \*, ...\)"),
        (PositionalParameter, "parameters are keyword-only"),
        (SwallowsKeywords, r"\*\*kwargs only to pass on"),
        (NotAnnotated, 'annotate the parameter "eps"'),
        (TakesTheWordName, 'the parameter name "name" is reserved'),
        (TakesAnotherKey, 'the parameter "eps" has an alias, but its key in JSON is its name'),
        (ReadsAnotherKey, 'the parameter "eps" has an alias'),
        (WritesAnotherKey, 'the parameter "eps" has an alias'),
        (UnreadableAnnotation, "an annotation of __init__ cannot be read"),
    ],
)
def test_a_class_that_does_not_match_its_family_is_refused_at_registration(cls: type, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        register("norm", "x")(cls)
    assert "x" not in [entry.name for entry in REGISTRY.entries("norm")]


@pytest.mark.parametrize("name", ["Upper", "with space", "", "../up"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(RegistryError, match="must be lower-case"):
        register("norm", name)(_Base)


def test_a_constructors_value_error_gets_the_path() -> None:
    @register("schedule", "picky")
    class Picky(Schedule):
        """Refuses."""

        def __init__(self, max_iters: int):
            raise ValueError("never")

        def factor(self, step: int) -> float:
            return 1.0

    with pytest.raises(ExperimentError, match="training.schedule: picky: never"):
        located(REGISTRY.resolve("schedule", "picky"), "training.schedule").build(3)


def test_nested_specs_have_their_paths() -> None:
    norm()
    spec = located(REGISTRY.resolve("norm", {"name": "mine", "inner": "rmsnorm"}), "model.norm")
    assert [nested.where for nested in spec.nested()] == ["model.norm", "model.norm.inner"]


def test_components_in_lists_and_objects_are_specs_too(tmp_path: Any) -> None:
    @register("norm", "many")
    class Many(_Base):
        """Has several."""

        def __init__(
            self, width: int, *, parts: list[NormSpec], named: dict[str, NormSpec] = {}, pairs: list[tuple[int, int]] = []
        ):
            super().__init__()

    raw = {
        "name": "many",
        "parts": ["rmsnorm", {"name": "layernorm", "eps": 0.5}],
        "named": {"a": "rmsnorm"},
        "pairs": [[1, 2]],
    }
    spec = located(REGISTRY.resolve("norm", raw), "model.norm")
    places = ["model.norm", "model.norm.parts[0]", "model.norm.parts[1]", "model.norm.named.a"]
    assert [nested.where for nested in spec.nested()] == places
    assert spec.params["pairs"] == [(1, 2)]
    assert REGISTRY.resolve("norm", spec.to_json()) == spec
    with pytest.raises(ExperimentError, match=r"parts\[1\].eps: found 0 \(number\)"):
        REGISTRY.resolve("norm", {"name": "many", "parts": ["rmsnorm", {"name": "layernorm", "eps": 0}]})


def test_sets_are_written_in_one_order_and_default_paths_are_absolute(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @register("norm", "odd")
    class Odd(_Base):
        """Odd parameters."""

        def __init__(self, width: int, *, tags: frozenset[str] = frozenset({"c", "a", "b"}), path: UserPath = "d/t.txt"):
            super().__init__()

    monkeypatch.chdir(tmp_path)
    spec = REGISTRY.resolve("norm", "odd")
    assert spec.to_json() == {"name": "odd", "tags": ["a", "b", "c"], "path": str(tmp_path / "d" / "t.txt")}
    assert REGISTRY.resolve("norm", spec.to_json()) == spec


def test_a_nested_components_paths_start_at_the_files_folder_too(tmp_path: Any) -> None:
    @register("dataset", "repeat")
    class Repeat(Dataset):
        """Another dataset, repeated."""

        def __init__(self, *, of: DatasetSpec):
            self.of = of

        def load(self) -> Splits:
            raise NotImplementedError

    located_text = LocatedText.of("d.txt", tmp_path / "sub")
    spec = REGISTRY.resolve("dataset", {"name": "repeat", "of": {"name": "text", "paths": [located_text]}})
    assert spec.params["of"].params["paths"] == [str(tmp_path / "sub" / "d.txt")]


def test_a_constructor_that_passes_keywords_on_has_its_parents_parameters_too() -> None:
    class Parent(_Base):
        """Shared.

        Args:
            eps: From the parent.
            gain: Declared by both.
        """

        def __init__(self, width: int, *, eps: Annotated[float, Field(gt=0)] = 1.0, gain: bool = True, _inner: int = 3):
            super().__init__()
            self.eps, self.gain, self.inner = eps, gain, _inner

    @register("norm", "child")
    class Child(Parent):
        """Child.

        Args:
            gain: The child's own default.
        """

        def __init__(self, width: int, *, gain: bool = False, **shared: Any):
            super().__init__(width, gain=gain, _inner=4, **shared)

    @register("norm", "heir")
    class Heir(Parent):
        """Adds nothing."""

    @register("norm", "cautious")
    class Cautious(Parent):
        """Has another default, without describing it."""

        def __init__(self, width: int, *, eps: float = 3.0, **shared: Any):
            super().__init__(width, eps=eps, **shared)

    field = REGISTRY.entry("norm", "cautious").params.model_fields["eps"]
    assert (field.default, field.description) == (3.0, "From the parent.")

    spec = REGISTRY.resolve("norm", {"name": "child", "eps": 2.0})
    assert dict(spec.params) == {"gain": False, "eps": 2.0}
    built = spec.build(4)
    assert (built.eps, built.gain, built.inner) == (2.0, False, 4)
    assert REGISTRY.entry("norm", "child").descriptions == {"eps": "From the parent.", "gain": "The child's own default."}
    assert dict(REGISTRY.resolve("norm", "heir").params) == {"eps": 1.0, "gain": True}
    with pytest.raises(ExperimentError, match="eps: found 0 "):
        REGISTRY.resolve("norm", {"name": "child", "eps": 0})
    with pytest.raises(ExperimentError, match='unknown key "_inner"; allowed: eps, gain'):
        REGISTRY.resolve("norm", {"name": "child", "_inner": 0})


def test_parameters_for_a_nested_default_need_not_name_it() -> None:
    @register("norm", "outer")
    class Outer(_Base):
        """Has parts."""

        def __init__(
            self,
            width: int,
            *,
            plain: NormSpec = "rmsnorm",  # type: ignore[assignment]
            set_up: NormSpec = {"name": "rmsnorm", "eps": 0.5},  # type: ignore[assignment]
            none: NormSpec | None = None,
        ):
            super().__init__()

    def resolved(**params: Any) -> dict[str, Any]:
        return REGISTRY.resolve("norm", {"name": "outer", **params}).to_json()

    assert resolved(plain={"eps": 0.1})["plain"] == {"name": "rmsnorm", "eps": 0.1, "gain": True}
    assert resolved(set_up={"gain": False})["set_up"] == {"name": "rmsnorm", "eps": 0.5, "gain": False}
    assert resolved(set_up={"name": "none"})["set_up"] == {"name": "none"}
    with pytest.raises(ExperimentError, match="none.name: is required: which norm"):
        resolved(none={"eps": 0.1})
    with pytest.raises(ExperimentError, match='plain.epss: unknown key "epss"'):
        resolved(plain={"epss": 0.1})


def test_paths_start_at_the_folder_of_the_file_that_has_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @register("norm", "pathy")
    class Pathy(_Base):
        """Has paths."""

        def __init__(self, width: int, *, file: UserPath | None = None, files: list[UserPath] = [], text: str = ""):
            super().__init__()

    monkeypatch.chdir(tmp_path)
    located_text = LocatedText.of("../a.txt", tmp_path / "deep" / "er")
    params = REGISTRY.resolve(
        "norm", {"name": "pathy", "file": located_text, "files": [located_text, "b.txt"], "text": located_text}
    ).params
    assert params["file"] == str(tmp_path / "deep" / "a.txt")
    assert params["files"] == [str(tmp_path / "deep" / "a.txt"), str(tmp_path / "b.txt")]
    assert params["text"] == "../a.txt", "only a UserPath is a path"
