"""The properties of tokenizers."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import (
    built,
    other_seeds_and_clock,
    outcome_in_another_process,
    random_states_kept,
)
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.check.texts import EVERYTHING, FRAGMENTS, LONG, NEW, ORDINARY, SAMPLE, many_words
from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError


@dataclass(frozen=True)
class Case:
    """One test case for a tokenizer.

    Attributes:
        params: Parameters that differ from the defaults.
        corpus: The text it is fitted on.
        texts: Texts it encodes.
        numbers: Ids to decode, modulo its vocab_size.
        another_process: Compare with another process.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    corpus: str = ORDINARY
    texts: tuple[str, ...] = FRAGMENTS
    numbers: tuple[int, ...] = (7, 3, 250, 128, 130, 226, 130, 1000, 0)
    another_process: bool = False


def _few_cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    return [
        Case(base),
        Case(base, EVERYTHING),
        Case(base, "".join(FRAGMENTS)),
        Case(base, "a", ("", "a", "b")),
        Case(base, "".join(LONG), LONG),
        *(Case(params, corpus) for params in changed for corpus in (EVERYTHING, "".join(FRAGMENTS))),
    ]


def _cases(target: Target) -> list[Case]:
    base = parameter_sets(target)[0]
    return [*_few_cases(target), *(Case(base, text, (text, 2 * text, "a")) for text in FRAGMENTS if text)]


def _any_case(target: Target) -> st.SearchStrategy[Case]:
    characters = st.characters(codec=None, exclude_categories=())  # lone surrogates too
    pieces = st.one_of(st.text(characters, max_size=8), st.sampled_from(FRAGMENTS))
    texts = st.lists(pieces, max_size=8).map("".join)
    return st.builds(
        Case,
        params=parameters(target),
        corpus=texts.map(lambda text: text or "a"),  # a corpus is never empty
        texts=st.lists(texts, min_size=1, max_size=4).map(tuple),
        numbers=st.lists(st.integers(0, 2**20), max_size=12).map(tuple),
    )


def _fitted(target: Target, case: Case, corpus: str | None = None) -> Tokenizer:
    tokenizer: Tokenizer = built(target, case.params)
    try:
        tokenizer.fit(case.corpus if corpus is None else corpus)
    except TokenizerError as refusal:  # it is for another alphabet
        raise Unsuitable(f"fit refuses this text: {refusal}") from refusal
    return tokenizer


def _texts(case: Case) -> Iterator[str]:
    """Yield the texts to encode: those of the case, and others from the symbols of the corpus."""
    yield from (case.corpus, case.corpus[::-1], case.corpus[len(case.corpus) // 3 :])
    yield from case.texts
    yield "".join(case.texts)


def _encoded(tokenizer: Tokenizer, text: str) -> Any:
    """Return the ids of a text, or None if the tokenizer refuses it."""
    try:
        return tokenizer.encode(text)
    except TokenizerError:
        return None


@property_of("tokenizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def lossless(target: Target, case: Case) -> None:
    """A text is restored exactly or refused with a TokenizerError; the fitted text is not refused."""
    tokenizer = _fitted(target, case)
    try:
        tokenizer.encode(case.corpus)
    except TokenizerError as refusal:
        if not _has_surrogate(case.corpus):  # no file can contain one
            raise Violation(
                f"encode refuses the text that it was fitted on: {refusal}",
                cause="does fit omit symbols? if the alphabet is fixed, fit must refuse other text",
            ) from refusal
    for text in _texts(case):
        ids = _encoded(tokenizer, text)
        if ids is None:
            continue
        for given, what in ((ids, ""), (np.asarray(ids).tolist(), " from a list of ids")):
            decoded = tokenizer.decode(given)
            if decoded != text:
                raise _mismatch(text, decoded, what)


def _mismatch(text: str, decoded: str, what: str) -> Violation:
    """Describe the first place where the decoded text differs."""
    shorter = min(len(text), len(decoded))
    place = next((i for i in range(shorter) if text[i] != decoded[i]), shorter)
    tail = next((i for i in range(shorter - place) if text[-1 - i] != decoded[-1 - i]), shorter - place)
    original, got = text[place : len(text) - tail], decoded[place : len(decoded) - tail]
    if not original:
        message = f"{_quoted(got)} is added at {place}"
    elif not got:
        message = f"{_quoted(original)} at {place} is dropped"
    else:
        message = f"{_quoted(original)} at {place} becomes {_quoted(got)}"
    return Violation(message + what, at=place, cause=_cause(original, got))


def _quoted(text: str) -> str:
    """Quote and shorten a text; up to three characters also get their code points."""
    if 0 < len(text) <= 3:
        return f"{text!r} ({' '.join(f'U+{ord(character):04X}' for character in text)})"
    return repr(text if len(text) <= 12 else text[:12] + "…")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _cause(original: str, got: str) -> str:
    if not (original + got).strip():
        return "is white space stripped, translated, or used to split the text?"
    if _has_surrogate(original):
        return 'errors="replace" or "ignore"? keep a lone surrogate or refuse it with a TokenizerError'
    if original.casefold() == got.casefold():
        return "are capitals converted to lower case?"
    if unicodedata.normalize("NFKC", original) == unicodedata.normalize("NFKC", got):
        return "is the text normalised?"
    return "is an unknown symbol replaced or dropped? refuse it with a TokenizerError or encode it as bytes"


@property_of("tokenizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def ids(target: Target, case: Case) -> None:
    """Ids are a one-dimensional array of integers from 0 to vocab_size - 1."""
    tokenizer = _fitted(target, case)
    size = tokenizer.vocab_size
    if type(size) is not int or size < 1:
        raise Violation(f"vocab_size is {size!r}", cause="it must be an int of at least 1: use int(...) for a numpy number")
    for text in _texts(case):
        encoded = _encoded(tokenizer, text)
        if encoded is None:
            continue
        what = f"the ids of {_quoted(text)}"
        if not isinstance(encoded, np.ndarray):
            raise Violation(
                f"{what} are a {type(encoded).__name__}, not an array", cause="return np.array(ids, dtype=np.int64)"
            )
        if encoded.ndim != 1:
            raise Violation(f"{what} have shape {list(encoded.shape)}", cause="is there a batch axis?")
        if encoded.dtype.kind not in "iu":
            raise Violation(f"{what} are {encoded.dtype}", cause="np.array([]) is a float array; is dtype=np.int64 given?")
        wrong = np.flatnonzero((encoded < 0) | (encoded >= size))
        if len(wrong):
            place = int(wrong[0])
            raise Violation(
                f"{what} contain {encoded[place]} at {place}, but vocab_size is {size}",
                at=place,
                cause="is vocab_size the largest id, or without special tokens? are bytes read as signed numbers?",
            )


@property_of("tokenizer", cases=_few_cases, strategy=_any_case)
@random_states_kept()
def byte_counts(target: Target, case: Case) -> None:
    """Byte counts of a text's first ids never decrease, and are exact at character boundaries."""
    tokenizer = _fitted(target, case)
    for text in _texts(case):
        ids = _encoded(tokenizer, text)
        if ids is None:
            continue
        before = 0
        for cut in _cuts(len(ids)):
            counted, start = tokenizer.n_bytes(ids[:cut], text), tokenizer.decode(ids[:cut])
            whole = len(start.encode("utf-8", "surrogatepass"))
            between = start + tokenizer.decode(ids[cut:]) == text
            if type(counted) is not int or counted < before or (between and counted != whole):
                expected = f"{whole} is correct" if between else f"fewer ids count {before}"
                raise Violation(
                    f"the first {cut} of {len(ids)} ids of {_quoted(text)} count {counted!r} bytes, but {expected}",
                    at=cut,
                    cause="is half a character counted as U+FFFD? the default n_bytes counts only complete characters",
                )
            before = counted


def _cuts(length: int) -> list[int]:
    """Return all cuts of a short text, and the first, some middle and the last cuts of a long one."""
    if length <= 40:
        return [*range(length + 1)]
    return [*range(10), *range(10, length - 5, -(-length // 5)), *range(length - 5, length + 1)]


@property_of("tokenizer", cases=_cases, strategy=_any_case)
@random_states_kept()
def tolerance(target: Target, case: Case) -> None:
    """Any sequence of ids below vocab_size decodes to text, without an exception."""
    tokenizer = _fitted(target, case)
    size = tokenizer.vocab_size
    if size < 1:
        raise Unsuitable(f"vocab_size is {size}: there is nothing to decode")
    all_ids = (
        [*range(size)] if size <= 1000 else [*range(400), *range(400, size - 400, size // 200), *range(size - 400, size)]
    )
    drawn = [number % size for number in case.numbers]
    tried = [[], all_ids, all_ids[::-1], drawn, *([token] for token in all_ids), *(drawn[:end] for end in range(len(drawn)))]
    for some in tried:
        for given in (some, np.array(some, dtype=np.int64)):
            shown = f"ids {', '.join(map(str, some[:8]))}{', …' if len(some) > 8 else ''}"
            try:
                text = tokenizer.decode(given)
            except Exception as error:  # a component may raise any exception
                raise Violation(
                    f"{shown} raise {type(error).__name__}: {error}",
                    cause='is it decode("utf-8", "replace")? does every id have a text?',
                ) from error
            if not isinstance(text, str):
                raise Violation(
                    f"{shown} are decoded to a {type(text).__name__}", cause="it must be str: is bytes.decode missing?"
                )


def _fitting_cases(target: Target) -> list[Case]:
    return [*_few_cases(target), Case(parameter_sets(target)[0], another_process=True)]


@property_of("tokenizer", cases=_fitting_cases, strategy=_any_case)
@random_states_kept()
def fitting(target: Target, case: Case) -> None:
    """A text gives the same vocabulary in any process; JSON restores it, and encoding does not change it."""
    if case.another_process:
        _check_process(target, case)
        return
    tokenizer = _fitted(target, case)
    learned = _saved(tokenizer)
    second = _fitted(target, case)
    with other_seeds_and_clock():
        third = _fitted(target, case)
    for other in (second, third):
        _check_same(learned, _saved(other), "a second fit on the same text gives another vocabulary", _ORDER)
    _check_restored(target, case, tokenizer, learned)
    before = _behaviour(tokenizer, case)
    _check_same(learned, _saved(tokenizer), "encode or decode changes the vocabulary", "does encode add new symbols?")
    another = case.corpus[::-1] + "".join(case.texts) + NEW
    try:
        _fitted(target, case, another)
        second.fit(another)
    except (TokenizerError, Unsuitable):  # the text is not in its alphabet
        return
    if _saved(tokenizer) != learned or _behaviour(tokenizer, case) != before:
        raise Violation(
            "fitting a second tokenizer changes the first", cause="is the vocabulary a class attribute or a mutable default?"
        )
    second.fit(case.corpus)
    _check_same(learned, _saved(second), "the result of an earlier fit remains", "does fit start with an empty vocabulary?")


_ORDER = "the order of a set, a random number, or data from an earlier fit?"


def _check_process(target: Target, case: Case) -> None:
    """Compare with a fit in another process, where sets have another order, if it can import the class."""
    in_other_process = outcome_in_another_process(target, case.params)
    in_this_process = outcome(target, case.params)
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
            f"after from_json, {_quoted([*_texts(case)][place]) if place < len(one) - 1 else 'an id'} gives another result",
            cause="does to_json contain everything that was learned, in its order?",
        )


def _behaviour(tokenizer: Tokenizer, case: Case) -> list[Any]:
    """Return the ids of each text, and as the last item the texts of single ids."""
    encoded = [_encoded(tokenizer, text) for text in _texts(case)]
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


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Return, as JSON, the vocabulary learned from a text and the ids of known and unknown words.

    Raises:
        Unsuitable: The tokenizer refuses these parameters or the text.
    """
    corpus = many_words()
    tokenizer = _fitted(target, Case(params, corpus))
    texts: Sequence[str] = (corpus, SAMPLE, ORDINARY[::-1])
    encoded = [None if (ids := _encoded(tokenizer, text)) is None else np.asarray(ids).tolist() for text in texts]
    decoded = [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, 2000))]
    learned = {"learned": tokenizer.to_json(), "vocab_size": tokenizer.vocab_size, "ids": encoded, "texts": decoded}
    return json.dumps(learned, sort_keys=True)
