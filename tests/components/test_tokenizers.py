from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError
from minigpt.registry import REGISTRY

NAMES = [entry.name for entry in REGISTRY.entries("tokenizer")]
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # surrogates, NUL and all


def fitted(name: str, text: str) -> Tokenizer:
    tokenizer = REGISTRY.resolve("tokenizer", name).build()
    assert isinstance(tokenizer, Tokenizer)
    tokenizer.fit(text)
    return tokenizer


@given(st.sampled_from(NAMES), ANY_TEXT.filter(bool))
def test_decoding_gives_back_any_text_that_was_encoded(name: str, text: str) -> None:
    tokenizer = fitted(name, text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size


@given(st.sampled_from(NAMES), ANY_TEXT.filter(bool))
def test_what_was_learned_survives_json(name: str, text: str) -> None:
    tokenizer = fitted(name, text)
    other = REGISTRY.resolve("tokenizer", name).build()
    other.from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert other.vocab_size == tokenizer.vocab_size
    assert np.array_equal(other.encode(text), tokenizer.encode(text))


@pytest.mark.parametrize("name", NAMES)
def test_the_empty_text_has_no_tokens(name: str) -> None:
    tokenizer = fitted(name, "abc")
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_same_in_another_process(name: str) -> None:
    text = "étude\n\0 zebra 𝄞"
    code = (
        "import sys, minigpt.components; from minigpt.registry import REGISTRY\n"
        f"t = REGISTRY.resolve('tokenizer', {name!r}).build(); t.fit({text!r}); print(t.encode({text!r}).tolist())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert json.loads(answer.stdout) == fitted(name, text).encode(text).tolist()


def test_byte_decodes_what_is_no_text_without_an_exception() -> None:
    tokenizer = fitted("byte", "")
    assert tokenizer.decode([0xFF, 0x41]) == "\ufffdA"
    assert tokenizer.decode([0xE2, 0x82]) == "\ufffd"


def test_char_names_the_character_it_lacks_and_its_place() -> None:
    with pytest.raises(
        TokenizerError, match=r"character 'é' \(U\+00E9, at 3\) is not in the vocabulary of 4 characters: 'abcd'"
    ):
        fitted("char", "abcd").encode("abcé")
    with pytest.raises(TokenizerError, match="at 1"):
        fitted("char", "b").encode("ba")
