"""Properties of every model, over all combinations of registered components."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.experiment import ModelSection
from minigpt.model import GPT
from tests.rounding import assert_formula
from tests.strategies import (
    BLOCK_SIZE,
    VOCAB,
    allowed,
    choices,
    cuts,
    defaults,
    lively,
    sections,
    tokens,
    variants,
)

# Values are compared in float64: there rounding is far below any leak, on every processor.
# tests/components/test_precision.py tests that fp32 computes the same.


def exact(section: ModelSection, seed: int = 0) -> GPT:
    return lively(section, seed).double()


def assert_causal(model: GPT, seed: int, prefixes: list[int]) -> None:
    before = tokens(2, BLOCK_SIZE, seed)
    inputs = before.repeat(1 + len(prefixes), 1, 1)
    for after, prefix in zip(inputs[1:], prefixes, strict=True):
        after[:, prefix:] = (after[:, prefix:] + 1) % VOCAB
    with torch.no_grad():
        logits, *others = model(inputs.flatten(0, 1)).split(2)
    for changed, prefix in zip(others, prefixes, strict=True):
        assert_formula(changed[:, :prefix], logits[:, :prefix], f"tokens from {prefix} on leak into earlier outputs")
        assert not torch.equal(changed[:, prefix:], logits[:, prefix:]), "the input has no effect"


def assert_decodes(model: GPT, seed: int, lengths: list[int]) -> None:
    ids = tokens(2, sum(lengths), seed)
    with torch.no_grad():
        whole = model(ids)
        state = model.new_state(2, sum(lengths), torch.float64)
        pieces, start = [], 0
        for length in lengths:
            pieces.append(model(ids[:, start : start + length], state))
            start += length
    assert state.length == sum(lengths)
    assert_formula(torch.cat(pieces, 1), whole, f"decoding in chunks of {lengths}")


@given(sections(), st.integers(0, 99), st.lists(st.integers(1, BLOCK_SIZE - 1), min_size=2, max_size=5, unique=True))
def test_no_output_depends_on_later_tokens(section: ModelSection, seed: int, prefixes: list[int]) -> None:
    assert_causal(exact(section, seed), seed, [1, *prefixes])


@given(sections(), st.integers(0, 99), cuts(BLOCK_SIZE))
def test_decoding_in_any_chunks_equals_the_full_pass(section: ModelSection, seed: int, lengths: list[int]) -> None:
    assert_decodes(exact(section, seed), seed, lengths)


@given(sections(), st.integers(0, 99), st.integers(1, BLOCK_SIZE), st.integers(1, 4))
def test_any_batch_and_length_up_to_block_size_gives_logits_of_the_right_shape(
    section: ModelSection, seed: int, time: int, batch: int
) -> None:
    model = lively(section, seed)
    with torch.no_grad():
        logits = model(tokens(batch, time, seed))
    assert logits.shape == (batch, time, VOCAB)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@given(sections(), st.integers(0, 99))
def test_examples_in_a_batch_are_independent(section: ModelSection, seed: int) -> None:
    model = exact(section, seed)
    ids = tokens(3, BLOCK_SIZE, seed)
    with torch.no_grad():
        together = model(ids)
        alone = torch.cat([model(row[None]) for row in ids])
        shuffled = model(ids[[2, 0, 1]])
    assert_formula(together, alone, "a single example and the same in a batch")
    assert_formula(shuffled, together[[2, 0, 1]], "the order of examples")


@given(sections(), st.integers(0, 99), st.integers(0, BLOCK_SIZE - 2))
def test_the_gradient_of_an_output_with_respect_to_later_inputs_is_exactly_zero(
    section: ModelSection, seed: int, place: int
) -> None:
    model = lively(section, seed)
    embedded = torch.zeros(0)

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal embedded
        embedded = output.detach().requires_grad_()
        return embedded

    model.embedding.register_forward_hook(keep)
    model(tokens(2, BLOCK_SIZE, seed))[0, place].sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[0, place + 1 :] == 0).all(), "a later token of the same sequence"
    assert (embedded.grad[1] == 0).all(), "another sequence of the batch"
    assert (embedded.grad[0, : place + 1] != 0).any()


@given(sections(), st.integers(0, 99))
def test_every_parameter_gets_a_finite_gradient_that_is_not_zero(section: ModelSection, seed: int) -> None:
    model = lively(section, seed).train()
    ids = tokens(4, BLOCK_SIZE + 1, seed)
    loss, auxiliary = model.loss(ids[:, :-1], ids[:, 1:])
    (loss + auxiliary).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert torch.isfinite(parameter.grad).all(), f"{name} gets a gradient that is not finite"
        # Around a feed-forward that returns its input, a norm's only gain, or a step towards the present value, may have no
        # effect.
        if section.ffn.name != "identity" or "ffn_" not in name:
            assert (parameter.grad != 0).any(), f"{name} gets a gradient of zero"


@given(sections(), st.integers(0, 99), st.integers(1, 3))
def test_a_state_can_be_repeated_and_rows_of_it_selected(section: ModelSection, seed: int, times: int) -> None:
    model = exact(section, seed)
    ids = tokens(2, BLOCK_SIZE, seed)
    half = BLOCK_SIZE // 2
    with torch.no_grad():
        state = model.new_state(2, BLOCK_SIZE, torch.float64)
        model(ids[:, :half], state)
        repeated = state.repeat(times)
        swapped = state.select(torch.tensor([1, 0]))
        expected = model(ids[:, half:], state)
        assert_formula(
            model(ids[:, half:].repeat_interleave(times, 0), repeated), expected.repeat_interleave(times, 0), "repeat"
        )
        assert_formula(model(ids[[1, 0], half:], swapped), expected[[1, 0]], "select")


def _pairs() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every mixer with every position; variants of one with the plainest of the other."""
    kinds = [{"name": name} for name in ("none", "rope", "alibi")]
    pairs = [
        *itertools.product(defaults("attention"), defaults("position")),
        *itertools.product(variants("attention"), kinds),
        *itertools.product([{"name": "mha"}], variants("position")),
    ]
    return [(attention, position) for attention, position in pairs if allowed(attention, position)]


def _triples() -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Every block with every norm, and each of these with every feed-forward; variants of one with the plainest of the others."""
    blocks, norms, ffns = (defaults(family) for family in ("block", "norm", "ffn"))
    assert len(ffns) <= min(len(blocks), len(norms)), "so that shifting by one in each pair reaches all"
    pairs = itertools.product(enumerate(blocks), enumerate(norms))
    block, norm, ffn = ([{"name": name}] for name in ("pre_norm", "layernorm", "mlp"))
    return [
        *((a, b, ffns[(i + j) % len(ffns)]) for (i, a), (j, b) in pairs),
        *itertools.product(variants("block"), norm, ffn),
        *itertools.product(block, variants("norm"), ffn),
        *itertools.product(block, norm, variants("ffn")),
    ]


def _label(value: Any) -> str:
    return "-".join(str(item) for item in value.values()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("attention", "position"), _pairs(), ids=_label)
def test_every_mixer_with_every_position_is_causal_and_decodes(attention: dict[str, Any], position: dict[str, Any]) -> None:
    section = ModelSection.model_validate(
        {"d_model": 16, "n_heads": 4, "n_layers": 2, "block_size": BLOCK_SIZE, "attention": attention, "position": position}
    )
    model = exact(section)
    assert_causal(model, 1, [1, 2, 3, 7, 8, 15, 16, BLOCK_SIZE - 1])
    assert_decodes(model, 2, [1] * 8 + [5, 1, 10])


@pytest.mark.parametrize(("block", "norm", "ffn"), _triples(), ids=_label)
def test_every_block_norm_and_feed_forward_with_every_other_is_causal_and_decodes(
    block: dict[str, Any], norm: dict[str, Any], ffn: dict[str, Any]
) -> None:
    section = ModelSection.model_validate(
        {"d_model": 8, "n_heads": 2, "n_layers": 2, "block_size": BLOCK_SIZE, "block": block, "norm": norm, "ffn": ffn}
    )
    model = exact(section)
    assert_causal(model, 1, [1, 11])
    assert_decodes(model, 2, [5, 1, 1, 10])


@given(st.data(), st.integers(0, 99))
def test_layers_that_differ_are_causal_and_decode(data: st.DataObject, seed: int) -> None:
    """Any hybrid: every entry of the layer pattern makes its own choices."""
    entries = []
    for _ in range(data.draw(st.integers(1, 3))):
        attention = data.draw(st.sampled_from(choices("attention")))
        in_layers = [p for p in choices("position") if allowed(attention, p) and p["name"] not in ("learned", "sinusoidal")]
        entry = {"attention": attention, "position": data.draw(st.sampled_from(in_layers))}
        for family in ("norm", "ffn", "block"):
            entry[family] = data.draw(st.sampled_from(choices(family)))
        entries.append(entry)
    section = ModelSection.model_validate(
        {"d_model": 16, "n_heads": 4, "n_layers": 4, "block_size": BLOCK_SIZE, "dropout": 0.0, "layers": entries}
    )
    model = exact(section, seed)
    assert_causal(model, seed, [1, data.draw(st.integers(2, BLOCK_SIZE - 1))])
    assert_decodes(model, seed, data.draw(cuts(BLOCK_SIZE)))


@given(sections(), st.integers(0, 99))
def test_under_bf16_autocast_outputs_stay_finite_and_causal(section: ModelSection, seed: int) -> None:
    model = lively(section, seed)
    ids = tokens(2, BLOCK_SIZE, seed)
    changed = ids.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % VOCAB
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before, after = model(ids), model(changed)
    assert torch.isfinite(before).all()
    if (
        section.ffn.name != "moe"
    ):  # the number of an expert's tokens sets the shapes of its products, and shapes affect rounding
        assert torch.equal(before[:, :9], after[:, :9])


@given(sections(), st.integers(0, 99))
def test_equal_seeds_give_equal_weights_and_saved_weights_give_equal_outputs(section: ModelSection, seed: int) -> None:
    def build() -> GPT:
        torch.manual_seed(seed)
        return GPT(section, VOCAB).eval()

    other = lively(section, seed + 1)
    one, two = build(), build()
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    other.load_state_dict(one.state_dict())
    ids = tokens(2, BLOCK_SIZE, seed)
    with torch.no_grad():
        assert torch.equal(one(ids), other(ids))
