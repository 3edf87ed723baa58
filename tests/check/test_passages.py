"""A passage in both splits is found, unless the training text has passages as long twice."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt.check.passages import common_passage, joining_passage


def words(seed: int, number: int) -> str:
    syllables = ("ka", "lor", "mi", "ten", "ush", "bra", "vel", "don", "zep", "nor")
    generator = random.Random(seed)
    return " ".join("".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in range(number))


@given(st.integers(0, 2000), st.integers(80, 1000))
def test_a_passage_anywhere_in_the_training_text_is_found(place: int, length: int) -> None:
    train, val = words(1, 3000), words(2, 800)
    passage = val[place : place + length]
    assert common_passage(train, val) == ""
    found = common_passage(train[:5000] + passage + train[5000:], val)
    assert "".join(passage.split()) in found
    assert len(found) < length + 20


@pytest.mark.parametrize("length", [30, 64, 5000])
def test_texts_that_overlap_at_a_cut_have_a_joining_passage(length: int) -> None:
    text = words(1, 4000)
    cut = len(text) // 2
    assert joining_passage(text[: cut + length], text[cut:]) == text[cut : cut + length]
    assert joining_passage(text[cut:], text[: cut + length]) == text[cut : cut + length]
    assert joining_passage(text[:cut], text[cut:]) == ""


def test_what_training_repeats_is_no_common_passage() -> None:
    refrain, train, val = words(3, 40), words(1, 3000), words(2, 400)
    assert common_passage(refrain + train + refrain, val + refrain + val) == ""
    assert common_passage(train + refrain + train[:300], val + refrain) == ""
    assert joining_passage(refrain + train + refrain, refrain + val) == ""


def test_what_begins_or_ends_both_texts_is_no_common_passage() -> None:
    head, last = words(3, 30) + "\n", "\n" + words(4, 30)
    assert common_passage(head + words(1, 3000) + last, head + words(2, 400) + last) == ""
