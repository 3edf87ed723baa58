"""Every parameter of every part of a model changes what is computed: a knob that does nothing is a bug."""

from __future__ import annotations

import typing
from typing import Any

import pytest
import torch

from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY, Family, Spec
from tests.strategies import BLOCK_SIZE, VOCAB, tokens

# What to set where the type does not suggest a value of its own.
VALUES = {
    "window": 2,
    "n_kv_heads": 1,
    "softcap": 1.0,
    "gate": "head",
    "buckets": 8,
    "max_distance": 20,
    "hidden": 8,
    "threshold": 40.0,
}
VALUES |= {"conv_width": 2, "d_state": 8, "decay_rank": 8, "rate_rank": 8, "value_rank": 8, "gate_rank": 8}
VALUES |= {"kv_rank": 6, "q_rank": 6, "rope_dim": 4, "select_block": 4, "stride": 1}
VALUES |= {"n_shared": 1}
VALUES |= {"scaling": {"kind": "linear", "factor": 2.0}, "fraction": 0.5}

# What a knob needs beside it to matter in a sequence as short as these.
BESIDE: dict[str, dict[str, Any]] = {
    "qk_norm_over": {"qk_norm": "rmsnorm"},
    "attention/native_sparse": {"summary_block": 4, "stride": 2, "select_block": 2, "selected": 3, "window": 3},
}


def _other_value(name: str, annotation: Any, default: Any, metadata: list[Any]) -> Any:
    if name in VALUES:
        return VALUES[name]
    if typing.get_origin(annotation) is typing.Literal:
        return next(value for value in typing.get_args(annotation) if value != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default * 2
    if isinstance(default, float):
        return default * 1.5 if default else 0.5
    family = next((part for part in (*metadata, *_parts(annotation)) if isinstance(part, Family)), None)
    if family is not None:
        return REGISTRY.entries(family.name)[0].name
    raise AssertionError(f"say in VALUES what to try for {name}")


def _parts(annotation: Any) -> list[Any]:
    metadata = list(getattr(annotation, "__metadata__", ()))
    return metadata + [part for inner in typing.get_args(annotation) for part in _parts(inner)]


KNOBS = [
    (family, entry.name, parameter)
    for family in ("attention", "position", "norm", "ffn", "block")
    for entry in REGISTRY.entries(family)
    for parameter in entry.params.model_fields
]


@pytest.mark.parametrize(("family", "name", "parameter"), KNOBS)
def test_every_knob_changes_the_computation(family: str, name: str, parameter: str) -> None:
    field = REGISTRY.entry(family, name).params.model_fields[parameter]
    beside = {**BESIDE.get(f"{family}/{name}", {}), **BESIDE.get(parameter, {})}
    default = field.default.to_json() if isinstance(field.default, Spec) else beside.get(parameter, field.default)
    other = _other_value(parameter, field.annotation, default, field.metadata)
    base = {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.0}
    results, auxiliary, shapes = [], [], []
    for value in (default, other):
        section = ModelSection.model_validate({**base, family: {"name": name, **beside, parameter: value}})
        torch.manual_seed(0)
        model = GPT(section, VOCAB).train()  # in training, so that dropout counts; as initialised, since a knob may do that
        torch.manual_seed(0)
        with torch.no_grad():
            x, losses = model.hidden(tokens(2, BLOCK_SIZE, 1))
            results.append(model.logits(x))
            auxiliary.append(float(sum(losses)))
        shapes.append([(key, tensor.shape) for key, tensor in model.named_parameters()])
    assert results[0].shape == (2, BLOCK_SIZE, VOCAB)
    changed = shapes[0] != shapes[1] or not torch.equal(results[0], results[1]) or auxiliary[0] != auxiliary[1]
    assert changed, f"{parameter} = {other} changes nothing"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tied_head", False),
        ("unit_embeddings", True),
        ("embedding_norm", "rmsnorm"),
        ("embedding_scale", "sqrt"),
        ("logit_softcap", 1.0),
        ("dropout", 0.5),
        ("z_loss", 0.1),
    ],
)
def test_every_knob_of_the_model_changes_the_training_loss(field: str, value: Any) -> None:
    base = {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": BLOCK_SIZE, "dropout": 0.0}
    losses = []
    for changes in ({}, {field: value}):
        torch.manual_seed(0)
        model = GPT(ModelSection.model_validate({**base, **changes}), VOCAB).train()
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(sum(model.loss(tokens(2, BLOCK_SIZE, 1), tokens(2, BLOCK_SIZE, 2))))
    assert losses[0] != losses[1]
