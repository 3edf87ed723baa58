"""Embeddings and objectives against their papers' formulas, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt.contracts import Context, Embedding
from minigpt.errors import ExperimentError
from minigpt.experiment import ModelSection
from minigpt.model import GPT
from tests.components.formulas import DIMS, build, context, ids, model
from tests.rounding import assert_formula, normal

VOCAB = DIMS.vocab_size

# ---------------------------------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("tied", [True, False])
def test_a_factorised_table_is_a_product_of_two(tied: bool) -> None:
    embedding = build("embedding", "factorised", DIMS, rank=5, tied=tied)
    head = embedding.build_head()
    assert (head is None) == tied
    head = head if head is None else head.double()
    ctx, x = context(), normal(2, 7, 12)
    whole = embedding.table.weight @ embedding.up.weight.T  # [V, D]
    assert_formula(embedding(ctx.tokens, ctx), whole[ctx.tokens])
    assert_formula(embedding.logits(x, head), x @ (whole.T if head is None else head.weight.T))


def test_ngram_hash_adds_one_row_for_each_ngram_inside_the_text_and_its_segment() -> None:
    orders, buckets = [2, 3], 7
    embedding = build("embedding", "ngram_hash", DIMS, orders=orders, buckets=buckets)
    tokens = ids(3, 9)
    segments = torch.tensor([[0] * 9, [0] * 4 + [1] * 5, [0, 1, 1, 2, 2, 2, 2, 3, 3]])
    for given in (None, segments):
        expected = embedding.inner.weight[tokens].clone()
        for row in range(3):
            for t in range(9):
                for order, table in zip(orders, embedding.tables, strict=True):
                    if t < order - 1 or (given is not None and given[row, t - order + 1] != given[row, t]):
                        continue
                    hashed = 0
                    for token in tokens[row, t - order + 1 : t + 1].tolist():
                        hashed = (hashed * 1_000_003 + token + 1) % (2**31 - 1)
                    expected[row, t] += table.weight[hashed % buckets]
        ctx = Context(torch.arange(9), context().position, tokens, segments=given)
        assert_formula(embedding(tokens, ctx), expected)


def test_ngrams_of_different_tokens_use_different_rows() -> None:
    """With many rows, no two of 81 bigrams share one: the order of the tokens matters."""
    embedding = build("embedding", "ngram_hash", DIMS, orders=[2], buckets=100_003)
    pairs = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB))
    rows = embedding._buckets(pairs, 2, 1)[:, 0]
    assert len(set(rows.tolist())) == VOCAB**2


def test_a_mixture_of_softmaxes_is_a_mixture_of_probabilities() -> None:
    embedding = build("embedding", "mixture_of_softmaxes", DIMS, n_softmaxes=3)
    x = normal(2, 5, 12)
    share = (x @ embedding.prior.weight.T + embedding.prior.bias).softmax(-1)
    expected = torch.zeros(2, 5, VOCAB, dtype=torch.float64)
    for k in range(3):
        part = slice(12 * k, 12 * (k + 1))
        latent = torch.tanh(x @ embedding.latent.weight[part].T + embedding.latent.bias[part])
        expected += share[..., [k]] * (latent @ embedding.inner.weight.T).softmax(-1)
    assert_formula(embedding.logits(x, None).exp(), expected)
    assert_formula(embedding.logits(x, None).softmax(-1), expected)


# ---------------------------------------------------------------------------------------------------------- objectives


def mean_of(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()


@pytest.mark.parametrize("masked", [False, True])
def test_label_smoothing_and_z_loss_by_hand(masked: bool) -> None:
    built = model(objective={"name": "next_token", "label_smoothing": 0.2, "z_loss": 0.05})
    tokens, targets = ids(2, 6), ids(2, 6, seed=1)
    mask = torch.rand(2, 6, generator=torch.Generator().manual_seed(3)) < 0.6 if masked else None
    logits = built(tokens)
    smoothed, partitions = [], []
    for row in range(2):
        for t in range(6):
            if mask is not None and not mask[row, t]:
                continue
            log_z = logits[row, t].exp().sum().log()
            log_p = logits[row, t] - log_z
            wanted = torch.full((VOCAB,), 0.2 / VOCAB, dtype=torch.float64)
            wanted[targets[row, t]] += 0.8
            smoothed.append(-(wanted * log_p).sum())
            partitions.append(log_z**2)
    loss, auxiliary = built.loss(tokens, targets, mask)
    assert_formula(loss, mean_of(smoothed))
    assert_formula(auxiliary, 0.05 * mean_of(partitions))


@pytest.mark.parametrize("style", ["parallel", "sequential"])
@pytest.mark.parametrize("kind", ["plain", "masked", "segments"])
def test_further_tokens_are_predicted_by_the_papers_formula(style: str, kind: str) -> None:
    """Gloeckle et al. 2024, equation 2; DeepSeek-V3, equations 21 to 25."""
    batch, time, n_future, weight = 2, 7, 2, 0.3
    objective = {"name": "multi_token", "n_future": n_future, "style": style, "weight": weight}
    built = model(objective=objective)
    text = ids(batch, time + 1)
    tokens, targets = text[:, :-1], text[:, 1:]
    counts = torch.rand(batch, time, generator=torch.Generator().manual_seed(3)) < 0.6
    mask = counts if kind == "masked" else None
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 2, 2]]) if kind == "segments" else None
    counted = int(mask.sum()) if mask is not None else batch * time
    hidden, ctx = built.hidden(tokens, segments=segments)
    before, losses = hidden, []
    for k, module in enumerate(built.objective.further, 1):
        given = hidden
        if style == "sequential":  # h'_i = M [norm(h_i); norm(e(t_(i + k)))], places past the end do not count
            between = torch.stack([text[:, min(i + k, time)] for i in range(time)], 1)
            joined = (module.hidden_norm(before), module.token_norm(built.embedding.weight[between]))
            given = torch.cat(joined, -1) @ module.join.weight.T
        before = module.block(given, Context(ctx.positions, ctx.position, tokens, outputs=[given], segments=segments))
        logits = module.norm(before) @ built.embedding.weight.T
        total = torch.zeros((), dtype=torch.float64)
        for row in range(batch):
            for i in range(time - k):  # the target of place i is the token i + k + 1
                if mask is not None and not mask[row, i + k]:
                    continue
                if segments is not None and segments[row, i] != segments[row, i + k]:
                    continue
                total -= logits[row, i].log_softmax(-1)[text[row, i + k + 1]]
        losses.append(total / counted)
    loss, auxiliary = built.loss(tokens, targets, mask, segments)
    assert_formula(auxiliary, weight * mean_of(losses))
    plain = model()
    plain.load_state_dict({name: value for name, value in built.state_dict().items() if "objective" not in name})
    assert torch.equal(loss, plain.loss(tokens, targets, mask, segments)[0])


# ------------------------------------------------------------------------------------- segments, and earlier tokens


@pytest.mark.parametrize("attention", ["mha", "gqa", "forgetting", "differential", {"name": "mha", "window": 3}])
def test_segments_equal_each_segment_alone(attention: Any) -> None:
    """Without positions, so that a segment does not depend on where it begins."""
    built = model(attention=attention, position="none")
    tokens, ends = ids(2, 11), [[0, 4, 11], [0, 7, 11]]
    segments = torch.tensor([[0] * 4 + [5] * 7, [3] * 7 + [1] * 4])
    together, _ = built.hidden(tokens, segments=segments)
    for row, places in enumerate(ends):
        for start, end in itertools.pairwise(places):
            alone, _ = built.hidden(tokens[[row], start:end])
            assert_formula(together[[row], start:end], alone)


@pytest.mark.parametrize("attention", ["mha", "gated_delta_net", {"name": "mha", "window": 4}])
def test_the_loss_with_memory_is_that_of_the_same_tokens_in_the_longer_sequence(attention: Any) -> None:
    built = model(attention=attention, position="rope" if isinstance(attention, dict) else "none")
    text = ids(2, 13)
    memory, tokens, targets = text[:, :5], text[:, 5:-1], text[:, 6:]
    with torch.no_grad():
        loss, _ = built.loss(tokens, targets, memory=memory)
        counts = (torch.arange(12) >= 5).expand(2, -1)
        longer = built.cross_entropy(text[:, :-1], text[:, 1:], counts)
        assert_formula(loss.double(), longer.double())
        assert not math.isclose(loss.item(), built.loss(tokens, targets)[0].item(), rel_tol=1e-3)


def test_memory_beyond_the_positions_of_a_model_is_refused() -> None:
    built = GPT(ModelSection.model_validate({"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 8}), VOCAB)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    with pytest.raises(ExperimentError, match="are 11 together, but positions end at 7; choose another model.position"):
        built.loss(tokens, tokens, memory=tokens[:, :3])


def test_memory_gets_no_gradient() -> None:
    """The vector of a token that is only in the memory is not trained by it, with an untied head."""
    built = model(embedding={"name": "table", "tied": False})
    tokens = torch.tensor([[1, 2, 3]])
    loss, _ = built.loss(tokens, tokens.roll(-1, 1), memory=torch.tensor([[7, 8]]))
    torch.autograd.backward(loss)
    assert isinstance(built.embedding, Embedding)
    grad = built.embedding.get_parameter("weight").grad
    assert grad is not None
    assert grad[[7, 8]].abs().max() == 0
    assert (grad[[1, 2, 3]].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("style", ["parallel", "sequential"])
def test_further_layers_read_the_streams_of_earlier_layers(style: str) -> None:
    small = {"d_model": 16, "n_heads": 2, "n_layers": 4, "block_size": 16, "block": "unet"}
    objective = {"name": "multi_token", "style": style}
    built = GPT(ModelSection.model_validate({**small, "objective": objective}), VOCAB)
    tokens = torch.arange(12)[None] % VOCAB
    loss, further = built.loss(tokens, tokens.roll(-1, 1))
    assert torch.isfinite(loss + further)
    (skip,) = [p for name, p in built.objective.named_parameters() if name.endswith("skip_weight")]
    torch.autograd.backward(further)
    assert skip.grad is not None
    assert skip.grad != 0
