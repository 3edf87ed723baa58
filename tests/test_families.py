"""The experiments in `experiments/families` compute what Hugging Face transformers computes, weight for weight.

Each shipped file is taken as it is, only its sizes made small; its twin is a transformers model of the published settings.
Every weight is random, norms, sinks and balance included, and is carried over by name. transformers is needed by nothing
else: without it these tests are skipped, and each part is still held against its paper's formula.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.experiment import ModelSection
from minigpt.model import GPT, build_model_on_meta
from minigpt.reading import load_experiment
from tests.rounding import gamma

FOLDER = Path(__file__).parents[1] / "experiments" / "families"
VOCAB, TIME, LAYERS, HEADS, HEAD_DIM = 48, 30, 6, 6, 16
# Of a logit, which reach 11: transformers computes norms in fp32 whatever it is given, and a logit is a sum that has gone through
# sums over a hidden layer. The largest difference seen is 7e-6.
TOLERANCE = 11 * gamma(4 * HEADS * HEAD_DIM)

# What replaces the sizes in a shipped file, wherever they stand; the rest is as shipped.
SMALL = {"d_model": HEADS * HEAD_DIM, "block_size": 2 * TIME, "dropout": 0.0, "window": 7}
SMALL |= {"head_dim": 24, "kv_rank": 20, "q_rank": 28, "rope_dim": 8}

# ------------------------------------------------------------------------------------- the published settings, made small

_SIZES: dict[str, Any] = {
    "hidden_size": SMALL["d_model"],
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 2 * TIME,
}

NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}

PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {
        "num_key_value_heads": 2,
        "intermediate_size": 300,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    },
    "gpt_neox": {"intermediate_size": 384},
    "mpt": {"d_model": SMALL["d_model"], "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 2 * TIME},
    "gemma2": {
        "num_key_value_heads": 3,
        "head_dim": HEAD_DIM,
        "query_pre_attn_scalar": HEAD_DIM,  # in the 2B and 9B models it is the head's width
        "intermediate_size": 288,
        "sliding_window": SMALL["window"],
    },
    "olmo2": {
        "intermediate_size": 256,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    },
    "qwen3": {
        "num_key_value_heads": 3,
        "head_dim": SMALL["head_dim"],
        "intermediate_size": 192,
        "tie_word_embeddings": True,  # as up to 4B
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "deepseek_v3": {
        "num_key_value_heads": HEADS,
        "q_lora_rank": SMALL["q_rank"],
        "kv_lora_rank": SMALL["kv_rank"],
        "qk_rope_head_dim": SMALL["rope_dim"],
        "qk_nope_head_dim": HEAD_DIM,
        "v_head_dim": HEAD_DIM,
        "intermediate_size": 108,
        "moe_intermediate_size": 36,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 1,  # groups of experts are groups of machines
        "topk_group": 1,
        "num_nextn_predict_layers": 0,
    },
    "gpt_oss": {
        "num_key_value_heads": 2,
        "head_dim": HEAD_DIM,
        "intermediate_size": 37,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": SMALL["window"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 150_000.0},  # before the context was extended
    },
}

# ---------------------------------------------------------------------------------------------- which weight goes where

Change = Callable[[torch.Tensor], torch.Tensor]
Rule = tuple[str, tuple[str, ...], Change]
"""A module or tensor of ours, those of theirs that it is made of (concatenated), and what is done to them."""


def same(weight: torch.Tensor) -> torch.Tensor:
    return weight


def transposed(weight: torch.Tensor) -> torch.Tensor:
    """GPT-2's Conv1D has inputs by outputs."""
    return weight.mT if weight.ndim > 1 else weight


def gain_from_zero(weight: torch.Tensor) -> torch.Tensor:
    """Gemma's norms multiply by 1 + weight."""
    return 1 + weight


def heads_inside(weight: torch.Tensor) -> torch.Tensor:
    """GPT-NeoX has q, k and v for each head; we have each head for q, k and v."""
    return weight.unflatten(0, (HEADS, 3, HEAD_DIM)).transpose(0, 1).flatten(0, 2)


def evens_first(rows: torch.Tensor, dim: int) -> torch.Tensor:
    """Neighbours that belong together come apart: the first of each pair, then the second of each."""
    even = torch.arange(0, rows.shape[dim], 2)
    return rows.index_select(dim, torch.cat((even, even + 1)))


def turned_part(heads: int, still: int) -> Change:
    """DeepSeek turns neighbours, we turn halves: what follows the first `still` rows of each head is put in our order."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        by_head = weight.unflatten(0, (heads, -1))
        return torch.cat((by_head[:, :still], evens_first(by_head[:, still:], 1)), 1).flatten(0, 1)

    return change


def gates_first(weight: torch.Tensor) -> torch.Tensor:
    """gpt-oss has gate and value in turn, and inputs by outputs."""
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
            ("attention.kv_down", "self_attn.kv_a_proj_with_mqa", turned_part(1, SMALL["kv_rank"])),
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
    """Our weights, made of theirs. Every one of theirs is used."""
    theirs, ours = dict(theirs), {}
    for here, there, change in rules:
        for layer in range(LAYERS) if "{}" in here else [0]:
            for kind in (".weight", ".bias", ""):
                names = [name.format(layer) + kind for name in there]
                if names[0] in theirs:
                    ours[here.format(layer) + kind] = change(torch.cat([theirs.pop(name) for name in names]))
    assert not theirs, f"no rule for {sorted(theirs)}"
    return ours


# --------------------------------------------------------------------------------------------------------- the two models


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip(
            "transformers", reason="equality with published families needs the extra minigpt-lab[parity]"
        )


def published(transformers: Any, name: str, **settings: Any) -> Any:
    """The transformers model, every weight random."""
    sizes = {} if name == "mpt" else _SIZES  # it has other names for them
    config = transformers.AutoConfig.for_model(
        name, vocab_size=VOCAB, **NO_SPECIAL, **sizes, **{**PUBLISHED[name], **settings}
    )
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in weights_of(model).items():
        torch.nn.init.normal_(tensor, std=0.7 if tensor.ndim == 1 else 0.1, generator=generator)
        if "embed" in key or "wte" in key:  # some rows so short that the norms' eps matters
            tensor *= 10 ** (2 * torch.rand(len(tensor), 1, generator=generator) - 1.5)
        if "gate_up_proj_bias" in key:  # far enough to reach the clamps of gpt-oss
            tensor *= 60
    return model


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and what is saved beside them; a tied output layer is none of its own."""
    weights = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    return weights


def small(value: Any) -> Any:
    """A section with its sizes replaced, at any depth."""
    if isinstance(value, list):
        return [small(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {key: SMALL[key] if key in SMALL and entry is not None else small(entry) for key, entry in value.items()}


def shipped(name: str, theirs: Any, overrides: tuple[str, ...] = ()) -> GPT:
    """The model of the shipped file with the same weights."""
    section = load_experiment(FOLDER / f"{name}.json", overrides=overrides).to_json()["model"]
    model = GPT(ModelSection.model_validate(small(section)), VOCAB).eval()
    model.load_state_dict(carried_over(weights_of(theirs), RULES[name]))
    return model


def tokens(time: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (2, time), generator=torch.Generator().manual_seed(1))


def difference(ours: GPT, theirs: Any) -> float:
    """The largest over all logits."""
    with torch.no_grad():
        expected = theirs(tokens(TIME)).logits
        assert 1 < expected.abs().max() < 100, "logits of the usual size"
        return (ours(tokens(TIME)) - expected).abs().max().item()


# ------------------------------------------------------------------------------------------------------------------ tests


def test_every_shipped_family_has_its_twin_and_about_the_size_of_the_baseline() -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert {file.stem for file in files} == set(PUBLISHED)
    for file in files:
        experiment = load_experiment(file)
        assert experiment.name == file.stem
        assert 10.5e6 < build_model_on_meta(experiment.model, 65).n_parameters() < 10.9e6, file.stem


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_gives_the_logits_of_its_published_implementation(transformers: Any, name: str) -> None:
    theirs = published(transformers, name)
    assert difference(shipped(name, theirs), theirs) < TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_decodes_as_its_published_implementation_does(transformers: Any, name: str) -> None:
    """Both greedily and from their caches, beyond the window."""
    theirs = published(transformers, name)
    prompt = tokens(9)
    greedy = {"do_sample": False, "max_new_tokens": 10, "use_cache": True}
    out = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), **greedy, output_logits=True, return_dict_in_generate=True
    )
    ours = shipped(name, theirs)
    state, pending, chosen = ours.new_state(2, 19), prompt, [prompt]
    with torch.no_grad():
        for expected in out.logits:
            logits = ours(pending, state)[:, -1]
            assert (logits - expected).abs().max() < TOLERANCE
            pending = logits.argmax(-1, keepdim=True)
            chosen.append(pending)
    assert torch.equal(torch.cat(chosen, 1), out.sequences)


LONGER: dict[str, dict[str, Any]] = {
    "llama": {"kind": "llama3", "factor": 8.0, "original_block_size": 64},
    "gpt_oss": {"kind": "yarn", "factor": 32.0, "original_block_size": 4096, "truncate": False},
}


@pytest.mark.parametrize("name", LONGER)
def test_a_context_that_was_extended_as_the_family_was_gives_the_same_logits(transformers: Any, name: str) -> None:
    """The shipped files train at one length; the published weights were stretched, Llama 3.1 by wavelength, gpt-oss by YaRN.

    DeepSeek-V3's stretching has no counterpart here: it scales all scores, not the turned part alone.
    """
    ours = LONGER[name]
    there: dict[str, Any] = {"rope_type": ours["kind"], "factor": ours["factor"]}
    there["original_max_position_embeddings"] = ours["original_block_size"]
    there |= {"truncate": False} if name == "gpt_oss" else {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    base = PUBLISHED[name]["rope_parameters"]["rope_theta"]
    theirs = published(transformers, name, rope_parameters={"rope_theta": base, **there})
    assert difference(shipped(name, theirs), theirs) > TOLERANCE
    stretched = shipped(name, theirs, (f"model.position.scaling={json.dumps(ours)}",))
    assert difference(stretched, theirs) < TOLERANCE
