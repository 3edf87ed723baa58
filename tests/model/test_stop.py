"""Stop strings: a text ends before the first one that is complete, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minigpt.contracts import Sampler, Tokenizer
from minigpt.experiment import ModelSection, SamplingSection
from minigpt.model import GPT, decoding
from minigpt.model.decoding import Text, sample_text, stream_text
from minigpt.registry import REGISTRY

BYTE: Tokenizer = REGISTRY.resolve("tokenizer", "byte").build()


def until_stopped(text: str, stop: list[str]) -> str:
    """The reference: the shortest beginning that ends with a stop string, without it (the longest, if several end there)."""
    for end in range(1, len(text) + 1):
        found = [each for each in stop if text[:end].endswith(each)]
        if found:
            return text[: end - max(map(len, found))]
    return text


letters = st.text("abé€", max_size=30)


@given(letters, st.lists(st.text("abé€", min_size=1, max_size=4), max_size=3))
@example("aab", ["aab", "ab"])
@example("abab€", ["abb", "b€"])
def test_streamed_text_ends_before_the_first_complete_stop_string(text: str, stop: list[str]) -> None:
    read: list[int] = []

    def ids() -> Iterator[int]:
        for token in text.encode():
            read.append(token)
            yield token

    expected = until_stopped(text, stop)
    shown = ""
    for piece in stream_text(ids(), BYTE, stop):
        assert piece
        shown += piece
        assert expected.startswith(shown), "no part of a stop string is shown, not even for a moment"
    assert shown == expected
    if expected != text:
        ends = [text.find(each) + len(each) for each in stop if each in text]
        assert bytes(read).decode() == text[: min(ends)], "nothing is drawn after it"


@given(letters, st.lists(st.text("abé€", min_size=1, max_size=4), max_size=3), st.lists(st.integers(1, 5), max_size=20))
def test_the_result_does_not_depend_on_how_text_is_divided_into_tokens(text: str, stop: list[str], sizes: list[int]) -> None:
    pieces, rest = [], text
    for size in [*sizes, len(text) + 1]:
        pieces, rest = [*pieces, rest[:size]], rest[size:]

    class Pieces(type(BYTE)):  # type: ignore[misc]
        def decode(self, ids: list[int]) -> str:
            return "".join(pieces[token] for token in ids)

    assert "".join(stream_text(iter(range(len(pieces))), Pieces(), stop)) == until_stopped(text, stop)


def test_text_that_may_begin_a_stop_string_is_held_back_and_shown_when_it_does_not() -> None:
    text = Text(BYTE, ["END", "\n\n"])
    shown = [text.append(byte) for byte in b"a\nb EN EN"]
    assert shown == ["a", "", "\nb", " ", "", "", "EN ", "", ""]
    assert (text.finish(), text.ended) == ("EN", False)
    assert Text(BYTE).finish() == ""


def test_half_a_character_at_the_end_is_shown_as_without_stop_strings() -> None:
    ids = "a€".encode()[:-1]
    for stop in ([], ["€"], ["ab"]):
        assert "".join(stream_text(iter(ids), BYTE, stop)) == BYTE.decode(list(ids))


class Scripted(Sampler):
    """Draws given texts, one a row."""

    def __init__(self, *texts: bytes):
        self.texts, self.rows = texts, -1

    def new_memory(self) -> list[int]:
        self.rows += 1
        return [self.rows, 0]

    def probabilities(self, logits, ids, memory):  # type: ignore[no-untyped-def]
        found = logits.double().zero_()
        text = self.texts[memory[0] % len(self.texts)]
        found[text[memory[1] % len(text)]] = 1
        return found

    def observe(self, token, probabilities, memory) -> None:  # type: ignore[no-untyped-def]
        memory[1] += 1


def test_each_of_several_samples_ends_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (b"one. more", b"a longer one. more", b"never ends")
    lm = GPT(ModelSection(d_model=8, n_heads=2, n_layers=1, block_size=16), 256)
    section = SamplingSection(max_new_tokens=22, stop=[". "])
    count, plain = [0], decoding.sample_ids

    def counted(lm, prompt, sampler, *arguments, **options):  # type: ignore[no-untyped-def]
        for drawn in plain(lm, prompt, Scripted(*texts[: options["num_samples"]]), *arguments, **options):
            count[0] += 1
            yield drawn

    monkeypatch.setattr(decoding, "sample_ids", counted)
    three = sample_text(lm, BYTE, "x", section, num_samples=3)
    assert three == ["one", "a longer one", "never endsnever endsne"]
    assert count == [22]
    count[0] = 0
    assert sample_text(lm, BYTE, "x", section, num_samples=2) == three[:2]
    assert count == [len("a longer one. ")], "nothing is drawn when all samples have ended"


@pytest.mark.parametrize("name", [entry.name for entry in REGISTRY.entries("tokenizer")])
def test_text_shown_token_by_token_is_the_text_decoded_at_once(name: str) -> None:
    tokenizer = REGISTRY.resolve("tokenizer", name).build()
    text = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. \n\n 好了 ok? " * 20
    tokenizer.fit(text)
    ids = [int(token) for token in tokenizer.encode(text)]
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    for drawn in (ids, shuffled):
        assert "".join(stream_text(iter(drawn), tokenizer)) == tokenizer.decode(drawn)
