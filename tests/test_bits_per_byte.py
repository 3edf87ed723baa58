"""Bits per byte divide by the bytes of the predicted tokens: all of the validation text except its first token."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Tokenizer
from minigpt.data import Corpus, load_corpus
from minigpt.model import build_model
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run.evaluation import Measured, Scorer, evaluate

SMALL = {"d_model": 4, "n_heads": 1, "n_layers": 1, "block_size": 8, "dropout": 0.0}
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


def corpus_of(text: str, tokenizer: str) -> tuple[Corpus, Measured]:
    """A corpus with this validation text, and the scores of an untrained model on it."""
    with tempfile.TemporaryDirectory() as folder:
        train, val = Path(folder) / "train.txt", Path(folder) / "val.txt"
        train.write_bytes(b"Something else to learn from, with spaces.")
        val.write_bytes(text.encode())
        data = {"name": "text", "paths": [str(train)], "val_path": str(val), "errors": "any"}
        experiment = load_experiment({"data": data, "tokenizer": tokenizer, "model": SMALL})
        corpus = load_corpus(experiment)
    return corpus, evaluate(Scorer(build_model(experiment, corpus.vocab_size), corpus, experiment, "fp32"))


@given(TEXTS)
def test_with_one_token_per_byte_bits_per_byte_are_the_loss_over_ln_2(text: str) -> None:
    text += "e"  # at least two tokens
    corpus, scores = corpus_of(text, "byte")
    assert corpus.val_bytes == len(text.encode()) - 1
    assert scores.val_bits_per_byte == pytest.approx(scores.val_loss / math.log(2), rel=1e-12)


def test_half_a_character_counts_its_own_bytes() -> None:
    corpus, scores = corpus_of("日" * 400, "byte")
    assert corpus.val_bytes == 3 * 400 - 1
    assert scores.val_bits_per_byte == pytest.approx(scores.val_loss / math.log(2), rel=1e-12)


@given(TEXTS, st.sampled_from(["bpe", "char", "word"]))
def test_bytes_of_the_first_token_are_not_predicted(text: str, name: str) -> None:
    text += "日"
    corpus, _ = corpus_of(text + text, name)
    tokenizer = corpus.tokenizer
    assert isinstance(tokenizer, Tokenizer)
    (first, *_) = tokenizer.encode(text + text).tolist()
    shown = tokenizer.decode([first])
    if "\ufffd" not in shown + text:  # whole characters
        assert corpus.val_bytes == len((text + text).removeprefix(shown).encode())
    assert corpus.val_bytes == len((text + text).encode()) - tokenizer.n_bytes([first], text + text)


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=30)


@given(ANY_TEXT, st.sampled_from(["bpe", "byte", "word"]))
def test_byte_ids_count_the_same_wherever_a_text_is_cut(text: str, name: str) -> None:
    tokenizer = REGISTRY.resolve("tokenizer", name).build()
    tokenizer.fit(text)
    ids = tokenizer.encode(text).tolist()
    whole = len(text.encode("utf-8", "surrogatepass"))
    for cut in range(len(ids) + 1):
        assert tokenizer.n_bytes(ids[:cut], text) + tokenizer.n_bytes(ids[cut:], text) == whole
