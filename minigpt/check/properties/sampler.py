"""The properties of samplers."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.properties.surroundings import built, other_seeds_and_clock, random_states_kept
from minigpt.check.property import Violation, property_of
from minigpt.check.targets import Target
from minigpt.contracts import Sampler

Kind = Literal["random", "huge", "tiny", "one_hot", "equal", "masked"]
_KINDS: tuple[Kind, ...] = ("random", "masked", "equal", "one_hot", "huge", "tiny")


@dataclass(frozen=True)
class Case:
    """One test case for a sampler.

    Attributes:
        params: Parameters that differ from the defaults.
        logits: `random`, times 1e30 (`huge`) or 1e-30 (`tiny`), all but one 0 (`one_hot`), `equal`, or all but a few -inf
            (`masked`).
        vocab: Number of tokens.
        prompt: Length of the prompt.
        steps: Number of tokens to draw.
        seed: Seed of the logits and the draws.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    logits: Kind = "random"
    vocab: int = 12
    prompt: int = 5
    steps: int = 8
    seed: int = 0


def _cases(target: Target) -> list[Case]:
    base, *changed = parameter_sets(target)
    return [
        *(Case(base, kind) for kind in _KINDS),
        *(Case(base, kind, vocab=1, prompt=1) for kind in _KINDS),
        Case(base, vocab=500, prompt=40, steps=20),
        *(Case(params, kind, seed=number) for number, params in enumerate(changed) for kind in _KINDS),
    ]


def _any_case(target: Target) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        parameters(target),
        st.sampled_from(_KINDS),
        vocab=st.integers(1, 40),
        prompt=st.integers(1, 12),
        steps=st.integers(1, 12),
        seed=st.integers(0, 99),
    )


def _logits(case: Case, text: int, step: int) -> Float[Tensor, " vocab"]:
    """The logits for one step of a text, in fp32."""
    generator = torch.Generator().manual_seed(10_000 * case.seed + 100 * text + step)
    drawn = 3 * torch.randn(case.vocab, generator=generator)
    match case.logits:
        case "huge" | "tiny":
            return drawn * (1e30 if case.logits == "huge" else 1e-30)
        case "equal":
            return torch.full_like(drawn, float(drawn[0]))
        case "one_hot":
            return torch.where(drawn == drawn.max(), 30.0, 0.0)
        case "masked":
            return drawn.masked_fill(drawn < drawn.sort().values[-3:][0], -torch.inf)
    return drawn


_NOT_FINITE = "is -inf multiplied by 0 or subtracted from itself, or exp too large?"


class _Drawing:
    """A text that a sampler draws: always the same one for a case and a number."""

    def __init__(self, sampler: Sampler, case: Case, text: int = 0):
        self.sampler, self.case, self.text = sampler, case, text
        self.memory = sampler.new_memory()
        self.generator = torch.Generator().manual_seed(100 * case.seed + text)
        self.ids: list[int] = torch.randint(case.vocab, (case.prompt,), generator=self.generator).tolist()
        self.seen: list[Float[Tensor, " vocab"]] = []

    def logits(self) -> Float[Tensor, " vocab"]:
        return _logits(self.case, self.text, len(self.seen))

    def probabilities(self) -> Float[Tensor, " vocab"]:
        return self.sampler.probabilities(self.logits(), self.ids, self.memory)

    def step(self) -> Float[Tensor, " vocab"]:
        """Draw one token; return the probabilities."""
        probabilities = self.probabilities()
        if not torch.isfinite(probabilities).all():
            raise Violation(
                f"the probabilities of token {len(self.seen)} are not finite", cause=_NOT_FINITE, at=len(self.seen)
            )
        self.seen.append(probabilities.clone())
        token = int(torch.multinomial(probabilities, 1, generator=self.generator))
        self.sampler.observe(token, probabilities, self.memory)
        self.ids.append(token)
        return probabilities

    def finish(self) -> list[Float[Tensor, " vocab"]]:
        """Draw the tokens that are left; return the probabilities of every step."""
        while len(self.seen) < self.case.steps:
            self.step()
        return self.seen

    def forked(self) -> _Drawing:
        """The same text with a copy of the memory."""
        other = copy.copy(self)
        other.memory, other.ids, other.seen = copy.deepcopy(self.memory), list(self.ids), list(self.seen)
        other.generator = torch.Generator()
        other.generator.set_state(self.generator.get_state())
        return other


def _built(target: Target, case: Case) -> Sampler:
    sampler: Sampler = built(target, case.params)
    return sampler


def _check_same(expected: Sequence[Tensor], found: Sequence[Tensor], when: str, cause: str) -> None:
    for step, (before, after) in enumerate(zip(expected, found, strict=True)):
        if not torch.equal(before, after):
            size = float((before - after).abs().max())
            raise Violation(f"the probabilities of token {step} differ {when}", cause=cause, at=step, size=size)


@property_of("sampler", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def distribution(target: Target, case: Case) -> None:
    """Probabilities are float64, finite, not negative and sum to 1, for logits of any size, some of them -inf."""
    drawing = _Drawing(_built(target, case), case)
    for step in range(case.steps):
        in_float64 = drawing.sampler.probabilities(
            drawing.logits().double(), list(drawing.ids), drawing.sampler.new_memory()
        )
        for name, found in (("fp32", drawing.probabilities()), ("float64", in_float64)):
            _check_distribution(found, case, f"for {name} logits, the probabilities of token {step}", step)
        drawing.step()


def _check_distribution(found: Any, case: Case, which: str, step: int) -> None:
    if not isinstance(found, Tensor) or found.dtype != torch.float64 or tuple(found.shape) != (case.vocab,):
        shape = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise Violation(f"{which} are {shape}", cause=f"they must be float64 [{case.vocab}]: use logits.double()", at=step)
    if not torch.isfinite(found).all():
        raise Violation(f"{which} are not finite", cause=_NOT_FINITE, at=step)
    if (found < 0).any():
        raise Violation(f"{which} are negative: {float(found.min()):.3g}", cause="are they logits?", at=step)
    total = float(found.sum())
    if abs(total - 1) > 1e-9:
        raise Violation(
            f"{which} sum to {total:.9g}", cause="are they divided by their sum after tokens are removed?", at=step
        )


@property_of("sampler", cases=_cases, strategy=_any_case, quick=2)
@random_states_kept()
def function(target: Target, case: Case) -> None:
    """Probabilities depend only on logits, ids and memory: not on earlier calls, the instance, seeds or the clock."""
    first = _Drawing(_built(target, case), case).finish()
    twice = _Drawing(_built(target, case), case)
    for expected in first:
        _check_same([expected], [twice.probabilities()], "in another drawing", _HIDDEN)
        _check_same([expected], [twice.step()], "in a second call with the same arguments", _HIDDEN)
    with other_seeds_and_clock():
        params = json.loads(json.dumps(target.spec(case.params).to_json()))
        again = _Drawing(_built(target, Case({key: value for key, value in params.items() if key != "name"})), case)
        _check_same(first, again.finish(), "if the sampler is built again from its JSON", _HIDDEN)


_HIDDEN = "does it count calls, draw random numbers, read the clock, or keep something in self or in its class?"


@property_of("sampler", cases=_cases, strategy=_any_case)
@random_states_kept()
def separate(target: Target, case: Case) -> None:
    """A text is drawn in the same way alone, after another text, and in turn with another text."""
    alone = [_Drawing(_built(target, case), case, text).finish() for text in (0, 1)]
    sampler = _built(target, case)
    cause = "does it keep something of a text in self? only the memory that new_memory returns is the text's own"
    for text in (0, 1):
        _check_same(alone[text], _Drawing(sampler, case, text).finish(), "after another text", cause)
    drawings = [_Drawing(sampler, case, text) for text in (0, 1)]
    for _ in range(case.steps):
        for drawing in drawings:
            drawing.step()
    for drawing in drawings:
        _check_same(alone[drawing.text], drawing.seen, "in turn with another text", cause)


@property_of("sampler", cases=_cases, strategy=_any_case)
@random_states_kept()
def memory(target: Target, case: Case) -> None:
    """A copied memory continues like the original, and neither changes the other."""
    sampler = _built(target, case)
    whole = _Drawing(sampler, case).finish()
    drawing = _Drawing(sampler, case)
    for _ in range(case.steps // 2):
        drawing.step()
    copied, astray = drawing.forked(), drawing.forked()
    astray.text = 1
    astray.finish()
    cause = "is everything in the memory copied by copy.deepcopy, and nothing of it kept in self?"
    _check_same(whole, drawing.finish(), "after a copy of the memory was used", cause)
    _check_same(whole, copied.finish(), "with a copy of the memory", cause)


@property_of("sampler", cases=_cases, strategy=_any_case)
@random_states_kept()
def arguments(target: Target, case: Case) -> None:
    """Logits, ids and probabilities that it receives are not changed."""
    drawing = _Drawing(_built(target, case), case)
    for step in range(case.steps):
        before = drawing.logits().double() if step % 2 else drawing.logits()
        logits, ids = before.clone(), list(drawing.ids)
        probabilities = drawing.sampler.probabilities(logits, ids, drawing.memory)
        drawn_from = probabilities.clone()
        token = int(torch.multinomial(probabilities, 1, generator=drawing.generator))
        drawing.sampler.observe(token, probabilities, drawing.memory)
        unchanged = {
            "logits": torch.equal(logits, before),
            "ids": ids == drawing.ids,
            "probabilities": torch.equal(probabilities, drawn_from),
        }
        for name in (name for name, same in unchanged.items() if not same):
            raise Violation(f"{name} changed at token {step}", cause="is there an operation in place? copy first", at=step)
        drawing.ids.append(token)
        drawing.seen.append(drawn_from)


@random_states_kept()
def outcome(target: Target, params: Mapping[str, Any]) -> str:
    """Return a digest of the probabilities of a few texts.

    Raises:
        Unsuitable: The sampler refuses these parameters.
    """
    digest = hashlib.sha256()
    for seed in range(3):
        case = Case(params, vocab=24, prompt=12, steps=30, seed=seed)
        for probabilities in _Drawing(_built(target, case), case).finish():
            digest.update(probabilities.numpy().tobytes())
    return digest.hexdigest()
