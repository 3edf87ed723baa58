"""The plugin files of benchmarks/reach, each compared with an independent computation."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minigpt.contracts import Context, Draw, Prediction, Source, TokenStream
from minigpt.data import load_corpus
from minigpt.errors import DataError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, plugins
from tests.benchmarks.conftest import ROOT


@pytest.fixture(autouse=True)
def _registered(_own_registry: None) -> None:
    for name in ("unigram", "prefix_rows", "mapped_ids", "unlikelihood"):
        plugins.load_file(ROOT / "benchmarks" / "reach" / f"{name}.py")


def build(family: str, name: str, *received: Any, **params: Any) -> Any:
    return REGISTRY.resolve(family, {"name": name, **params}).build(*received)


def unigram(text: str, **params: Any) -> Any:
    tokenizer = build("tokenizer", "unigram", **params)
    tokenizer.fit(text)
    return tokenizer


def cuts(tokenizer: Any, word: bytes) -> dict[tuple[int, ...], float]:
    """All ways to cut a word into known pieces, with the product of the probabilities."""
    ids = {piece: index for index, piece in enumerate(tokenizer.p)}
    found = {}
    for count in range(len(word)):
        for places in itertools.combinations(range(1, len(word)), count):
            ends = (0, *places, len(word))
            pieces = [word[start:end] for start, end in itertools.pairwise(ends)]
            if all(piece in ids for piece in pieces):
                found[tuple(ids[piece] for piece in pieces)] = math.prod(tokenizer.p[piece] for piece in pieces)
    return found


TEXT = "banana bandana ananas band and nab; " * 30


@pytest.mark.parametrize("word", ["banana", "bandana", "nab"])
def test_a_word_is_cut_where_the_product_is_largest(word: str) -> None:
    tokenizer = unigram(TEXT, vocab_size=275)
    of = cuts(tokenizer, word.encode())
    assert len(of) > 1
    assert of[tuple(tokenizer.encode(word).tolist())] == pytest.approx(max(of.values()), rel=1e-12)


def test_the_likeliest_cut_is_not_that_of_the_likeliest_last_piece() -> None:
    tokenizer = build("tokenizer", "unigram")
    tokenizer.p = {b"a": 0.3, b"b": 0.3, b"c": 0.2, b"ab": 0.3, b"bc": 0.2, b"abc": 0.07}
    assert tokenizer.encode("abc").tolist() == [5], "0.07; all cuts before c have 0.078 together, but at most 0.06 each"


def test_a_cut_is_drawn_by_its_probability() -> None:
    tokenizer, rng = unigram(TEXT, vocab_size=275, power=0.5), np.random.default_rng(0)
    of = {cut: p**0.5 for cut, p in cuts(tokenizer, b"banana").items()}
    drawn = [tuple(tokenizer.encode("banana", rng).tolist()) for _ in range(4000)]
    for cut, weight in of.items():
        share = weight / sum(of.values())
        assert drawn.count(cut) == pytest.approx(4000 * share, abs=4 * math.sqrt(4000 * share) + 1)


def test_probabilities_are_those_of_expectation_maximisation_by_enumeration() -> None:
    """With room for all pieces, five rounds over every cut, each written out."""
    words = Counter(re.findall(r" ?\S+|\s+", TEXT))
    reference = unigram(TEXT, vocab_size=600)
    learned = reference.p
    assert len(learned) < 600
    reference.p = dict.fromkeys(learned, 1.0)
    for _ in range(5):
        counts: dict[bytes, float] = dict.fromkeys(learned, 0.0)
        pieces = list(reference.p)
        for word, times in words.items():
            of = cuts(reference, word.encode())
            for cut, product in of.items():
                for token in cut:
                    counts[pieces[token]] += times * product / sum(of.values())
        total = sum(counts[piece] + 0.5 for piece in learned)
        reference.p = {piece: (counts[piece] + 0.5) / total for piece in learned}
    assert learned == pytest.approx(reference.p, rel=1e-9)


def test_the_vocabulary_has_the_bytes_and_the_wanted_number_of_pieces() -> None:
    tokenizer = unigram(TEXT, vocab_size=275)
    assert tokenizer.vocab_size == 275
    assert sum(tokenizer.p.values()) == pytest.approx(1)
    assert tokenizer.encode("banana").size < 4
    assert tokenizer.decode(tokenizer.encode("é \ud800 ñ")) == "é \ud800 ñ"


def test_sampled_windows_are_the_text_of_the_windows() -> None:
    tokenizer = unigram(TEXT, vocab_size=275, power=0.1)
    source = Source(TokenStream(torch.from_numpy(tokenizer.encode(TEXT))), tokenizer.vocab_size, tokenizer)
    draw = Draw(1, 0, 10, 8, 12)
    sampled, plain = (
        build("batching", "unigram_sampling").batch(source, draw),
        build("batching", "windows").batch(source, draw),
    )
    assert sampled.mask is not None
    different = 0
    for row, mask, targets, window in zip(sampled.tokens, sampled.mask, sampled.targets, plain.tokens, strict=True):
        ids = [int(row[0]), *targets[mask].tolist()]
        text = tokenizer.decode(window.tolist())
        assert text.startswith(tokenizer.decode(ids))
        assert mask.all() or tokenizer.decode(ids) == text
        different += ids[:8] != window[:8].tolist()
    assert different > 4
    with pytest.raises(DataError, match="needs the tokenizer unigram"):
        build("batching", "unigram_sampling").batch(Source(source.data, 300, build("tokenizer", "byte")), draw)


def test_only_targets_after_a_prefix_count() -> None:
    source, draw = Source(TokenStream(torch.arange(500)), 500, None), Draw(1, 3, 10, 200, 20)
    batch, plain = (
        build("batching", "prefix_rows", most=0.5).batch(source, draw),
        build("batching", "windows").batch(source, draw),
    )
    assert torch.equal(batch.tokens, plain.tokens)
    assert torch.equal(batch.targets, plain.targets)
    lengths = (~batch.mask).sum(1)
    assert all(
        row.tolist() == [place >= length for place in range(20)] for row, length in zip(batch.mask, lengths, strict=True)
    )
    assert set(lengths.tolist()) == set(range(11))
    assert build("batching", "prefix_rows", most=1.0).batch(source, draw).mask.any(1).all()


def test_mapped_rows_are_those_of_the_file_and_are_not_read_before_they_are_used(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, 1003).astype("<i4")
    ids.tofile(tmp_path / "ids.bin")
    data = {"name": "mapped_ids", "path": str(tmp_path / "ids.bin"), "dtype": "int32", "length": 10, "vocab_size": 1000}
    splits = REGISTRY.resolve("dataset", data).build().load()
    assert len(splits.train.tokens) == 90
    assert isinstance(splits.train.tokens, np.memmap)
    tokens = np.concatenate([splits.train.tokens, splits.val.tokens])
    targets = np.concatenate([splits.train.targets, splits.val.targets])
    assert tokens.flatten().tolist() == ids[:1000].tolist()
    assert targets.flatten().tolist() == ids[1:1001].tolist()
    experiment = load_experiment(ROOT / "experiments" / "quickstart.json", overrides=["model.block_size=10"])
    corpus = load_corpus(experiment.model_copy(update={"data": REGISTRY.resolve("dataset", data)}))
    batch = build("batching", "windows").batch(Source(corpus.train, 1000, None), Draw(1, 0, 1, 4, 10))
    assert batch.tokens.shape == (4, 10)
    for missing in ("none.bin", "empty.bin"):
        (tmp_path / "empty.bin").write_bytes(b"\1\0\0\0" * 12)
        with pytest.raises(DataError, match="data.path"):
            build("dataset", "mapped_ids", path=str(tmp_path / missing), dtype="int32").load()


def test_unlikelihood_is_the_papers_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, dtype=torch.float64, generator=rng)
    tokens, targets = torch.randint(0, 6, (2, 2, 5), generator=rng)
    ctx = Context(torch.arange(5), nn.Module(), tokens)  # type: ignore[arg-type]
    prediction = Prediction(tokens, targets, None, logits, logits, ctx, lambda ids: logits, lambda x: x)
    loss = build("objective", "unlikelihood", None, None, weight=0.7)(prediction)
    plain, penalty = 0.0, 0.0
    for row, place in itertools.product(range(2), range(5)):
        weights = [math.exp(value) for value in logits[row, place].tolist()]
        p = [weight / sum(weights) for weight in weights]
        target = int(targets[row, place])
        plain -= math.log(p[target])
        penalty -= sum(math.log(1 - p[each]) for each in {*tokens[row, : place + 1].tolist()} - {target})
    assert loss.item() == pytest.approx(plain / 10)
    assert sum(ctx.losses).item() == pytest.approx(0.7 * penalty / 10)  # type: ignore[union-attr]
