"""Parameters of two mechanisms never mix, wherever a mechanism's name came from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, Spec

NESTED = {"gla", "retention", "delta_net"}  # each has a norm, which is an rmsnorm by default
NUMBERS = st.integers(1, 999).map(lambda number: number / 1000)


def statements(names: list[str], parameters: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    """What a document may say of a component: nothing, a name, parameters, or both."""
    named = st.builds(lambda name, more: {"name": name, **more}, st.sampled_from(names), parameters)
    return st.one_of(st.none(), st.sampled_from(names), named, parameters)


NORMS = statements(["layernorm", "rmsnorm"], st.fixed_dictionaries({"eps": NUMBERS}))
MIXERS = statements(sorted(NESTED), st.fixed_dictionaries({"norm": NORMS.filter(lambda said: said is not None)}))
DOCUMENTS = st.fixed_dictionaries({"norm": NORMS, "attention": MIXERS})


def over(before: tuple[str, dict[str, Any]], said: Any) -> tuple[str, dict[str, Any]]:
    """The rule in a few lines: a component's name and what was set for it, after one more statement."""
    if said is None:
        return before
    said = {"name": said} if isinstance(said, str) else said
    name = said.get("name", before[0])
    params = dict(before[1]) if name == before[0] else {}
    for key, value in said.items():
        if key == "norm":
            params[key] = over(params.get(key, ("rmsnorm", {})), value)
        elif key != "name":
            params[key] = value
    return name, params


def resolved(component: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A component as the experiment has it, with the defaults of its own constructor."""
    name, params = component
    family = "attention" if name in NESTED else "norm"
    spec: Spec[Any] = REGISTRY.resolve(family, name)
    set_for_it = {key: resolved(value) if key == "norm" else value for key, value in params.items()}
    return {**spec.to_json(), **set_for_it}


def document(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if value is not None}


@st.composite
def settings_of(draw: st.DrawFn) -> tuple[list[str], dict[str, Any]]:
    """`--set` of one command in any order, and the one document that they are."""
    said: dict[str, Any] = {}
    words = []
    if draw(st.booleans()):
        said["norm"] = draw(NORMS.filter(lambda norm: isinstance(norm, dict) and norm))
        words += [f"model.norm.{key}={value}" for key, value in said["norm"].items()]
    if draw(st.booleans()):
        said["attention"] = draw(MIXERS.filter(lambda mixer: isinstance(mixer, dict) and mixer))
        words += [f"model.attention.{key}={json.dumps(value)}" for key, value in said["attention"].items()]
    return draw(st.permutations(words)), said


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
        for number, said in enumerate(chain):
            child = {"extends": path.name, "model": document(said)}
            path = Path(folder) / f"{number}.json"
            path.write_text(json.dumps(child))
        experiment = load_experiment(path, overrides=changes[0])
    for said in (*chain, changes[1]):
        norm, mixer = over(norm, said.get("norm")), over(mixer, said.get("attention"))
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
    assert by_set == attention, "--set follows the same rule"


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


@pytest.mark.parametrize("name", ["model.attention.name=gqa", "model.attention=gqa", 'model.attention={"name": "gqa"}'])
@pytest.mark.parametrize("order", [1, -1])
def test_settings_of_one_command_are_one_document_in_any_order(order: int, name: str) -> None:
    overrides = ["model.attention.n_kv_heads=2", name][::order]
    attention = load_experiment({"model": {"attention": {"window": 8}}}, overrides=overrides).model.attention
    assert (attention.name, attention.params["n_kv_heads"], attention.params["window"]) == ("gqa", 2, None)
