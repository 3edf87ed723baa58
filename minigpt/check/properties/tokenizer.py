"""The properties of tokenizers."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, random_states_kept
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.check.texts import EVERYTHING, FRAGMENTS, LONG, ORDINARY, SAMPLE, many_words
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


def few_cases(target: Target) -> list[Case]:
    """Return the defaults and each parameter changed, with several corpora."""
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
    return [*few_cases(target), *(Case(base, text, (text, 2 * text, "a")) for text in FRAGMENTS if text)]


def any_case(target: Target) -> st.SearchStrategy[Case]:
    """Return a strategy for any parameters, corpora and texts."""
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


def fitted(target: Target, case: Case) -> tuple[Tokenizer, Case]:
    """Fit a tokenizer on the case's corpus, or on what its alphabet has of it.

    Returns:
        The tokenizer, and the case with the text that it was fitted on.

    Raises:
        Unsuitable: It refuses these parameters, or every text.
    """
    tokenizer: Tokenizer = built(target, case.params)
    try:
        tokenizer.fit(case.corpus)
    except TokenizerError as refusal:
        case = replace(case, corpus=_in_its_alphabet(target, case))
        tokenizer = built(target, case.params)
        try:
            tokenizer.fit(case.corpus)
        except TokenizerError:
            raise Unsuitable(f"fit refuses this text: {refusal}") from refusal
    return tokenizer, case


_accepted: dict[tuple[type, str], dict[str, bool]] = {}
"""For a class and its parameters: whether `fit` accepts a text of one character."""


def _in_its_alphabet(target: Target, case: Case) -> str:
    """Return the corpus without characters that `fit` refuses, or a drawn text if fewer than a block are left."""
    assert target.entry is not None
    known = _accepted.setdefault((target.entry.cls, json.dumps(case.params, sort_keys=True)), {})
    for character in sorted({*case.corpus, *ORDINARY} - known.keys()):
        tokenizer: Tokenizer = built(target, case.params)
        try:
            tokenizer.fit(_BLOCK * character)
        except TokenizerError:
            known[character] = False
        else:
            known[character] = True
    kept = "".join(character for character in case.corpus if known[character])
    letters = [character for character, is_accepted in sorted(known.items()) if is_accepted]
    if not letters:
        return case.corpus
    if len(kept) >= _BLOCK:
        return kept[: len(kept) // _BLOCK * _BLOCK]
    return "".join(random.Random(len(case.corpus)).choices(letters, k=50 * _BLOCK))


_BLOCK = 12
"""A length that tokenizers of pairs, triplets or groups of four accept too."""


def texts_of(case: Case) -> Iterator[str]:
    """Yield the texts to encode: those of the case, and others from the symbols of the corpus."""
    yield from (case.corpus, case.corpus[::-1], case.corpus[len(case.corpus) // 3 :])
    yield from case.texts
    yield "".join(case.texts)


def encoded_by(tokenizer: Tokenizer, text: str) -> Any:
    """Return the ids of a text, or None if the tokenizer refuses it."""
    try:
        return tokenizer.encode(text)
    except TokenizerError:
        return None


@property_of("tokenizer", cases=_cases, strategy=any_case, quick=2)
@random_states_kept()
def lossless(target: Target, case: Case) -> None:
    """A text is restored exactly or refused with a TokenizerError; the fitted text is not refused."""
    tokenizer, case = fitted(target, case)
    try:
        tokenizer.encode(case.corpus)
    except TokenizerError as refusal:
        if not _has_surrogate(case.corpus):  # no file can contain one
            raise Violation(
                f"encode refuses the text that it was fitted on: {refusal}",
                cause="does fit omit symbols? if the alphabet is fixed, fit must refuse other text",
            ) from refusal
    for text in texts_of(case):
        ids = encoded_by(tokenizer, text)
        if ids is None:
            continue
        for given, what in ((ids, ""), (np.asarray(ids).tolist(), " from a list of ids")):
            decoded = tokenizer.decode(given)
            if decoded != text:
                raise mismatch(text, decoded, what)


def mismatch(text: str, decoded: str, what: str) -> Violation:
    """Describe the first place where the decoded text differs."""
    shorter = min(len(text), len(decoded))
    place = next((i for i in range(shorter) if text[i] != decoded[i]), shorter)
    tail = next((i for i in range(shorter - place) if text[-1 - i] != decoded[-1 - i]), shorter - place)
    original, got = text[place : len(text) - tail], decoded[place : len(decoded) - tail]
    if not original:
        message = f"{quoted(got)} is added at {place}"
    elif not got:
        message = f"{quoted(original)} at {place} is dropped"
    else:
        message = f"{quoted(original)} at {place} becomes {quoted(got)}"
    return Violation(message + what, at=place, cause=_cause(original, got))


def quoted(text: str) -> str:
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


@property_of("tokenizer", cases=_cases, strategy=any_case, quick=2)
@random_states_kept()
def ids(target: Target, case: Case) -> None:
    """Ids are a one-dimensional array of integers from 0 to vocab_size - 1."""
    tokenizer, case = fitted(target, case)
    size = tokenizer.vocab_size
    if type(size) is not int or size < 1:
        raise Violation(f"vocab_size is {size!r}", cause="it must be an int of at least 1: use int(...) for a numpy number")
    for text in texts_of(case):
        encoded = encoded_by(tokenizer, text)
        if encoded is None:
            continue
        what = f"the ids of {quoted(text)}"
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


@property_of("tokenizer", cases=few_cases, strategy=any_case)
@random_states_kept()
def byte_counts(target: Target, case: Case) -> None:
    """Byte counts of a text's first ids never decrease, and are exact at character boundaries."""
    tokenizer, case = fitted(target, case)
    for text in texts_of(case):
        ids = encoded_by(tokenizer, text)
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
                    f"the first {cut} of {len(ids)} ids of {quoted(text)} count {counted!r} bytes, but {expected}",
                    at=cut,
                    cause="is half a character counted as U+FFFD? the default n_bytes counts only complete characters",
                )
            before = counted


def _cuts(length: int) -> list[int]:
    """Return all cuts of a short text, and the first, some middle and the last cuts of a long one."""
    if length <= 40:
        return [*range(length + 1)]
    return [*range(10), *range(10, length - 5, -(-length // 5)), *range(length - 5, length + 1)]


@property_of("tokenizer", cases=_cases, strategy=any_case)
@random_states_kept()
def tolerance(target: Target, case: Case) -> None:
    """Any sequence of ids below vocab_size decodes to text, without an exception."""
    tokenizer, case = fitted(target, case)
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


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Return, as JSON, the vocabulary learned from a text and the ids of known and unknown words.

    Raises:
        Unsuitable: The tokenizer refuses these parameters or the text.
    """
    tokenizer, case = fitted(target, Case(params, many_words()))
    texts: Sequence[str] = (case.corpus, SAMPLE, ORDINARY[::-1])
    encoded = [None if (ids := encoded_by(tokenizer, text)) is None else np.asarray(ids).tolist() for text in texts]
    decoded = [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, 2000))]
    learned = {"learned": tokenizer.to_json(), "vocab_size": tokenizer.vocab_size, "ids": encoded, "texts": decoded}
    return json.dumps(learned, sort_keys=True)
