"""The experiments in `experiments/families` compute the same as Hugging Face transformers with the same weights.

Each shipped file is used with only its sizes made small, and compared with a transformers model of the published settings.
Every weight is random, including norms, sinks and balance, and is copied by name. Only these tests need transformers: without
it they are skipped, and each part is still tested against its paper's formula.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.experiment import ModelSection
from minigpt.model import GPT, build_model_on_meta
from minigpt.reading import load_experiment
from tests.families import HEAD_DIM, HEADS, KV_RANK, LAYERS, RULES, carried_over
from tests.rounding import gamma

FOLDER = Path(__file__).parents[1] / "experiments" / "families"
VOCAB, TIME = 48, 30
# For logits up to 11: transformers computes norms in fp32 for any input type, and a logit is a sum that has gone through
# sums over a hidden layer. The largest difference seen is 7e-6.
TOLERANCE = 11 * gamma(4 * HEADS * HEAD_DIM)

# Replacements of sizes anywhere in a shipped file; the rest stays as shipped.
SMALL = {"d_model": HEADS * HEAD_DIM, "block_size": 2 * TIME, "dropout": 0.0, "window": 7}
SMALL |= {"head_dim": 24, "kv_rank": KV_RANK, "q_rank": 28, "rope_dim": 8}

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
        "query_pre_attn_scalar": HEAD_DIM,  # the head's width in the 2B and 9B models
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
        "n_group": 1,  # for so few experts; test_deepseek_v3_chooses_its_experts_from_the_best_groups has the published eight
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
    sizes = {} if name == "mpt" else _SIZES  # mpt has other names for them
    config = transformers.AutoConfig.for_model(
        name, vocab_size=VOCAB, **NO_SPECIAL, **sizes, **{**PUBLISHED[name], **settings}
    )
    config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in weights_of(model).items():
        torch.nn.init.normal_(tensor, std=0.7 if tensor.ndim == 1 else 0.1, generator=generator)
        if "embed" in key or "wte" in key:  # some rows are so short that the norms' eps matters
            tensor *= 10 ** (2 * torch.rand(len(tensor), 1, generator=generator) - 1.5)
        if "gate_up_proj_bias" in key:  # far enough to reach the clamps of gpt-oss
            tensor *= 60
    return model


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers; a tied output layer has no entry."""
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
    """The largest difference over all logits."""
    with torch.no_grad():
        expected = theirs(tokens(TIME)).logits
        assert 1 < expected.abs().max() < 100, "logits of the usual size"
        return (ours(tokens(TIME)) - expected).abs().max().item()


# ------------------------------------------------------------------------------------------------------------------ tests


def test_every_shipped_family_is_tested_and_about_as_large_as_the_baseline() -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert {file.stem for file in files} == set(PUBLISHED)
    for file in files:
        experiment = load_experiment(file)
        assert experiment.name == file.stem
        assert 10.5e6 < build_model_on_meta(experiment.model, 65).n_parameters() < 10.9e6, file.stem


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_computes_the_logits_of_its_published_implementation(transformers: Any, name: str) -> None:
    theirs = published(transformers, name)
    assert difference(shipped(name, theirs), theirs) < TOLERANCE


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_decodes_like_its_published_implementation(transformers: Any, name: str) -> None:
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
    "deepseek_v3": {"kind": "yarn", "factor": 40.0, "original_block_size": 64, "attention_factor": 1.0},
}
THERE: dict[str, dict[str, Any]] = {
    "llama": {"rope_theta": 500_000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "gpt_oss": {"rope_theta": 150_000.0, "truncate": False},
    "deepseek_v3": {"rope_theta": 10_000.0, "mscale": 1.0, "mscale_all_dim": 1.0},
}
BESIDE = {"deepseek_v3": (f"model.attention.score_scale={(0.1 * math.log(40.0) + 1) ** 2}",)}
"""Changes of a family outside its positions."""


@pytest.mark.parametrize("name", LONGER)
def test_an_extended_context_gives_the_same_logits(transformers: Any, name: str) -> None:
    """The shipped files train at one length; the published models were extended, Llama 3.1 by wavelength, two by YaRN."""
    ours = LONGER[name]
    there: dict[str, Any] = {"rope_type": ours["kind"], "factor": ours["factor"], **THERE[name]}
    there["original_max_position_embeddings"] = ours["original_block_size"]
    theirs = published(transformers, name, rope_parameters=there)
    assert difference(shipped(name, theirs), theirs) > TOLERANCE
    scaling = f"model.position.scaling={json.dumps(ours)}"
    assert difference(shipped(name, theirs, (scaling, *BESIDE.get(name, ()))), theirs) < TOLERANCE


def test_the_factor_on_deepseek_v3s_scores_can_be_in_its_query_map_instead(transformers: Any) -> None:
    """A score is linear in the query, so a factor on one is a factor on the other."""
    theirs = published(transformers, "deepseek_v3")
    model = shipped("deepseek_v3", theirs, ("model.attention.score_scale=1.5",))
    folded = shipped("deepseek_v3", theirs)
    with torch.no_grad():
        for block in folded.blocks:
            block.attention.q_up.weight *= 1.5
        logits = model(tokens(TIME))
        assert (logits - shipped("deepseek_v3", theirs)(tokens(TIME))).abs().max() > TOLERANCE
        assert (logits - folded(tokens(TIME))).abs().max() < TOLERANCE


def test_deepseek_v3_chooses_its_experts_from_the_best_groups(transformers: Any) -> None:
    """The released configuration at an eighth of its 256 experts: each token uses 4 of 8 groups, and 8 experts of those."""
    sizes = {"n_routed_experts": 32, "num_experts_per_tok": 8}
    theirs = published(transformers, "deepseek_v3", **sizes, n_group=8, topk_group=4)
    ours = ("model.ffn.n_experts=32", "model.ffn.top_k=8")
    assert difference(shipped("deepseek_v3", theirs, ours), theirs) > TOLERANCE
    grouped = shipped("deepseek_v3", theirs, (*ours, "model.ffn.n_group=8", "model.ffn.topk_group=4"))
    assert difference(grouped, theirs) < TOLERANCE
