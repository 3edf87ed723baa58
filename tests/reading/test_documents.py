"""Merging documents: parameters of two mechanisms never mix, wherever a mechanism's name comes from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from torch import Tensor

from minigpt.contracts import Norm, NormSpec
from minigpt.errors import ExperimentError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, Spec, register

NESTED = {"gla", "retention", "delta_net"}  # each has a norm, which is an rmsnorm by default
NUMBERS = st.integers(1, 999).map(lambda number: number / 1000)


def statements(names: list[str], parameters: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    """A strategy for a component in a document: absent (None), a name, parameters, or both."""
    named = st.builds(lambda name, more: {"name": name, **more}, st.sampled_from(names), parameters)
    return st.one_of(st.none(), st.sampled_from(names), named, parameters)


NORMS = statements(["layernorm", "rmsnorm"], st.fixed_dictionaries({"eps": NUMBERS}))
MIXERS = statements(sorted(NESTED), st.fixed_dictionaries({"norm": NORMS.filter(lambda statement: statement is not None)}))
DOCUMENTS = st.fixed_dictionaries({"norm": NORMS, "attention": MIXERS})


def over(before: tuple[str, dict[str, Any]], statement: Any) -> tuple[str, dict[str, Any]]:
    """A short reference of the merging rule: a component's name and its set parameters, after one more statement."""
    if statement is None:
        return before
    statement = {"name": statement} if isinstance(statement, str) else statement
    name = statement.get("name", before[0])
    params = dict(before[1]) if name == before[0] else {}
    for key, value in statement.items():
        if key == "norm":
            params[key] = over(params.get(key, ("rmsnorm", {})), value)
        elif key != "name":
            params[key] = value
    return name, params


def resolved(component: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A component with the defaults of its constructor, as in the experiment."""
    name, params = component
    family = "attention" if name in NESTED else "norm"
    spec: Spec[Any] = REGISTRY.resolve(family, name)
    set_params = {key: value for key, value in params.items() if key != "norm"}
    if "norm" in params:
        default = spec.to_json()["norm"]  # a mixer sets parameters of its default norm
        inner = params["norm"]
        set_params["norm"] = {**default, **inner[1]} if inner[0] == default["name"] else resolved(inner)
    return {**spec.to_json(), **set_params}


def document(statement: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in statement.items() if value is not None}


@st.composite
def settings_of(draw: st.DrawFn) -> tuple[list[str], dict[str, Any]]:
    """The `--set` options of one command in any order, and the equivalent document."""
    statement: dict[str, Any] = {}
    words = []
    if draw(st.booleans()):
        statement["norm"] = draw(NORMS.filter(lambda norm: isinstance(norm, dict) and norm))
        words += [f"model.norm.{key}={value}" for key, value in statement["norm"].items()]
    if draw(st.booleans()):
        statement["attention"] = draw(MIXERS.filter(lambda mixer: isinstance(mixer, dict) and mixer))
        words += [f"model.attention.{key}={json.dumps(value)}" for key, value in statement["attention"].items()]
    return draw(st.permutations(words)), statement


@settings(max_examples=30)
@given(st.lists(DOCUMENTS, min_size=2, max_size=4), settings_of(), DOCUMENTS)
def test_a_component_never_has_a_parameter_that_was_set_for_another_mechanism(
    chain: list[dict[str, Any]], changes: tuple[list[str], dict[str, Any]], layer: dict[str, Any]
) -> None:
    norm: tuple[str, dict[str, Any]] = ("layernorm", {})
    mixer: tuple[str, dict[str, Any]] = ("gla", {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "first.json"
        path.write_text(json.dumps({"model": {"attention": "gla", "layers": [document(layer)], "position": "none"}}))
        for number, statement in enumerate(chain):
            child = {"extends": path.name, "model": document(statement)}
            path = Path(folder) / f"{number}.json"
            path.write_text(json.dumps(child))
        experiment = load_experiment(path, overrides=changes[0])
    for statement in (*chain, changes[1]):
        norm, mixer = over(norm, statement.get("norm")), over(mixer, statement.get("attention"))
    assert experiment.model.norm.to_json() == resolved(norm)
    assert experiment.model.attention.to_json() == resolved(mixer)
    own = experiment.model.layers[0]
    if layer["norm"] is not None:
        assert own.norm is not None
        assert own.norm.to_json() == resolved(over(norm, layer["norm"]))
    if layer["attention"] is not None:
        assert own.attention is not None
        assert own.attention.to_json() == resolved(over(mixer, layer["attention"]))


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        ({"window": 8}, {"name": "gqa", "n_kv_heads": 2}, ("gqa", None)),
        ({"window": 8}, {"name": "mha", "bias": False}, ("mha", 8)),
        ({"window": 8}, "gqa", ("gqa", None)),
        ({"window": 8}, "mha", ("mha", 8)),
        ({"name": "gqa", "window": 8}, {"n_kv_heads": 2}, ("gqa", 8)),
    ],
)
def test_a_default_has_a_name_too(tmp_path: Path, parent: Any, child: Any, expected: tuple[str, int | None]) -> None:
    (tmp_path / "parent.json").write_text(json.dumps({"model": {"attention": parent}}))
    (tmp_path / "child.json").write_text(json.dumps({"extends": "parent.json", "model": {"attention": child}}))
    attention = load_experiment(tmp_path / "child.json").model.attention
    assert (attention.name, attention.params["window"]) == expected
    by_set = load_experiment(tmp_path / "parent.json", overrides=[f"model.attention={json.dumps(child)}"]).model.attention
    assert by_set == attention, "--set uses the same rule"


def test_a_default_inside_of_a_component_has_a_name_and_parameters_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps({"training": {"optimizer": {"name": "muon", "rest": {"weight_decay": 0.5}}}})
    )
    muon = load_experiment(tmp_path / "a.json").training.optimizer
    for rest, kept in (({"name": "adamw", "eps": 1e-6}, True), ({"name": "lion"}, False)):
        child = {"extends": "a.json", "training": {"optimizer": {"rest": rest}}}
        (tmp_path / "b.json").write_text(json.dumps(child))
        params = load_experiment(tmp_path / "b.json").training.optimizer.params["rest"].params
        own = REGISTRY.resolve("optimizer", rest["name"]).params
        assert params["weight_decay"] == (0.5 if kept else own["weight_decay"])
        assert params["learning_rate"] == (muon.params["rest"].params if kept else own)["learning_rate"]


@pytest.mark.parametrize("rest", ["adamw", {"name": "adamw"}, {"name": "adamw", "weight_decay": 0.01}])
def test_naming_the_defaults_own_component_keeps_the_parameters_of_the_default(rest: Any) -> None:
    def params(document: Any, overrides: Sequence[str] = ()) -> Any:
        optimizer = load_experiment({"training": {"optimizer": document}}, overrides=overrides).training.optimizer
        return optimizer.params["rest"].params

    assert params({"name": "muon", "rest": rest})["learning_rate"] == 3e-3
    by_set = [f"training.optimizer.rest={json.dumps(rest)}", "training.optimizer=muon"]
    assert params("adamw", by_set) == params({"name": "muon", "rest": rest})
    assert params({"name": "muon", "rest": "lion"}) == REGISTRY.resolve("optimizer", "lion").params
    norm = load_experiment({"model": {"attention": {"name": "gla", "norm": "rmsnorm"}}}).model.attention.params["norm"]
    assert norm.params["eps"] == 1e-5, "the default of gla's norm, not the default of rmsnorm"


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)
    shape: Literal["square"] = "square"
    side: float = 1.0
    norm: NormSpec = "rmsnorm"  # type: ignore[assignment]


class Box(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)
    shape: Literal["box", "crate"]
    width: float = 1.0
    height: float = 1.0
    norm: NormSpec = "layernorm"  # type: ignore[assignment]


def shape_of(value: Any) -> str | None:
    return value.get("shape") if isinstance(value, dict) else value.shape


class ByKey(Norm):
    def __init__(self, width: int, *, form: Annotated[Square | Box, Field(discriminator="shape")]):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class ByKeyOrNull(ByKey):
    def __init__(self, width: int, *, form: Annotated[Square | Box, Field(discriminator="shape")] | None = None):
        super().__init__(width, form=form)  # type: ignore[arg-type]


class ByLiteral(ByKey):
    def __init__(self, width: int, *, form: Square | Box):
        super().__init__(width, form=form)


class ByFunction(ByKey):
    def __init__(
        self,
        width: int,
        *,
        form: Annotated[
            Annotated[Square, Tag("square")] | Annotated[Box, Tag("box")] | Annotated[Box, Tag("crate")],
            Discriminator(shape_of),
        ],
    ):
        super().__init__(width, form=form)


@pytest.mark.parametrize("cls", [ByKey, ByKeyOrNull, ByLiteral, ByFunction])
def test_the_members_of_a_union_never_mix(cls: type[ByKey], tmp_path: Path) -> None:
    register("norm", "formed")(cls)

    def form(*documents: Any) -> Any:
        for number, each in enumerate(documents):
            extends = {"extends": f"{number - 1}.json"} if number else {}
            text = json.dumps({**extends, "model": {"norm": {"name": "formed", "form": each}}})
            (tmp_path / f"{number}.json").write_text(text)
        return load_experiment(tmp_path / f"{number}.json").to_json()["model"]["norm"]["form"]

    box = {"shape": "box", "width": 2.0, "height": 3.0, "norm": {"name": "rmsnorm", "eps": 0.5}}
    replaced = form(box, {"shape": "square"})
    assert (replaced["shape"], replaced["side"], replaced["norm"]["name"]) == ("square", 1.0, "rmsnorm")
    assert replaced["norm"]["eps"] != 0.5
    assert form(box, {"shape": "crate"})["width"] == 1.0
    kept = form(box, {"height": 4.0, "norm": {"gain": False}})
    assert (kept["shape"], kept["width"], kept["height"]) == ("box", 2.0, 4.0)
    assert kept["norm"] == {"name": "rmsnorm", "eps": 0.5, "gain": False}
    assert form(box, {"shape": "box", "norm": "layernorm"})["norm"]["name"] == "layernorm"


def test_kinds_of_rope_scaling_never_mix(tmp_path: Path) -> None:
    yarn = {"kind": "yarn", "factor": 8, "original_block_size": 64}
    (tmp_path / "a.json").write_text(json.dumps({"model": {"position": {"name": "rope", "scaling": yarn}}}))
    for statement, expected in (({"kind": "linear", "factor": 2}, {"kind": "linear", "factor": 2.0}), ({"factor": 4}, None)):
        child = {"extends": "a.json", "model": {"position": {"scaling": statement}}}
        (tmp_path / "b.json").write_text(json.dumps(child))
        scaling = load_experiment(tmp_path / "b.json").to_json()["model"]["position"]["scaling"]
        assert scaling == expected if expected else (scaling["kind"], scaling["factor"]) == ("yarn", 4.0)
    changes = ['model.position.scaling={"kind": "llama3", "factor": 8}']
    with pytest.raises(ExperimentError, match=r"model.position.scaling.*original_block_size: is required"):
        load_experiment(tmp_path / "a.json", overrides=changes)


def test_an_object_of_components_may_have_the_key_name() -> None:
    @register("norm", "named_parts")
    class NamedParts(ByKey):
        def __init__(self, width: int, *, parts: dict[str, NormSpec]):
            super().__init__(width, form=None)  # type: ignore[arg-type]

    statement = {"model": {"norm": {"name": "named_parts", "parts": {"name": {"name": "rmsnorm", "eps": 0.5}}}}}
    parts = load_experiment(statement, overrides=["model.norm.parts.name.gain=false"]).to_json()["model"]["norm"]["parts"]
    assert parts == {"name": {"name": "rmsnorm", "eps": 0.5, "gain": False}}


LAYERS = [
    {},
    {"attention": {"window": 8}},
    {"ffn": "glu", "norm": {"name": "layernorm", "bias": False}},
    {"attention": "gqa"},
]


def test_a_resolved_experiment_is_varied_as_its_file_is(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(json.dumps({"model": {"n_layers": 4, "layers": LAYERS}}))
    resolved = load_experiment(tmp_path / "file.json").to_file_json()
    assert load_experiment(resolved).to_file_json() == resolved
    (tmp_path / "resolved.json").write_text(json.dumps(resolved))
    for change in ("model.ffn.expansion=2.0", "model.attention.qk_norm=rmsnorm", "model.norm=rmsnorm", "model.d_model=192"):
        varied = [load_experiment(tmp_path / name, overrides=[change]) for name in ("file.json", "resolved.json")]
        assert varied[0].model == varied[1].model, change
        assert [varied[0].model.layer(n) for n in range(4)] == [varied[1].model.layer(n) for n in range(4)]


@pytest.mark.parametrize("name", ["model.attention.name=gqa", "model.attention=gqa", 'model.attention={"name": "gqa"}'])
@pytest.mark.parametrize("order", [1, -1])
def test_settings_of_one_command_are_one_document_in_any_order(order: int, name: str) -> None:
    overrides = ["model.attention.n_kv_heads=2", name][::order]
    attention = load_experiment({"model": {"attention": {"window": 8}}}, overrides=overrides).model.attention
    assert (attention.name, attention.params["n_kv_heads"], attention.params["window"]) == ("gqa", 2, None)
