"""Hypothesis strategies for models. They grow with the registry: new components need no entry."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import reject
from hypothesis import strategies as st

from minigpt.contracts import Attention, Position
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.registry import REGISTRY
from minigpt.registry.entry import Entry

VOCAB = 23
BLOCK_SIZE = 24

# Parameters to try in addition to each component's defaults, if a default turns a mechanism off.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "attention/mha": [
        {"window": 5},
        {"window": 2},  # with 1, position parameters have no gradient; tests/kernels covers this
        {"qk_norm": "rmsnorm", "qk_norm_over": "heads"},
        {"bias": False},
        {"softcap": 3.0, "window": 7},
        {"sinks": True, "gate": "head"},
        {"value_residual": True},
    ],
    "attention/gqa": [
        {"n_kv_heads": 1},
        {"window": 3, "qk_norm": "layernorm", "value_residual": True},
        {"sinks": True, "softcap": 2.0, "gate": "element", "value_embedding": True},
    ],
    "attention/forgetting": [{"window": 4, "gate": "head", "qk_norm": "rmsnorm", "value_residual": True}],
    "attention/cope": [{"max_distance": 4, "window": 6, "sinks": True}],
    "attention/differential": [{"window": 5, "gate": "head", "value_residual": True, "value_embedding": True}],
    "attention/mla": [
        {"kv_rank": 6, "q_rank": 5, "rope_dim": 2, "window": 5, "score_scale": 2.0},
        {"value_residual": True, "value_embedding": True, "qk_norm": "layernorm", "gate": "element"},
    ],
    "attention/native_sparse": [
        {"n_kv_heads": 1, "summary_block": 4, "stride": 2, "select_block": 2, "selected": 4, "window": 3},
        {"summary_block": 4, "stride": 4, "select_block": 4, "selected": 3, "window": 2, "sinks": True, "softcap": 3.0},
    ],
    "attention/short_conv": [{"width": 1, "bias": True}, {"width": 5}],
    "attention/hyena": [{"order": 1, "bands": 1, "conv_width": 1}, {"frequency": 1.0}],
    "attention/linear": [{"feature_map": "relu"}, {"feature_map": "identity", "norm": "rmsnorm"}],
    "attention/retention": [{"decays": "linspace", "norm": "layernorm"}],
    "attention/gla": [{"expand_k": 1.0, "expand_v": 2.0, "temperature": 1.0, "decay_rank": 4}],
    "attention/delta_net": [
        {"conv_width": 1, "output_gate": True},
        {"negative_eigenvalues": True, "expand_v": 0.5, "norm": "layernorm"},
    ],
    "attention/gated_delta_net": [{"negative_eigenvalues": True, "conv_width": 2}, {"output_gate": False}],
    "attention/mamba2": [{"d_state": 5, "conv_width": 1, "expand": 1.5}],
    "attention/rwkv7": [{"decay_rank": 4, "rate_rank": 3, "value_rank": 2, "gate_rank": 5}],
    "position/rope": [
        {"fraction": 0.5},
        *({"scaling": {"kind": kind, "factor": 4.0}} for kind in ("linear", "ntk")),
        *({"scaling": {"kind": kind, "factor": 4.0, "original_block_size": 8}} for kind in ("yarn", "llama3")),
    ],
    "position/t5": [{"buckets": 4, "max_distance": 9}],
    "position/kerple": [{"kernel": "power"}],
    "norm/rmsnorm": [{"gain": False}],
    "norm/layernorm": [{"bias": False}],
    "ffn/mlp": [{"activation": name, "expansion": 2.0} for name in ("relu", "relu2", "silu", "gelu_tanh")],
    "ffn/glu": [
        *({"variant": name, "bias": True} for name in ("geglu", "geglu_tanh", "reglu")),
        {"variant": "swiglu_clamped", "gain": True},
    ],
    "ffn/moe": [
        {"n_experts": 3, "n_shared": 1, "variant": "gelu", "bias": True, "scores": "sigmoid", "balance": "bias"},
        {"n_experts": 2, "top_k": 1, "normalise": False, "variant": "reglu", "scale": 2.0, "balance": "none"},
        {"n_experts": 6, "n_group": 3, "topk_group": 2, "scores": "sigmoid", "balance": "bias"},
    ],
    "block/parallel": [{"shared_norm": False}],
    "block/hyper_connections": [{"n_streams": 2, "dynamic": False}],
}


def defaults(family: str) -> list[dict[str, Any]]:
    """Every registered component of a family with its defaults."""
    return [{"name": entry.name} for entry in REGISTRY.entries(family)]


def variants(family: str) -> list[dict[str, Any]]:
    """Every registered component of a family with each set of parameters worth trying."""
    names = [entry.name for entry in REGISTRY.entries(family)]
    return [{"name": name, **params} for name in names for params in VARIANTS.get(f"{family}/{name}", [])]


def choices(family: str) -> list[dict[str, Any]]:
    """Both."""
    return defaults(family) + variants(family)


def hooks_of(entry: Entry) -> set[str]:
    """The hooks that a position component overrides, from its class."""
    names = ("rotate", "bias")
    return {name for name in names if getattr(entry.cls, name) is not getattr(Position, name)}


def allowed(attention: dict[str, Any], position: dict[str, Any]) -> bool:
    """Whether a mixer applies all hooks of a position."""
    mixer = REGISTRY.entry("attention", attention["name"]).cls
    assert issubclass(mixer, Attention)
    return hooks_of(REGISTRY.entry("position", position["name"])) <= mixer.uses


def sections() -> st.SearchStrategy[ModelSection]:
    """Small models over all allowed combinations."""

    @st.composite
    def draw(pick: st.DrawFn) -> ModelSection:
        attention = pick(st.sampled_from(choices("attention")))
        position = pick(st.sampled_from([spec for spec in choices("position") if allowed(attention, spec)]))
        heads = pick(st.sampled_from([2, 4, 6]))
        return ModelSection.model_validate(
            {
                "d_model": 4 * heads,
                "n_heads": heads,
                "head_dim": pick(st.sampled_from([None, 6, 8])),
                "n_layers": pick(st.integers(1, 3)),
                "block_size": BLOCK_SIZE,
                "dropout": 0.0,
                "embedding": {
                    "name": "table",
                    "tied": pick(st.booleans()),
                    "unit": pick(st.booleans()),
                    "norm": pick(st.sampled_from([None, "layernorm"])),
                    "scale": pick(st.sampled_from([1.0, "sqrt"])),
                    "softcap": pick(st.sampled_from([None, 20.0])),
                    "bias": pick(st.booleans()),
                },
                "objective": {"name": "next_token", "z_loss": pick(st.sampled_from([0.0, 1e-3]))},
                "attention": attention,
                "position": position,
                "norm": pick(st.sampled_from(choices("norm"))),
                "ffn": pick(st.sampled_from(choices("ffn"))),
                "block": pick(st.sampled_from(choices("block"))),
            }
        )

    return draw()


def cuts(total: int) -> st.SearchStrategy[list[int]]:
    """Lengths of chunks that a sequence of `total` tokens is cut into."""
    return st.lists(st.integers(1, total - 1), max_size=total - 1, unique=True).map(
        lambda places: [b - a for a, b in zip([0, *sorted(places)], [*sorted(places), total], strict=True)]
    )


def model_with_large_weights(section: ModelSection, seed: int = 0) -> GPT:
    """A model with all weights large enough to matter: with GPT-2's initialisation half of a model has almost no effect."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = GPT(section, VOCAB)
        except ExperimentError:  # sizes that a constructor refuses, such as an odd number to rotate in pairs
            reject()
        for parameter in model.parameters():
            # A single number has a specific scale, such as a length: it changes only slightly.
            torch.nn.init.normal_(parameter, std=0.4) if parameter.ndim else parameter.data.add_(0.2 * torch.randn(()))
    model.eval()
    with torch.no_grad():
        # Without a norm, layers that multiply may grow without bound: use smaller weights then.
        while not (_largest(model, tokens(2, section.block_size, seed)) < 1e3):
            for parameter in model.parameters():
                parameter.mul_(0.6)
    return model


def _largest(model: GPT, ids: torch.Tensor) -> float:
    """The largest number after any block or in the logits, because a later norm or cap may hide it."""
    seen: list[float] = []
    cap, model.embedding.softcap = model.embedding.softcap, None
    hooks = [block.register_forward_hook(lambda _, __, y: seen.append(y.abs().amax().item())) for block in model.blocks]
    seen.append(model(ids).abs().amax().item())
    model.embedding.softcap = cap
    for hook in hooks:
        hook.remove()
    return max(seen) if all(math.isfinite(value) for value in seen) else math.inf


def tokens(batch: int, time: int, seed: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))
