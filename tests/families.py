"""Maps weights of published models to ours, for `test_families.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch

LAYERS, HEADS, HEAD_DIM, KV_RANK = 6, 6, 16, 20

Change = Callable[[torch.Tensor], torch.Tensor]
Rule = tuple[str, tuple[str, ...], Change]
"""One of our modules or tensors, the published ones that it concatenates, and a change of them."""


def same(weight: torch.Tensor) -> torch.Tensor:
    return weight


def transposed(weight: torch.Tensor) -> torch.Tensor:
    """GPT-2's Conv1D stores inputs by outputs."""
    return weight.mT if weight.ndim > 1 else weight


def gain_from_zero(weight: torch.Tensor) -> torch.Tensor:
    """Gemma's norms multiply by 1 + weight."""
    return 1 + weight


def heads_inside(weight: torch.Tensor) -> torch.Tensor:
    """GPT-NeoX stores q, k and v head by head; we store all heads of q, then of k, then of v."""
    return weight.unflatten(0, (HEADS, 3, HEAD_DIM)).transpose(0, 1).flatten(0, 2)


def evens_first(rows: torch.Tensor, dim: int) -> torch.Tensor:
    """Reorder neighbouring pairs: the first of each pair, then the second of each."""
    even = torch.arange(0, rows.shape[dim], 2)
    return rows.index_select(dim, torch.cat((even, even + 1)))


def turned_part(heads: int, still: int) -> Change:
    """DeepSeek rotates neighbours, we rotate halves: reorder the rows after the first `still` of each head."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        by_head = weight.unflatten(0, (heads, -1))
        return torch.cat((by_head[:, :still], evens_first(by_head[:, still:], 1)), 1).flatten(0, 1)

    return change


def gates_first(weight: torch.Tensor) -> torch.Tensor:
    """gpt-oss alternates gate and value, and stores inputs by outputs."""
    return evens_first(transposed(weight) if weight.ndim == 3 else weight, 1)


def in_layer(name: str, *rules: tuple[str, str | tuple[str, ...]] | Rule) -> list[Rule]:
    """Rules with the prefixes of a layer."""
    result = []
    for here, there, *change in rules:
        names = (there,) if isinstance(there, str) else there
        result.append((f"blocks.{{}}.{here}", tuple(f"{name}.{{}}.{n}" for n in names), change[0] if change else same))
    return result


EMBED_HEAD: list[Rule] = [("embedding", ("model.embed_tokens",), same), ("head", ("lm_head",), same)]
FINAL_NORM: list[Rule] = [("norm", ("model.norm",), same)]
PRE_NORMS = in_layer("model.layers", ("attention_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"))
POST_NORMS = in_layer(
    "model.layers", ("attention_norm", "post_attention_layernorm"), ("ffn_norm", "post_feedforward_layernorm")
)
QKV = in_layer(
    "model.layers",
    ("attention.qkv", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("attention.out", "self_attn.o_proj"),
)
QK_NORMS = in_layer("model.layers", ("attention.q_norm", "self_attn.q_norm"), ("attention.k_norm", "self_attn.k_norm"))
GLU = in_layer("model.layers", ("ffn.into", ("mlp.gate_proj", "mlp.up_proj")), ("ffn.out", "mlp.down_proj"))

RULES: dict[str, list[Rule]] = {
    "gpt2": [
        ("embedding", ("transformer.wte",), same),
        ("positions.0.table", ("transformer.wpe",), same),
        ("norm", ("transformer.ln_f",), same),
        *in_layer(
            "transformer.h",
            ("attention_norm", "ln_1"),
            ("attention.qkv", "attn.c_attn", transposed),
            ("attention.out", "attn.c_proj", transposed),
            ("ffn_norm", "ln_2"),
            ("ffn.into", "mlp.c_fc", transposed),
            ("ffn.out", "mlp.c_proj", transposed),
        ),
    ],
    "llama": [*EMBED_HEAD, *FINAL_NORM, *PRE_NORMS, *QKV, *GLU],
    "gpt_neox": [
        ("embedding", ("gpt_neox.embed_in",), same),
        ("norm", ("gpt_neox.final_layer_norm",), same),
        ("head", ("lm_head",), same),
        *in_layer(
            "gpt_neox.layers",
            ("attention_norm", "input_layernorm"),
            ("attention.qkv", "attention.query_key_value", heads_inside),
            ("attention.out", "attention.dense"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn.into", "mlp.dense_h_to_4h"),
            ("ffn.out", "mlp.dense_4h_to_h"),
        ),
    ],
    "mpt": [
        ("embedding", ("transformer.wte",), same),
        ("norm", ("transformer.norm_f",), same),
        *in_layer(
            "transformer.blocks",
            ("attention_norm", "norm_1"),
            ("attention.qkv", "attn.Wqkv"),
            ("attention.out", "attn.out_proj"),
            ("ffn_norm", "norm_2"),
            ("ffn.into", "ffn.up_proj"),
            ("ffn.out", "ffn.down_proj"),
        ),
    ],
    "gemma2": [
        ("embedding", ("model.embed_tokens",), same),
        ("norm", ("model.norm",), gain_from_zero),
        *in_layer(
            "model.layers",
            ("attention_norm", "input_layernorm", gain_from_zero),
            ("attention_out_norm", "post_attention_layernorm", gain_from_zero),
            ("ffn_norm", "pre_feedforward_layernorm", gain_from_zero),
            ("ffn_out_norm", "post_feedforward_layernorm", gain_from_zero),
        ),
        *QKV,
        *GLU,
    ],
    "olmo2": [*EMBED_HEAD, *FINAL_NORM, *POST_NORMS, *QKV, *QK_NORMS, *GLU],
    "qwen3": [EMBED_HEAD[0], *FINAL_NORM, *PRE_NORMS, *QKV, *QK_NORMS, *GLU],
    "deepseek_v3": [
        *EMBED_HEAD,
        *FINAL_NORM,
        *PRE_NORMS,
        *in_layer(
            "model.layers",
            ("attention.q_down", "self_attn.q_a_proj"),
            ("attention.q_gain", "self_attn.q_a_layernorm.weight"),
            ("attention.q_up", "self_attn.q_b_proj", turned_part(HEADS, HEAD_DIM)),
            ("attention.kv_down", "self_attn.kv_a_proj_with_mqa", turned_part(1, KV_RANK)),
            ("attention.kv_gain", "self_attn.kv_a_layernorm.weight"),
            ("attention.kv_up", "self_attn.kv_b_proj"),
            ("attention.out", "self_attn.o_proj"),
        ),
        *GLU,  # the first layer
        *in_layer(
            "model.layers",
            ("ffn.router", "mlp.gate"),
            ("ffn.choice_bias", "mlp.gate.e_score_correction_bias"),
            ("ffn.into", "mlp.experts.gate_up_proj"),
            ("ffn.out", "mlp.experts.down_proj"),
            ("ffn.shared_into", ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj")),
            ("ffn.shared_out", "mlp.shared_experts.down_proj"),
        ),
    ],
    "gpt_oss": [
        *EMBED_HEAD,
        *FINAL_NORM,
        *PRE_NORMS,
        *QKV,
        *in_layer(
            "model.layers",
            ("attention.sinks", "self_attn.sinks"),
            ("ffn.router", "mlp.router"),
            ("ffn.into", "mlp.experts.gate_up_proj", gates_first),
            ("ffn.into_bias", "mlp.experts.gate_up_proj_bias", gates_first),
            ("ffn.out", "mlp.experts.down_proj", transposed),
            ("ffn.out_bias", "mlp.experts.down_proj_bias"),
        ),
    ],
}


def carried_over(theirs: dict[str, torch.Tensor], rules: list[Rule]) -> dict[str, torch.Tensor]:
    """Our weights, built from the published ones, which must all be used."""
    theirs, ours = dict(theirs), {}
    for here, there, change in rules:
        for layer in range(LAYERS) if "{}" in here else [0]:
            for kind in (".weight", ".bias", ""):
                names = [name.format(layer) + kind for name in there]
                if names[0] in theirs:
                    ours[here.format(layer) + kind] = change(torch.cat([theirs.pop(name) for name in names]))
    assert not theirs, f"no rule for {sorted(theirs)}"
    return ours
