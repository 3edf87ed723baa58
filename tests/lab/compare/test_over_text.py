"""Tests of the losses in blocks of the validation text, and of the intervals over it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.components.tokenizer.byte import ByteTokenizer
from minigpt.components.tokenizer.char import CharTokenizer
from minigpt.components.tokenizer.word import WordTokenizer
from minigpt.contracts import Splits, Tokenizer
from minigpt.data import load_corpus
from minigpt.lab.compare.blocks import Blocks, measure, token_starts
from minigpt.lab.compare.over_text import notes_on_text, text_interval
from minigpt.lab.compare.record import TextInterval
from minigpt.lab.compare.tables import verdict_table
from minigpt.model import build_model
from minigpt.reading import load_experiment
from tests.lab.compare.conftest import Write
from tests.lab.compare.results import comparison, run

TEXTS = st.lists(st.text("abé \n", min_size=1, max_size=6), min_size=1, max_size=8)


@given(TEXTS, st.sampled_from([0.1, 0.5, 0.9]))
def test_documents_of_both_splits_are_those_of_the_text(texts: list[str], fraction: float) -> None:
    splits = Splits.of_documents(texts, "|", fraction)
    pieces = []
    for text, starts in ((splits.train, splits.documents), (splits.val, splits.val_documents)):
        assert isinstance(text, str)
        assert starts is not None
        pieces += [text[start:end] for start, end in pairwise((*starts, len(text)))]
    whole = [text + "|" for text in texts[:-1]] + texts[-1:]
    assert "".join(pieces) == "".join(whole)
    assert len([piece for piece in pieces if piece]) <= len(whole) + 1, "at most one document is cut"
    assert {piece[-1] for piece in pieces[:-1] if piece} <= {"|", splits.train[-1:]}


@given(TEXTS, st.sampled_from([CharTokenizer, ByteTokenizer, WordTokenizer]))
def test_each_block_of_documents_is_made_of_whole_documents_and_whole_tokens(
    texts: list[str], kind: type[Tokenizer]
) -> None:
    text, tokenizer = "".join(texts), kind()
    tokenizer.fit(text)
    ids = np.asarray(tokenizer.encode(text))
    starts = [sum(map(len, texts[:number])) for number in range(len(texts))]
    places = token_starts(tokenizer, text, ids, tuple(starts))
    assert {character for character, _ in places} <= set(starts)
    assert kind is WordTokenizer or len(places) == len(texts), "every character ends a token"
    for (start, token), (end, next_token) in pairwise([*places, (len(text), len(ids))]):
        assert tokenizer.decode(ids[token:next_token]) == text[start:end]


def test_losses_are_summed_by_document_if_there_are_many(write: Write) -> None:
    Path("val").mkdir()
    texts = [f"{number} is the number of this text, é.\n" * (1 + number % 3) for number in range(100, 125)]
    for number, text in enumerate(texts):
        Path(f"val/{number:02}.txt").write_text(text, "utf-8")
    data = {"name": "text", "paths": ["corpus.txt"], "val_path": "val"}
    experiment = load_experiment(write("base", data=data, tokenizer="byte"))
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size).eval()
    measured = measure(model, corpus, experiment).blocks
    assert measured.kind == "documents"
    lengths = [len((text + "\n").encode()) for text in texts]
    lengths[0] -= 1  # the first byte is not predicted
    lengths[-1] -= 1  # no separator
    assert measured.targets == measured.bytes == tuple(lengths)
    with torch.no_grad():
        each = [model.target_losses(batch.tokens, batch.targets).flatten() for batch in corpus.val.windows(1, 16)]
    expected = [part.sum().item() for part in torch.cat(each).split(lengths)]
    assert measured.losses == pytest.approx(expected, rel=1e-5)
    few = replace(corpus, val_documents=(corpus.val_documents or ())[:19])
    assert measure(model, few, experiment).blocks.kind == "windows"


def blocks(losses: Any, **others: Any) -> Blocks:
    n = len(losses)
    values = {"kind": "documents", "starts": range(0, 10 * n, 10), "targets": [7] * n, "bytes": [10] * n}
    return Blocks(**{**values, "losses": losses, "all_bytes": 10 * n, "tokenizer": "a", **others})


def test_the_interval_is_that_of_the_mean_over_seeds_in_each_block() -> None:
    draw = np.random.default_rng(0)
    base, variant = draw.normal(14, 1, (2, 3, 30))
    found = text_interval([blocks(each) for each in variant], [blocks(each) for each in base], "nats")
    assert found.blocks == pytest.approx((variant - base).mean(0) / 7)
    assert found.bounds is not None
    assert found.bounds[0] < (variant - base).mean() / 7 < found.bounds[1]
    in_bits = text_interval([blocks(each) for each in variant], [blocks(each) for each in base], "bits-per-byte")
    assert in_bits.bounds == pytest.approx([bound * 7 / 10 / math.log(2) for bound in found.bounds])


def test_blocks_of_different_tokenizers_are_joined_where_both_have_a_boundary() -> None:
    base = blocks([1.0] * 30)
    variant = blocks(
        [6.0] + [3.0] * 28, starts=[0, *range(20, 300, 10)], targets=[4] * 29, bytes=[20] + [10] * 28, tokenizer="b"
    )
    found = text_interval([variant] * 3, [base] * 3, "bits-per-byte")
    assert found.blocks == pytest.approx([2 / 10 / math.log(2)] * 29)
    windows = [blocks([1.0] * 30, kind="windows", bytes=(), tokenizer=name) for name in "ab"]
    found = text_interval([windows[0]] * 3, [windows[1]] * 3, "bits-per-byte")
    assert found.reason == "the tokenizers differ, and the corpus has too few documents to align blocks by"
    assert text_interval([windows[0]] * 2, [windows[0]] * 2, "nats").reason.startswith("with fewer than 3 seeds")


@pytest.mark.parametrize(("bounds", "noted"), [((-0.2, -0.1), False), ((-0.2, 0.1), True), (None, False)])
def test_a_verdict_that_another_text_could_contradict_is_noted(bounds: tuple[float, float] | None, noted: bool) -> None:
    found = comparison(base=[run(seed) for seed in range(3)], mine=[run(seed, 0.9) for seed in range(3)])
    over = TextInterval(kind="windows", bounds=bounds, blocks=(-0.1,) * 20, reason="" if bounds else "it is too short")
    difference = found.variants[1].difference
    assert difference is not None
    changed = found.variants[1].model_copy(update={"difference": difference.model_copy(update={"text_interval": over})})
    found = found.model_copy(update={"variants": (found.base, changed)})
    lines = notes_on_text(found)
    note = (
        "mine: better on this text, but the interval over text (-0.2000 to +0.1000, 20 blocks of windows) contains 0, so "
        "another text could show otherwise"
    )
    assert (note in lines) == noted
    assert ("mine: no interval over text: it is too short" in lines) == (bounds is None)
    assert ("95 % interval over text" in verdict_table(found).columns) == (bounds is not None)
