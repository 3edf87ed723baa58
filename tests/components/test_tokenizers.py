"""Each tokenizer gives back any text, and keeps what it learned in JSON."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.components.tokenizer.utf8 import from_utf8, to_utf8
from minigpt.data import restore_tokenizer
from minigpt.errors import TokenizerError
from minigpt.model.decoding import stream_text
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from tests.components.tokenizers import fitted, tokens

NAMES = [entry.name for entry in REGISTRY.entries("tokenizer")]
OF_BYTES = ["bpe", "byte", "word"]
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))  # surrogates and NUL included


@given(st.sampled_from(NAMES), ANY_TEXT.filter(bool))
def test_decoding_returns_any_text_that_was_encoded(name: str, text: str) -> None:
    tokenizer = fitted(name, text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids.tolist()) == text
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size


@given(st.sampled_from(NAMES), ANY_TEXT.filter(bool))
def test_learned_values_are_the_same_after_json(name: str, text: str) -> None:
    tokenizer = fitted(name, text)
    other = REGISTRY.resolve("tokenizer", name).build()
    other.from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert other.vocab_size == tokenizer.vocab_size
    assert np.array_equal(other.encode(text), tokenizer.encode(text))


@given(st.sampled_from(NAMES), ANY_TEXT)
@example("word", "\ud83d\ude00")
@example("bpe", "\ud83d\ude00")
def test_learned_values_can_be_written_to_a_file(name: str, text: str) -> None:
    learned = fitted(name, text).to_json()
    written = json.dumps(learned, ensure_ascii=False).encode("utf-8")  # as run folders do
    assert json.loads(written) == learned


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", "abc"])
def test_the_empty_text_has_no_tokens(name: str, text: str) -> None:
    tokenizer = fitted(name, text)
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode([]) == ""


@given(st.sampled_from(OF_BYTES), ANY_TEXT, ANY_TEXT)
@example("bpe", "e\u0301" * 3, "he\u0301\0 \ud800\udc00\ud800")
def test_a_byte_tokenizer_encodes_any_text_after_any_fit(name: str, seen: str, text: str) -> None:
    tokenizer = fitted(name, seen)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.sampled_from(OF_BYTES), ANY_TEXT, st.lists(st.integers(0)))
def test_any_ids_decode_without_an_exception_all_at_once_or_streamed(name: str, text: str, ids: list[int]) -> None:
    tokenizer = fitted(name, text)
    ids = [token % tokenizer.vocab_size for token in ids]
    assert "".join(stream_text(iter(ids), tokenizer)) == tokenizer.decode(ids)


# Combinable bytes: an A, parts of characters of two, three and four bytes, of surrogates, of too large code points.
BYTES = st.lists(st.sampled_from(b"A\x80\x82\xa0\xa5\xbd\xc3\xe2\xed\xef\xf0\xf4"), max_size=12).map(bytes)


@given(BYTES)
@example(b"\xed\xa0\x80A")
@example(b"\xed\xa0A")
def test_later_bytes_change_at_most_the_last_character_of_a_text(raw: bytes) -> None:
    text = from_utf8(raw)
    for end in range(len(raw) + 1):
        assert text.startswith(from_utf8(raw[:end]).removesuffix("\ufffd"))


@given(BYTES)
def test_bytes_are_decoded_as_by_python_except_lone_surrogates(raw: bytes) -> None:
    if not any(a == 0xED and b >= 0xA0 for a, b in itertools.pairwise(raw)):
        assert from_utf8(raw) == raw.decode("utf-8", "replace")


@given(ANY_TEXT)
def test_bytes_of_any_text_are_decoded_next_to_invalid_bytes(text: str) -> None:
    assert from_utf8(b"\xff" + to_utf8(text) + b"\xe2\x82") == f"\ufffd{text}\ufffd"


def test_ids_are_the_same_in_another_process() -> None:
    text = "étude\n\0 zebra 𝄞"
    code = (
        "import json, minigpt.components; from minigpt.registry import REGISTRY\n"
        "def ids(name):\n"
        f"    t = REGISTRY.resolve('tokenizer', name).build(); t.fit({text!r}); return t.encode({text!r}).tolist()\n"
        f"print(json.dumps({{name: ids(name) for name in {NAMES!r}}}))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert json.loads(answer.stdout) == {name: fitted(name, text).encode(text).tolist() for name in NAMES}


def test_byte_decodes_invalid_bytes_without_an_exception() -> None:
    tokenizer = fitted("byte", "")
    assert tokenizer.decode([0xFF, 0x41]) == "\ufffdA"
    assert tokenizer.decode([0xE2, 0x82]) == "\ufffd"


def test_char_reports_a_missing_character_and_its_index() -> None:
    with pytest.raises(
        TokenizerError, match=r"character 'é' \(U\+00E9, at 3\) is not in the vocabulary of 4 characters: 'abcd'"
    ):
        fitted("char", "abcd").encode("abcé")
    with pytest.raises(TokenizerError, match="at 1"):
        fitted("char", "b").encode("ba")


# ----------------------------------------------------------------------------------------------------------------- word


def reference_pieces(text: str) -> list[str]:
    """Character by character: its kind, and whether it continues the piece."""
    pieces: list[str] = []
    before = ""
    for char in text:
        word = char.isalnum() or char == "_" or (before == "word" and unicodedata.category(char)[0] == "M")
        kind = "word" if word else "space" if char.isspace() else ""
        if kind and kind == before:
            pieces[-1] += char
        else:
            pieces.append(char)
        before = kind
    return pieces


@given(ANY_TEXT | st.text(st.sampled_from("aé_1 \n\u3000.,'-\u0301\u0915\u093f\ufe0f𝄞\x1c"), max_size=40))
def test_words_are_separated_by_the_kind_of_their_characters(text: str) -> None:
    tokenizer = fitted("word", text, max_vocab=None)
    pieces = reference_pieces(text)
    expected = {piece for piece in pieces if not "\ud800" <= piece <= "\udfff"}
    assert set(tokenizer.to_json()["pieces"]) == expected
    assert tokenizer.vocab_size == 256 + len(expected)
    if len(expected) == len(set(pieces)):
        assert tokens(tokenizer, text) == pieces


def test_words_keep_their_marks_and_unknown_words_are_encoded_as_bytes() -> None:
    text = "Hello, world!  हिन्दी cafe\u0301 snake_case\n\n"
    words = ["Hello", ",", " ", "world", "!", "  ", "हिन्दी", " ", "cafe\u0301", " ", "snake_case", "\n\n"]
    tokenizer = fitted("word", text)
    assert tokens(tokenizer, text) == words
    assert tokens(tokenizer, "Hello word") == ["Hello", " ", "w", "o", "r", "d"]
    assert tokenizer.encode("word").tolist() == list(b"word")


def test_the_most_frequent_words_are_kept_and_ties_go_by_code_points() -> None:
    text = "b a c b a c d b"
    assert fitted("word", text, max_vocab=3).to_json() == {"pieces": [" ", "b", "a"]}
    assert fitted("word", text, max_vocab=None).to_json() == {"pieces": [" ", "b", "a", "c", "d"]}
    assert fitted("word", text, max_vocab=3).vocab_size == 256 + 3
    assert fitted("word", "c a b", max_vocab=3).to_json() == fitted("word", "a b c", max_vocab=3).to_json()


# --------------------------------------------------------------------------------------------------------------- damage


def _damaged(name: str, change: dict[str, Any]) -> TokenizerError:
    tokenizers = {
        "bpe": {"name": "bpe", "vocab_size": 262, "special_tokens": ["<s>"]},
        "word": {"name": "word", "max_vocab": 5},
    }
    experiment = load_experiment({"tokenizer": tokenizers[name]})
    good = fitted(**tokenizers[name], text="the theme thereof").to_json()
    restore_tokenizer(experiment, json.loads(json.dumps(good)))
    bad = {key: value for key, value in {**good, **change}.items() if value is not ...}
    with pytest.raises(TokenizerError, match="^the learned values of the tokenizer are damaged: ") as caught:
        restore_tokenizer(experiment, bad)
    return caught.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merged": ...}, "KeyError: 'merged'"),
        ({"pattern": ...}, "KeyError: 'pattern'"),
        ({"merged": "th"}, "merged is not a list of texts"),
        ({"merged": ["th", 7]}, "merged is not a list of texts"),
        ({"merged": ["th", "th"]}, "token 257, 'th', occurs twice"),
        ({"merged": ["t"]}, "token 256, 't', occurs twice"),
        ({"merged": [""]}, "token 256, '', is not written as bytes"),
        ({"merged": ["tħ"]}, "token 256, 'tħ', is not written as bytes"),
        ({"merged": ["the", "th"]}, "token 256, 'the', is not made of two earlier ones"),
        ({"merged": ["th", "he", "em", "me", "er", "ro"]}, "6 merges, but vocab_size leaves room for 5"),
        ({"pattern": "[a-z]+"}, "pattern is '[a-z]+', but the experiment has \"(?i:'s"),
        ({"special_tokens": []}, "special_tokens is [], but the experiment has ['<s>']"),
    ],
)
def test_damaged_merges_of_bpe_are_detected(change: dict[str, Any], message: str) -> None:
    assert message in str(_damaged("bpe", change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pieces": ...}, "KeyError: 'pieces'"),
        ({"pieces": None}, "pieces are not a list of texts"),
        ({"pieces": ["a", 1]}, "pieces are not a list of texts"),
        ({"pieces": ["a", ""]}, "pieces are not a list of texts"),
        ({"pieces": ["a", "b", "a"]}, "a piece occurs twice: 'a'"),
        ({"pieces": list("abcdef")}, "6 pieces, but max_vocab is 5"),
    ],
)
def test_damaged_words_are_detected(change: dict[str, Any], message: str) -> None:
    assert message in str(_damaged("word", change))
