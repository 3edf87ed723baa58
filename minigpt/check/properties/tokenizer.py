"""What every tokenizer must satisfy."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, elsewhere, outcome_in_another_process, random_states_kept
from minigpt.check.property import Unsuitable, Violation, property_of
from minigpt.check.targets import Target
from minigpt.check.texts import EVERYTHING, FRAGMENTS, LONG, NEW, ORDINARY, SAMPLE, many_words
from minigpt.contracts import Tokenizer
from minigpt.errors import TokenizerError


@dataclass(frozen=True)
class Case:
    """One thing to try a tokenizer with.

    Attributes:
        params: Parameters that are not the defaults.
        corpus: What it is fitted on.
        texts: What it encodes.
        numbers: Ids to decode, taken modulo its vocab_size.
        another_process: Ask another process too.
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
        corpus=texts.map(lambda text: text or "a"),  # no corpus is empty
        texts=st.lists(texts, min_size=1, max_size=4).map(tuple),
        numbers=st.lists(st.integers(0, 2**20), max_size=12).map(tuple),
    )


def _fitted(target: Target, case: Case, corpus: str | None = None) -> Tokenizer:
    tokenizer: Tokenizer = built(target, case.params)
    try:
        tokenizer.fit(case.corpus if corpus is None else corpus)
    except TokenizerError as refusal:  # a tokenizer for some other alphabet
        raise Unsuitable(f"it refuses to be fitted on this text: {refusal}") from refusal
    return tokenizer


def _texts(case: Case) -> Iterator[str]:
    """What is encoded: texts of the case, and others made of the symbols that were fitted on."""
    yield from (case.corpus, case.corpus[::-1], case.corpus[len(case.corpus) // 3 :])
    yield from case.texts
    yield "".join(case.texts)


def _encoded(tokenizer: Tokenizer, text: str) -> Any:
    """Its ids; None where it is refused."""
    try:
        return tokenizer.encode(text)
    except TokenizerError:
        return None


@property_of("tokenizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def lossless(target: Target, case: Case) -> None:
    """A text is refused with a TokenizerError or comes back exactly; what was fitted on is not refused."""
    tokenizer = _fitted(target, case)
    try:
        tokenizer.encode(case.corpus)
    except TokenizerError as refusal:
        if not _has_surrogate(case.corpus):  # no file has one
            raise Violation(
                f"it refuses the text that it was fitted on: {refusal}",
                cause="does fit leave something out? With an alphabet that is fixed, it is fit that refuses other text",
            ) from refusal
    for text in _texts(case):
        ids = _encoded(tokenizer, text)
        if ids is None:
            continue
        for given, what in ((ids, ""), (np.asarray(ids).tolist(), " from a list of ids")):
            decoded = tokenizer.decode(given)
            if decoded != text:
                raise _lost(text, decoded, what)


def _lost(text: str, decoded: str, what: str) -> Violation:
    """The first place where a text does not come back."""
    shorter = min(len(text), len(decoded))
    place = next((i for i in range(shorter) if text[i] != decoded[i]), shorter)
    tail = next((i for i in range(shorter - place) if text[-1 - i] != decoded[-1 - i]), shorter - place)
    lost, got = text[place : len(text) - tail], decoded[place : len(decoded) - tail]
    if not lost:
        message = f"{_said(got)} is added at {place}"
    elif not got:
        message = f"{_said(lost)} at {place} is lost"
    else:
        message = f"{_said(lost)} at {place} comes back as {_said(got)}"
    return Violation(message + what, at=place, cause=_cause(lost, got))


def _said(text: str) -> str:
    """A text, quoted and not too long; a few characters with their code points."""
    if 0 < len(text) <= 3:
        return f"{text!r} ({' '.join(f'U+{ord(character):04X}' for character in text)})"
    return repr(text if len(text) <= 12 else text[:12] + "…")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _cause(lost: str, got: str) -> str:
    if not (lost + got).strip():
        return "is white space stripped, translated, or split at?"
    if _has_surrogate(lost):
        return 'errors="replace" or "ignore"? A lone surrogate is kept, or refused with a TokenizerError'
    if lost.casefold() == got.casefold():
        return "are capitals lowered?"
    if unicodedata.normalize("NFKC", lost) == unicodedata.normalize("NFKC", got):
        return "is text normalised?"
    return "an unknown symbol is refused with a TokenizerError, or spelt in bytes; is it replaced or left out?"


@property_of("tokenizer", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def ids(target: Target, case: Case) -> None:
    """Ids are a one-dimensional array of integers from 0 to vocab_size - 1."""
    tokenizer = _fitted(target, case)
    size = tokenizer.vocab_size
    if type(size) is not int or size < 1:
        raise Violation(f"vocab_size is {size!r}", cause="a number of ids is wanted; of numpy's numbers, int(...)")
    for text in _texts(case):
        encoded = _encoded(tokenizer, text)
        if encoded is None:
            continue
        what = f"the ids of {_said(text)}"
        if not isinstance(encoded, np.ndarray):
            raise Violation(
                f"{what} are a {type(encoded).__name__}, not an array", cause="np.array(ids, dtype=np.int64) is wanted"
            )
        if encoded.ndim != 1:
            raise Violation(f"{what} have the shape {list(encoded.shape)}", cause="is there an axis for a batch?")
        if encoded.dtype.kind not in "iu":
            raise Violation(f"{what} are {encoded.dtype}", cause="np.array([]) has floats; is dtype=np.int64 given?")
        wrong = np.flatnonzero((encoded < 0) | (encoded >= size))
        if len(wrong):
            place = int(wrong[0])
            raise Violation(
                f"{what} have {encoded[place]} at {place}, and vocab_size is {size}",
                at=place,
                cause="is vocab_size the largest id, or are special tokens not counted? are bytes read as signed?",
            )


@property_of("tokenizer", cases=_few_cases, strategy=_any_case)
@random_states_kept()
def byte_counts(target: Target, case: Case) -> None:
    """The UTF-8 bytes that a text's first ids stand for grow to those of the text, and are exact between characters."""
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
                expected = f"{whole} is right" if between else f"{before} were counted for fewer ids"
                raise Violation(
                    f"the first {cut} of {len(ids)} ids of {_said(text)} count {counted!r} bytes, and {expected}",
                    at=cut,
                    cause="is half a character counted as U+FFFD? The contract's own n_bytes counts a character when it is "
                    "complete",
                )
            before = counted


def _cuts(length: int) -> list[int]:
    """All of a short text's; the first ones, some in the middle and the last of a long one's."""
    if length <= 40:
        return [*range(length + 1)]
    return [*range(10), *range(10, length - 5, -(-length // 5)), *range(length - 5, length + 1)]


@property_of("tokenizer", cases=_cases, strategy=_any_case)
@random_states_kept()
def tolerance(target: Target, case: Case) -> None:
    """Any ids below vocab_size decode to text, in any order, and never raise."""
    tokenizer = _fitted(target, case)
    size = tokenizer.vocab_size
    if size < 1:
        raise Unsuitable(f"vocab_size is {size}: there is nothing to decode")
    every = [*range(size)] if size <= 1000 else [*range(400), *range(400, size - 400, size // 200), *range(size - 400, size)]
    drawn = [number % size for number in case.numbers]
    tried = [[], every, every[::-1], drawn, *([token] for token in every), *(drawn[:end] for end in range(len(drawn)))]
    for some in tried:
        for given in (some, np.array(some, dtype=np.int64)):
            shown = f"ids {', '.join(map(str, some[:8]))}{', …' if len(some) > 8 else ''}"
            try:
                text = tokenizer.decode(given)
            except Exception as error:  # whatever a component may raise
                raise Violation(
                    f"{shown} raise {type(error).__name__}: {error}",
                    cause='half a character is U+FFFD: is it decode("utf-8", "replace")? has every id a text?',
                ) from error
            if not isinstance(text, str):
                raise Violation(f"{shown} are decoded to a {type(text).__name__}", cause="text is wanted: bytes.decode?")


def _fitting_cases(target: Target) -> list[Case]:
    return [*_few_cases(target), Case(parameter_sets(target)[0], another_process=True)]


@property_of("tokenizer", cases=_fitting_cases, strategy=_any_case)
@random_states_kept()
def fitting(target: Target, case: Case) -> None:
    """The same text gives the same vocabulary in any process; it is saved as JSON, restored from it, and then only read."""
    if case.another_process:
        _check_process(target, case)
        return
    tokenizer = _fitted(target, case)
    learned = _written(tokenizer)
    second = _fitted(target, case)
    with elsewhere():
        third = _fitted(target, case)
    for other in (second, third):
        _check_same(learned, _written(other), "fitted a second time on the same text, it learns something else", _ORDER)
    _check_restored(target, case, tokenizer, learned)
    before = _behaviour(tokenizer, case)
    _check_same(learned, _written(tokenizer), "it learns while it encodes or decodes", "does encode number what is new?")
    another = case.corpus[::-1] + "".join(case.texts) + NEW
    try:
        _fitted(target, case, another)
        second.fit(another)
    except (TokenizerError, Unsuitable):  # that text is not of its alphabet
        return
    if _written(tokenizer) != learned or _behaviour(tokenizer, case) != before:
        raise Violation(
            "fitting a second tokenizer changes the first", cause="is the vocabulary the class's, or a mutable default?"
        )
    second.fit(case.corpus)
    _check_same(learned, _written(second), "what an earlier fit learned is still there", "does fit begin anew?")


_ORDER = "the order of a set, a random number, or something that is left from an earlier fit?"


def _check_process(target: Target, case: Case) -> None:
    """One more fit, where sets have another order: only if the class can be had there at all."""
    there = outcome_in_another_process(target, case.params)
    here = outcome(target, case.params)
    if there is not None and there != here:
        _check_same(here, there, "in another process the same text gives something else", _ORDER)


def _check_restored(target: Target, case: Case, tokenizer: Tokenizer, learned: str) -> None:
    restored: Tokenizer = built(target, case.params)
    restored.from_json(json.loads(learned))
    _check_same(learned, _written(restored), "from_json restores something else", "does to_json hold all that was learned?")
    if restored.vocab_size != tokenizer.vocab_size:
        raise Violation(
            f"vocab_size is {tokenizer.vocab_size} after fit and {restored.vocab_size} after from_json",
            cause="does to_json hold all that was learned?",
        )
    one, two = _behaviour(tokenizer, case), _behaviour(restored, case)
    place = next((i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)
    if place is not None:
        raise Violation(
            f"after from_json {_said([*_texts(case)][place]) if place < len(one) - 1 else 'an id'} is treated otherwise",
            cause="does to_json hold all that was learned, and in its order?",
        )


def _behaviour(tokenizer: Tokenizer, case: Case) -> list[Any]:
    """How the texts are encoded, and at last what single ids are."""
    encoded = [_encoded(tokenizer, text) for text in _texts(case)]
    single = [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, 300))]
    return [*(None if some is None else np.asarray(some).tolist() for some in encoded), single]


def _written(tokenizer: Tokenizer) -> str:
    """What it learned, as a run folder holds it."""
    learned = tokenizer.to_json()
    try:
        text = json.dumps(learned, ensure_ascii=False, sort_keys=True)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Violation(
            f"to_json has a lone surrogate, {error.object[error.start]!r}, which no file can hold",
            cause="is text kept where code points or bytes could be?",
        ) from error
    except (TypeError, ValueError) as error:
        raise Violation(
            f"to_json cannot be written as JSON: {error}", cause="a set, bytes, or a number of numpy's?"
        ) from error
    return text


def _check_same(one: str, other: str, message: str, cause: str) -> None:
    first, second = json.loads(one), json.loads(other)
    if first != second:
        raise Violation(f"{message}: {_difference(first, second)}", cause=cause)


def _difference(one: Any, other: Any, path: str = "") -> str:
    """The first place where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        key = next(key for key in one if one[key] != other[key])
        return _difference(one[key], other[key], f"{path}.{key}" if path else key)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        place = next(index for index in range(len(one)) if one[index] != other[index])
        return _difference(one[place], other[place], f"{path}[{place}]")
    if isinstance(one, list) and isinstance(other, list):
        return f"{path} has {len(one)} items, then {len(other)}"
    return f"{path} is {_short(one)}, then {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """What it learns of a text, and how it encodes that text and a sentence with words that are not in it.

    Raises:
        Unsuitable: It refuses these parameters, or the passage.
    """
    corpus = many_words()
    tokenizer = _fitted(target, Case(params, corpus))
    texts: Sequence[str] = (corpus, SAMPLE, ORDINARY[::-1])
    encoded = [None if (some := _encoded(tokenizer, text)) is None else np.asarray(some).tolist() for text in texts]
    decoded = [tokenizer.decode([token]) for token in range(min(tokenizer.vocab_size, 2000))]
    learned = {"learned": tokenizer.to_json(), "vocab_size": tokenizer.vocab_size, "ids": encoded, "texts": decoded}
    return json.dumps(learned, sort_keys=True)
