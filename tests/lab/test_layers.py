"""The description of each layer in `minigpt show`."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from minigpt.experiment import ModelSection
from minigpt.lab.layers import layer_choices, spans
from minigpt.reading import load_experiment


def described(**model: Any) -> list[tuple[str, list[str]]]:
    """Layers, and a line for each part that differs from the model's."""
    section = load_experiment({"model": {"d_model": 24, "n_heads": 4, "n_layers": 6, **model}}).model
    return [
        (spans(layers), [f"{choice.family}: {choice}" for choice in choices]) for layers, choices in layer_choices(section)
    ]


def test_a_layer_with_the_same_component_keeps_the_parameters_that_it_does_not_set() -> None:
    """Both are reported: changed parameters and kept ones."""
    position = {"name": "rope", "base": 1e6, "scaling": {"kind": "linear", "factor": 8.0}}
    local: dict[str, Any] = {"name": "rope", "base": 1e4}
    scaled = 'position: rope, but base 10000.0; kept from model.position: scaling {"kind": "linear", "factor": 8.0}'
    assert described(position=position, layers=[{"position": local}, {}]) == [("0, 2, 4", [scaled]), ("1, 3, 5", [])]
    plain = "position: rope, but base 10000.0, scaling null"
    assert described(position=position, layers=[{"position": {**local, "scaling": None}}, {}])[0] == ("0, 2, 4", [plain])


def test_another_component_starts_from_its_own_defaults() -> None:
    layers = [{"attention": {"name": "gated_delta_net", "expand_v": 1.0}, "ffn": "glu"}] * 3 + [{"attention": {"window": 8}}]
    assert described(attention={"name": "mha", "softcap": 5.0}, position="none", layers=layers) == [
        ("0–2, 4–5", ["attention: gated_delta_net in place of mha: expand_v 1.0", "ffn: glu in place of mlp"]),
        ("3", ["attention: mha, but window 8; kept from model.attention: softcap 5.0"]),
    ]


def test_layers_without_choices_follow_the_model() -> None:
    assert described() == [("0–5", [])]
    assert described(layers=[{}, {"ffn": "mlp"}]) == [("0–5", [])]


@given(st.lists(st.sampled_from(["mlp", "glu", "moe", None]), max_size=6))
def test_every_layer_is_listed_once(ffns: list[str | None]) -> None:
    model = ModelSection.model_validate({"n_layers": 6, "layers": [{} if ffn is None else {"ffn": ffn} for ffn in ffns]})
    groups = layer_choices(model)
    assert sorted(index for layers, _ in groups for index in layers) == list(range(6))
    for layers, choices in groups:
        assert [choice.name for choice in choices] == [
            name for name in {model.layer(index).ffn.name for index in layers} if name != "mlp"
        ]
