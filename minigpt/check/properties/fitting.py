"""The properties of what a tokenizer learns: it follows from the text, is restored from JSON, and has no largest size."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from minigpt.check.parameters import alternatives, parameter_sets
from minigpt.check.properties.surroundings import (
    built,
    other_seeds_and_clock,
    outcome_in_another_process,
    random_states_kept,
)
from minigpt.check.properties.tokenizer import (
    Case,
    any_case,
    encoded_by,
    few_cases,
    fitted,
    mismatch,
    outcome,
    quoted,
    texts_of,
)
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.check.texts import NEW, long_text, many_pieces, many_symbols
from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError


def _fitting_cases(target: Target) -> list[Case]:
    return [*few_cases(target), Case(parameter_sets(target)[0], another_process=True)]


@property_of("tokenizer", cases=_fitting_cases, strategy=any_case)
@random_states_kept()
def fitting(target: Target, case: Case) -> None:
    """A text gives the same vocabulary in any process, after any other; JSON restores it, encoding does not change it."""
    if case.another_process:
        _check_process(target, case)
        return
    tokenizer, case = fitted(target, case)
    learned = _saved(tokenizer)
    second = fitted(target, case)[0]
    with other_seeds_and_clock():
        third = fitted(target, case)[0]
    for other in (second, third):
        _check_same(learned, _saved(other), "a second fit on the same text gives another vocabulary", _ORDER)
    _check_restored(target, case, tokenizer, learned)
    before = _behaviour(tokenizer, case)
    _check_same(learned, _saved(tokenizer), "encode or decode changes the vocabulary", "does encode add new symbols?")
    if _behaviour(tokenizer, case) != before:
        raise Violation("encoded again, a text gives other ids", cause="does encode or decode keep something on self?")
    _check_refit(target, case, second)
    if _saved(tokenizer) != learned or _behaviour(tokenizer, case) != before:
        raise Violation(
            "fitting a second tokenizer changes the first", cause="is the vocabulary a class attribute or a mutable default?"
        )


def _check_refit(target: Target, case: Case, used: Tokenizer) -> None:
    """Check that a tokenizer that was fitted and used learns from another text, and again from the first, like a new one."""
    another = replace(case, corpus=case.corpus[::-1] + "".join(case.texts) + NEW)
    for given in (another, case):
        try:
            new, given = fitted(target, given)
            _behaviour(used, case)
            used.fit(given.corpus)
        except (TokenizerError, Unsuitable):  # the text is not in its alphabet
            return
        _check_same(_saved(new), _saved(used), "fitted again, it learns another vocabulary than a new one", _EARLIER)
        if used.vocab_size != new.vocab_size or _behaviour(used, given) != _behaviour(new, given):
            raise Violation("fitted again, it gives other ids or texts than a new one", cause=_EARLIER)


_EARLIER = "does fit begin anew, or does a count, a table or a cache of the earlier text remain?"
_ORDER = "the order of a set, a random number, or data from an earlier fit?"


def _check_process(target: Target, case: Case) -> None:
    """Compare with a fit in another process, where sets have another order, if it can import the class."""
    in_this_process = outcome(target, case.params)  # first: it may refuse the text
    in_other_process = outcome_in_another_process(target, case.params)
    if in_other_process is not None and in_other_process != in_this_process:
        _check_same(in_this_process, in_other_process, "in another process, the same text gives another result", _ORDER)


def _check_restored(target: Target, case: Case, tokenizer: Tokenizer, learned: str) -> None:
    restored: Tokenizer = built(target, case.params)
    restored.from_json(json.loads(learned))
    _check_same(
        learned,
        _saved(restored),
        "from_json restores another vocabulary",
        "does to_json contain everything that was learned?",
    )
    if restored.vocab_size != tokenizer.vocab_size:
        raise Violation(
            f"vocab_size is {tokenizer.vocab_size} after fit and {restored.vocab_size} after from_json",
            cause="does to_json contain everything that was learned?",
        )
    one, two = _behaviour(tokenizer, case), _behaviour(restored, case)
    place = next((i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)
    if place is not None:
        raise Violation(
            f"after from_json, {quoted([*texts_of(case)][place]) if place < len(one) - 1 else 'an id'} gives another result",
            cause="does to_json contain everything that was learned, in its order?",
        )


def _behaviour(tokenizer: Tokenizer, case: Case) -> list[Any]:
    """Return the ids of each text, and as the last item the texts of single ids."""
    encoded = [encoded_by(tokenizer, text) for text in texts_of(case)]
    single = [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, 300))]
    return [*(None if some is None else np.asarray(some).tolist() for some in encoded), single]


def _saved(tokenizer: Tokenizer) -> str:
    """Return the learned vocabulary in the JSON form of a run folder."""
    learned = tokenizer.to_json()
    try:
        text = json.dumps(learned, ensure_ascii=False, sort_keys=True)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Violation(
            f"to_json contains a lone surrogate, {error.object[error.start]!r}, which no file can contain",
            cause="is text saved? save code points or bytes instead",
        ) from error
    except (TypeError, ValueError) as error:
        raise Violation(
            f"to_json cannot be written as JSON: {error}", cause="does it contain a set, bytes, or a numpy number?"
        ) from error
    return text


def _check_same(one: str, other: str, message: str, cause: str) -> None:
    first, second = json.loads(one), json.loads(other)
    if first != second:
        raise Violation(f"{message}: {_difference(first, second)}", cause=cause)


def _difference(one: Any, other: Any, path: str = "") -> str:
    """Describe the first place where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        key = next(key for key in one if one[key] != other[key])
        return _difference(one[key], other[key], f"{path}.{key}" if path else key)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        place = next(index for index in range(len(one)) if one[index] != other[index])
        return _difference(one[place], other[place], f"{path}[{place}]")
    if isinstance(one, list) and isinstance(other, list):
        return f"{path} has {len(one)} items, then {len(other)}"
    return f"{path} is {_abbreviated(one)}, then {_abbreviated(other)}"


def _abbreviated(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


@dataclass(frozen=True)
class LargeCase:
    """One test case with a large text.

    Attributes:
        params: Parameters that differ from the defaults.
        text: The text: many different characters, many different words, or many characters.
    """

    params: dict[str, Any] = field(default_factory=dict)
    text: Literal["many symbols", "many words", "long"] = "many symbols"


_LARGE: dict[str, Callable[[], str]] = {"many symbols": many_symbols, "many words": many_pieces, "long": long_text}

_SLOW = 0.5
"""Seconds of computing for a part of a text, after which the rest of it is not tried."""


def _large_cases(target: Target) -> list[LargeCase]:
    """Return each text with the defaults, and the words without the limits that null lifts."""
    assert target.entry is not None
    base = parameter_sets(target)[0]
    unlimited = [{**base, name: None} for name, values in alternatives(target.entry).items() if None in values]
    defaults = [LargeCase(base, "many symbols"), LargeCase(base, "many words"), LargeCase(base, "long")]
    return [*defaults, *(LargeCase(params, "many words") for params in unlimited)]


@property_of("tokenizer", cases=_large_cases)
@random_states_kept()
def large(target: Target, case: LargeCase) -> None:
    """More than 65,536 characters, symbols and words are restored exactly, also by a vocabulary from JSON."""
    whole = _LARGE[case.text]()
    for text in (whole[: 1 << 10], whole[: 1 << 13], whole):
        start = time.process_time()
        tokenizer: Tokenizer = built(target, case.params)
        try:
            tokenizer.fit(text)
        except TokenizerError as refusal:
            raise Unsuitable(f"fit refuses {_size_of(text)}: {refusal}") from refusal
        ids = np.asarray(tokenizer.encode(text))
        _check_large(tokenizer, text, ids)
        if text is not whole and time.process_time() - start > _SLOW:
            raise Unsuitable(f"{len(text):,} characters take more than {_SLOW} s")
    restored: Tokenizer = built(target, case.params)
    restored.from_json(json.loads(_saved(tokenizer)))
    if restored.vocab_size != tokenizer.vocab_size or not np.array_equal(np.asarray(restored.encode(whole)), ids):
        raise Violation(
            f"{_size_of(whole)} give other ids after from_json", cause="does to_json contain everything that was learned?"
        )


def _check_large(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> None:
    wrong = np.flatnonzero((ids < 0) | (ids >= tokenizer.vocab_size))
    decoded = tokenizer.decode(ids)
    if decoded != text:
        difference = mismatch(text, decoded, f", in {_size_of(text)}")
        raise Violation(difference.message, at=difference.at, cause=f"{_NARROW} if not: {difference.cause}")
    if len(wrong):
        raise Violation(
            f"the ids of {_size_of(text)} contain {ids[wrong[0]]} at {wrong[0]}, but vocab_size is {tokenizer.vocab_size}",
            at=int(wrong[0]),
            cause=_NARROW,
        )


_NARROW = "is an id, a code point, a length or a place kept in 16 bits, or a text cut into parts?"


def _size_of(text: str) -> str:
    return f"{len(text):,} characters, {len(set(text)):,} of them different"
