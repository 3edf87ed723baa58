from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError
from minigpt.registry import REGISTRY
from tests.plugins.conftest import Build, Train

MARK = 0

texts = st.text(st.characters(codec=None, categories=None))  # every code point, lone surrogates included


def fitted(text: str) -> Tokenizer:
    tokenizer = REGISTRY.resolve("tokenizer", "case_marking").build()
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.fit(text)
    return tokenizer


@given(texts)
def test_decoding_returns_any_encoded_text(text: str) -> None:
    tokenizer = fitted(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == tokenizer.decode(ids.tolist()) == text


def test_decoding_returns_every_character_that_could_have_a_case() -> None:
    everything = "".join(map(chr, range(0x20000)))  # the first two planes: letters of other planes have no case
    tokenizer = fitted(everything)
    ids = tokenizer.encode(everything)
    assert tokenizer.decode(ids) == everything
    capitals = int((ids == MARK).sum())
    assert 1300 < capitals < 2000, "Latin, Greek, Cyrillic, ..."
    assert tokenizer.vocab_size == 1 + len(everything) - capitals


def test_a_capital_is_the_mark_and_its_lower_case_letter() -> None:
    tokenizer = fitted("the cat.É")
    small, mixed = tokenizer.encode("the cat").tolist(), tokenizer.encode("The CaT").tolist()
    assert mixed == [MARK, *small[:4], MARK, *small[4:6], MARK, small[6]]
    assert tokenizer.encode("éÉ").tolist()[1:] == [MARK, tokenizer.encode("é")[0]]


@pytest.mark.parametrize("character", "İıßẞǅſ\u212a\u2126µϴς1.\n\0\ud800\u0301𝐀")
def test_a_capital_without_a_unique_lower_case_letter_is_a_separate_character(character: str) -> None:
    ids = fitted(character + "aikωθσsµßǆ").encode(character)
    assert len(ids) == 1
    assert ids[0] != MARK


def test_a_known_letter_can_be_encoded_as_a_capital_too() -> None:
    assert fitted("abc").vocab_size == fitted("ABC").vocab_size == fitted("aAbBcC").vocab_size == 4
    assert fitted("abc").decode(fitted("ABC").encode("cAb")) == "cAb"


@pytest.mark.parametrize(("text", "name", "place"), [("abx", "x", 2), ("aXb", "X", 1), ("Ba\u0130", "\u0130", 2)])
def test_an_unknown_character_is_reported_with_its_index(text: str, name: str, place: int) -> None:
    with pytest.raises(TokenizerError, match=rf"character '{name}' \(U\+{ord(name):04X}, at {place}\) is not in the"):
        fitted("ab").encode(text)


def test_any_ids_are_text_and_marks_without_a_letter_are_replacement_characters() -> None:
    """Every row of four ids; the expected text comes from writing marks as ^ and replacing them by capitals."""
    tokenizer = fitted(".aßλ")
    for ids in itertools.product(range(5), repeat=4):
        written = "".join("^.aßλ"[token] for token in ids).replace("^a", "A").replace("^λ", "Λ").replace("^", "\ufffd")
        assert tokenizer.decode(ids) == written


def test_learned_values_are_the_same_after_json() -> None:
    tokenizer = fitted("Grüße, ΑΣΣ \ud800\0")
    learned = json.loads(json.dumps(tokenizer.to_json()))
    restored = fitted("")
    assert restored.vocab_size == 1
    restored.from_json(learned)
    assert restored.to_json() == tokenizer.to_json()
    text = "GRÜße σΣ\ud800"
    assert restored.encode(text).tolist() == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("codes", [[98, 97], [97, 97], ["a"], "ab", [-1], [2**40], None])
def test_damaged_values_are_refused(build: Build, codes: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError)):
        build().from_json({"code_points": codes})


def test_its_experiment_trains_and_writes_text(train_experiment: Train) -> None:
    outcome = train_experiment()
    assert outcome.sample is not None
    assert outcome.sample.startswith("The ")
    learned = json.loads((outcome.run.path / "tokenizer.json").read_text())
    assert ord("t") in learned["code_points"]
    assert ord("T") not in learned["code_points"]
