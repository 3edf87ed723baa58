"""Byte pair encoding: held to the paper's algorithm, the published patterns, and its special tokens."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import regex
import rustbpe
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.components.tokenizer.utf8 import from_utf8
from minigpt.errors import ExperimentError
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from tests.components.tokenizers import fitted, tokens

PUBLISHED = {
    "gpt2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "gpt4": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
}


def reference_merges(text: str, pattern: str, n_merges: int) -> dict[tuple[int, int], int]:
    """Sennrich et al. 2016, algorithm 1, on bytes: count pairs, including overlapping ones; of equally frequent pairs merge the one with the lowest ids."""
    pieces = [list(piece.encode()) for piece in regex.findall(PUBLISHED[pattern], text)]
    merges: dict[tuple[int, int], int] = {}
    while len(merges) < n_merges:
        pairs = Counter(pair for piece in pieces for pair in itertools.pairwise(piece))
        if not pairs:
            break
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges[pair] = 256 + len(merges)
        pieces = [merged(piece, pair, merges[pair]) for piece in pieces]
    return merges


def merged(piece: list[int], pair: tuple[int, int], token: int) -> list[int]:
    result: list[int] = []
    while piece:
        if tuple(piece[:2]) == pair:
            result, piece = [*result, token], piece[2:]
        else:
            result, piece = [*result, piece[0]], piece[1:]
    return result


def reference_ids(text: str, pattern: str, merges: dict[tuple[int, int], int]) -> list[int]:
    ids: list[int] = []
    for word in regex.findall(PUBLISHED[pattern], text):
        piece = list(word.encode())
        for pair, token in merges.items():  # in the order of learning
            piece = merged(piece, pair, token)
        ids += piece
    return ids


def reference_bytes(merges: dict[tuple[int, int], int]) -> list[bytes]:
    known = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        known.append(known[left] + known[right])
    return known


SMALL = st.text(st.sampled_from("aaabbc'sSlé1 \n\r.\u3000\u0301𝄞"), max_size=60)


@given(st.sampled_from(["gpt2", "gpt4"]), SMALL, SMALL, st.integers(0, 30))
@example("gpt2", "aaaaa aaaa aaa", "aaaaaaaaa aa", 30)
@example("gpt4", "ababab abab. abc\r\n\n1111 I'S", "abababab 11 '' 'Sa", 12)
def test_bpe_learns_and_encodes_as_in_the_paper(pattern: str, text: str, other: str, n_merges: int) -> None:
    tokenizer = fitted("bpe", text, vocab_size=256 + n_merges, pattern=pattern)
    merges = reference_merges(text, pattern, n_merges)
    known = reference_bytes(merges)
    assert tokenizer.to_json()["merged"] == [token.decode("latin-1") for token in known[256:]]
    assert tokenizer.vocab_size == len(known)
    for sentence in (text, other):
        assert tokenizer.encode(sentence).tolist() == reference_ids(sentence, pattern, merges)
    for token, raw in enumerate(known):
        assert tokenizer.decode([token]) == from_utf8(raw)


def test_bpe_merges_the_textbook_example() -> None:
    tokenizer = fitted("bpe", "aaabdaaabac", vocab_size=259)
    assert tokenizer.to_json()["merged"] == ["aa", "ab", "aaab"]
    assert tokens(tokenizer, "aaabdaaabac") == ["aaab", "d", "aaab", "a", "c"]


@pytest.mark.parametrize(
    ("text", "gpt2", "gpt4"),
    [
        ("Hello world", ["Hello", " world"], ["Hello", " world"]),
        # Hugging Face's course, chapter 6.4, shows GPT-2's
        ("Hello, how are  you?", ["Hello", ",", " how", " are", " ", " you", "?"], None),
        ("I'll go", ["I", "'ll", " go"], ["I", "'ll", " go"]),
        ("I'LL GO", ["I", "'", "LL", " GO"], ["I", "'LL", " GO"]),
        ("  two spaces", [" ", " two", " spaces"], [" ", " two", " spaces"]),
        ("the end  ", ["the", " end", "  "], ["the", " end", "  "]),
        ("12345", ["12345"], ["123", "45"]),
        ("in 2024", ["in", " 2024"], ["in", " ", "202", "4"]),
        ("(self)", ["(", "self", ")"], ["(self", ")"]),
        ("x;\n\ny", ["x", ";", "\n", "\n", "y"], ["x", ";\n\n", "y"]),
        ("x  \n  y", ["x", "  \n ", " y"], ["x", "  \n", " ", " y"]),
        ("a_b", ["a", "_", "b"], ["a", "_b"]),
        ("naïve 日本", ["naïve", " 日本"], ["naïve", " 日本"]),
        ("e\u0301t", ["e", "\u0301", "t"], ["e", "\u0301t"]),
    ],
)
def test_text_is_cut_as_by_the_published_patterns(text: str, gpt2: list[str], gpt4: list[str] | None) -> None:
    # With room for every merge each piece ends as one token.
    assert tokens(fitted("bpe", text, vocab_size=2000, pattern="gpt2"), text) == gpt2
    assert tokens(fitted("bpe", text, vocab_size=2000, pattern="gpt4"), text) == (gpt4 or gpt2)


def test_a_small_text_gives_fewer_tokens_than_vocab_size_and_vocab_size_follows() -> None:
    assert fitted("bpe", "").vocab_size == 256
    assert fitted("bpe", "ab ab").vocab_size == 256 + 2, "ab, and ab after a space"
    assert fitted("bpe", "ab ab", vocab_size=257).vocab_size == 257
    assert fitted("bpe", "ab ab", special_tokens=["<a>", "<b>"]).vocab_size == 256 + 2 + 2


def test_bpe_learns_the_same_in_any_number_of_threads() -> None:
    text = " ".join(f"{first}{second}" for first in "abcdefghijklmnop" for second in "qrstuvwxyz")  # ties everywhere
    code = (
        "import rustbpe; t = rustbpe.Tokenizer()\n"
        f"t.train_from_iterator([{text!r}] * 50, 400, pattern={PUBLISHED['gpt4']!r})\n"
        "print([bytes(token).decode('latin-1') for token, rank in t.get_mergeable_ranks()][256:])"
    )
    expected = fitted("bpe", text, vocab_size=400).to_json()["merged"]
    for threads in ("1", "2", "5"):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads}
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert answer.stdout == f"{expected}\n"


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_long_text_is_encoded_as_if_it_were_never_cut(pattern: str) -> None:
    rng = np.random.default_rng(0)
    words = ["the", "of", "Étude", "x1", "1234", "don't", "_", "\n", "\n\n", "   ", "...", "§"]
    text = " ".join(words[index] for index in rng.integers(0, len(words), 150_000))
    assert len(text) > 2 * 262_144
    tokenizer = fitted("bpe", text, vocab_size=300, pattern=pattern)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator([text], 300, pattern=PUBLISHED[pattern])
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    assert [token.decode("latin-1") for token in ranks][256:] == tokenizer.to_json()["merged"]
    whole = tiktoken.Encoding("whole", pat_str=PUBLISHED[pattern], mergeable_ranks=ranks, special_tokens={})
    assert tokenizer.encode(text).tolist() == whole.encode_ordinary(text)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
@pytest.mark.parametrize("unit", [" ", "\n", " \n", "a", "!", "1"])
def test_bpe_encodes_a_million_equal_characters(pattern: str, unit: str) -> None:
    text = unit * 1_100_000 + "x"
    tokenizer = fitted("bpe", text, pattern=pattern)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.from_json(tokenizer.to_json())


def test_a_lone_surrogate_is_encoded_as_its_three_bytes() -> None:
    tokenizer = fitted("bpe", "ab\ud800ab \udfff" * 5)
    assert tokenizer.to_json()["merged"] == ["ab"]
    assert tokenizer.encode("ab\ud800ab").tolist() == [256, 0xED, 0xA0, 0x80, 256]


def test_text_is_ordinary_unless_it_is_listed_as_special() -> None:
    text = "one<|end|>two<|end|>" * 5
    ordinary = fitted("bpe", text)
    assert tokens(ordinary, "one<|end|>") == ["one", "<|", "end", "|>"]
    special = fitted("bpe", text, special_tokens=["<|end|>", "<|pad|>"])
    assert special.vocab_size == 256 + 4 + 2
    assert special.encode("one<|end|><|pad|>two").tolist() == [257, 260, 261, 259], "after the merges, in the given order"
    assert tokens(special, "one<|end|><|pad|>two") == ["one", "<|end|>", "<|pad|>", "two"]
    assert tokens(special, "<|en") == ["<", "|", "e", "n"]


def test_merges_neither_see_special_tokens_nor_cross_them() -> None:
    tokenizer = fitted("bpe", "ab#c#" * 9, special_tokens=["#"])
    assert tokenizer.to_json()["merged"] == ["ab"]
    assert tokens(tokenizer, "a#b#abc") == ["a", "#", "b", "#", "ab", "c"]


def test_of_special_tokens_with_the_same_start_the_longest_matches() -> None:
    for listed in (["<s>", "<s>>"], ["<s>>", "<s>"]):
        assert tokens(fitted("bpe", "", special_tokens=listed), "<s>>><s>") == ["<s>>", ">", "<s>"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"vocab_size": 255}, "vocab_size: found 255 (number); allowed: at least 256"),
        (
            {"vocab_size": 256, "special_tokens": ["<s>"]},
            "bpe: vocab_size 256 is too small; at least 257: 256 bytes and the special tokens",
        ),
        ({"special_tokens": [""]}, "special_tokens: a special token must not be empty"),
        ({"special_tokens": ["<s>", "<s>"]}, "special_tokens: '<s>' occurs twice"),
        ({"special_tokens": ["a\ud800"]}, "special_tokens: 'a\\ud800' has half a character"),
        ({"pattern": "gpt3"}, "pattern: found \"gpt3\" (text); allowed: 'gpt2' or 'gpt4'"),
    ],
)
def test_invalid_parameters_of_bpe_are_reported(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        REGISTRY.resolve("tokenizer", {"name": "bpe", **params}).build()
    assert message in str(caught.value)


@pytest.mark.parametrize("package", ["rustbpe", "tiktoken"])
def test_a_missing_package_is_reported_when_the_experiment_is_read(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    with pytest.raises(ExperimentError) as caught:
        load_experiment({"tokenizer": "bpe"})
    (problem,) = caught.value.problems
    assert str(problem).startswith("tokenizer: bpe: needs rustbpe and tiktoken: pip install 'minigpt-lab[bpe]' (")
    assert package in str(problem).rpartition("(")[2]


@pytest.mark.slow
def test_bpe_is_listed_without_its_packages_and_nothing_else_imports_them() -> None:
    code = (
        "import sys, minigpt.components\n"
        "assert not {'rustbpe', 'tiktoken'} & set(sys.modules)\n"
        "sys.modules |= {'rustbpe': None, 'tiktoken': None}\n"
        "from minigpt.cli import main; main(['list', 'tokenizer'])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "bpe" in answer.stdout, answer.stderr
    assert answer.returncode == 0
