"""The cases that the properties of a model's parts share: parameters, sizes, modes, and how long the part was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from minigpt.check.parameters import parameter_sets, parameters
from minigpt.check.targets import Target
from minigpt.experiment import Experiment

VOCAB = 23
LOOKS_BACK = "looks_back"
LONG = 130
"""A length of more than two chunks of 64, the most common chunk size in kernels."""

_OVER_A_CHUNK = 300
"""A length over a chunk of 256, which some kernels use."""

MANY_IDS = 264
"""Rows of a batch in which every common id occurs at every place: those of bytes and characters, and the last eight."""

_LARGE_VOCAB, _USUAL_VOCAB = 50_257, 65
"""The vocabularies of GPT-2, and of a text by characters. The second stands for one that only the data would show."""

_MOST_LOGITS_WIDE = 512
"""The vocabulary of a whole model in the shared cases is not larger, because its logits would take most of the time."""

UPDATES, _MANY_UPDATES = 100, 300
_WORK = 2_000_000_000
"""Weights times tokens that a case of an experiment may take in one pass: about a tenth of a second."""


@dataclass(frozen=True)
class Case:
    """One test case for a part of a model.

    An experiment uses its own parameters and sizes, except `time`, `batch`, `training`, `updates` and `seed`.

    Attributes:
        params: Parameters that differ from the defaults.
        n_heads: Number H of query heads.
        head_dim: Width K of one head.
        d_model: Width D of the residual stream.
        n_layers: Number of layers, all of the same component.
        position: Position component used with an attention.
        ffn: Feed-forward inside a block.
        block_size: Longest context, in tokens.
        time: Number T of tokens.
        batch: Number B of sequences.
        vocab: Number V of token ids.
        training: Whether the model is in train mode.
        updates: Number of updates before the case is tried.
        dropout: The model's dropout rate in train mode.
        score_factor: On attention scores.
        seed: Seed of weights and inputs.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    n_heads: int = 2
    head_dim: int = 4
    d_model: int = 8
    n_layers: int = 2
    position: str = "none"
    ffn: str = "mlp"
    block_size: int = 40
    time: int = 40
    batch: int = 2
    vocab: int = VOCAB
    training: bool = False
    updates: int = 0
    dropout: float = 0.0
    score_factor: float = 1.0
    seed: int = 0

    def shown(self, target: Target) -> list[str]:
        """Return the fields that affect a target; for example, a norm has no heads."""
        if target.experiment is not None:
            return ["time", "batch", "vocab", "training", "updates", "seed"]
        if target.family == "norm":
            return ["params", "d_model", "block_size", "time", "batch", "training", "updates", "seed"]
        neighbours = {"attention": ["position"], "block": ["ffn"]}.get(target.family, [])
        sizes = ["n_heads", "head_dim", "d_model", "n_layers", "block_size", "time", "batch", "vocab"]
        return ["params", *neighbours, *sizes, "training", "updates", "dropout", "seed"]


def standard_cases(target: Target) -> list[Case]:
    """Return the defaults at many sizes, in both modes and after updates, then cases with one parameter changed each."""
    positions = positions_for(target)
    if target.experiment is not None:
        size, short, vocab = _sizes(target.experiment)
        return [
            Case(block_size=size, time=short, vocab=vocab),
            Case(block_size=size, time=size, vocab=vocab, training=True),
            Case(block_size=size, time=short, vocab=vocab, updates=UPDATES),
            Case(block_size=size, time=short, vocab=vocab, training=True, updates=1),
            Case(block_size=size, time=size, vocab=vocab),
            Case(block_size=size, time=1, vocab=vocab),
        ]
    base, *changed = parameter_sets(target)
    first, last = positions[0], positions[-1]
    cases = [
        Case(base, block_size=LONG, time=LONG, position=last),
        Case(base, 3, 6, 18, block_size=LONG, time=LONG, training=True, dropout=0.2, position=first, ffn=LOOKS_BACK),
        Case(base, time=24, position=last, vocab=_USUAL_VOCAB, updates=UPDATES, seed=5),
        Case(base, 2, 64, 128, 1, time=40, position=positions[len(positions) // 2], seed=1),
        Case(base, 1, 128, 128, 1, time=20, position=last, training=True, seed=6),
        Case(base, 1, 8, 8, 1, block_size=32, time=1, batch=1, position=last),
        Case(base, 4, 4, 20, 1, block_size=32, time=2, batch=1, training=True, updates=1),
        Case(base, 8, 4, 32, 3, time=12, position=last, seed=2),  # for mistakes in every third layer
        Case(base, 1, 4, 4, 1, block_size=_OVER_A_CHUNK, time=_OVER_A_CHUNK, batch=1, position=last, seed=3),
        Case(base, 1, 4, 4, 1, block_size=_OVER_A_CHUNK, time=_OVER_A_CHUNK, batch=1, training=True, position=first, seed=4),
    ]
    cases += [
        Case(params, 4, 4, 16, time=24, position=positions[number % len(positions)], training=number % 2 == 1, seed=number)
        for number, params in enumerate(changed)
    ]
    return cases


def fewer_cases(target: Target) -> list[Case]:
    """Return the first standard cases, for slow properties that parameters seldom affect."""
    return standard_cases(target)[:9]


def cases_of_leaks(target: Target) -> list[Case]:
    """Return the standard cases and, after the first five, those in which a hidden leak might show."""
    first = _without_long(target)
    return [*first[:5], *_rare_cases(target), *first[5:]]


def _without_long(target: Target) -> list[Case]:
    """Return the standard cases without those over a chunk of 256, which the longer rare cases include."""
    return [case for case in standard_cases(target) if case.time != _OVER_A_CHUNK or target.experiment is not None]


def cases_in_eval_mode(cases: Sequence[Case]) -> list[Case]:
    """Return the cases that are different in eval mode, for properties without a train mode."""
    same = [replace(case, position="", training=False, dropout=0.0, seed=0) for case in cases]
    return [case for number, case in enumerate(cases) if same[number] not in same[:number]]


def _rare_cases(target: Target) -> list[Case]:
    """Return cases of sizes that matter for some mistakes only.

    These are every id at every place, many updates, many layers, long contexts, and an experiment's own batch.
    """
    if target.experiment is not None:
        return _cases_of_experiment(target.experiment)
    base, last = parameter_sets(target)[0], positions_for(target)[-1]
    whole = target.family in ("block", "embedding")
    vocab = MANY_IDS if whole else _LARGE_VOCAB
    return [
        Case(base, n_layers=1, time=4, batch=MANY_IDS, vocab=vocab, position=last),
        Case(base, n_layers=1, time=4, batch=MANY_IDS, vocab=MANY_IDS, training=True),
        Case(base, n_layers=1, time=12, position=last, training=True, updates=_MANY_UPDATES),
        Case(base, 1, 4, 4, 1, block_size=1024, time=1024, batch=1, training=True),
        Case(base, 1, 4, 4, 1, block_size=1024, time=1024, batch=1, position=last),
        Case(base, n_layers=12, time=6, position=last),
        *([Case(base, n_layers=1, time=8, batch=1, vocab=_LARGE_VOCAB)] if whole else []),
    ]


def cases_of_decoding(target: Target) -> list[Case]:
    """Return the standard cases and the rare ones that eval mode affects, each once."""
    rare = [case for case in _rare_cases(target) if case.updates or not case.training]
    return cases_in_eval_mode([*_without_long(target), *rare])


def _sizes(experiment: Experiment) -> tuple[int, int, int]:
    """Return block_size, a short length, and a vocabulary size for most cases of an experiment."""
    size = experiment.model.block_size
    return size, min(size, 33), min(vocab_of(experiment), _MOST_LOGITS_WIDE)


def _cases_of_experiment(experiment: Experiment) -> list[Case]:
    """Return an experiment's own batch, every id, as many updates as time allows, and its whole vocabulary."""
    size, short, vocab = _sizes(experiment)
    n_weights = 12 * experiment.model.n_layers * experiment.model.d_model**2
    training, own_vocab = experiment.training, vocab_of(experiment)
    rows = max(2, min(training.batch_size, _WORK // (size * n_weights)))
    updates = min(training.max_iters, 1000, max(UPDATES, _WORK // n_weights))
    own_batch = [Case(block_size=size, time=size, batch=rows, vocab=vocab, training=True)]
    if rows < training.batch_size:
        own_batch = [Case(block_size=size, time=min(4, size), batch=training.batch_size, vocab=vocab, training=True)]
    return [
        *own_batch,
        Case(block_size=size, time=min(4, size), batch=MANY_IDS, vocab=min(vocab, MANY_IDS)),
        Case(block_size=size, time=short, vocab=vocab, training=True, updates=updates),
        *([Case(block_size=size, time=min(8, size), batch=1, vocab=own_vocab)] if own_vocab > vocab else []),
    ]


def vocab_of(experiment: Experiment) -> int:
    """Return an experiment's vocabulary size as far as it is known without the data; else that of a usual text."""
    chosen = experiment.tokenizer.params.get("vocab_size", _USUAL_VOCAB)
    return 256 if experiment.tokenizer.name == "byte" else int(chosen)


def any_case(target: Target) -> st.SearchStrategy[Case]:
    """Return a strategy for any case; it shrinks to the smallest."""
    few = [0, 0, 0, 1, 3]
    if target.experiment is not None:
        size, _, vocab = _sizes(target.experiment)
        return st.builds(
            Case,
            block_size=st.just(size),
            time=st.integers(1, min(40, size)),
            vocab=st.just(vocab),
            training=st.booleans(),
            updates=st.sampled_from(few),  # a fixed case has many
            seed=st.integers(0, 9),
        )

    @st.composite
    def draw(pick: st.DrawFn) -> Case:
        n_heads, head_dim = pick(st.sampled_from([2, 1, 3, 4, 6])), pick(st.sampled_from([4, 2, 6, 8, 16]))
        time = pick(st.integers(1, 70))
        return Case(
            params=pick(parameters(target)),
            n_heads=n_heads,
            head_dim=head_dim,
            d_model=n_heads * head_dim + pick(st.sampled_from([0, 0, 0, 2])),
            n_layers=pick(st.integers(1, 2)),
            position=pick(st.sampled_from(positions_for(target))),
            ffn=pick(st.sampled_from(["mlp", LOOKS_BACK])) if target.family == "block" else "mlp",
            block_size=pick(st.sampled_from([time, 70, LONG])),
            time=time,
            batch=pick(st.integers(1, 3)),
            vocab=pick(st.sampled_from([VOCAB, _USUAL_VOCAB, MANY_IDS])),
            training=pick(st.booleans()),
            updates=pick(st.sampled_from([*few, UPDATES])),
            seed=pick(st.integers(0, 99)),
        )

    return draw()


def positions_for(target: Target) -> list[str]:
    """Return the position components to use with an attention: none, and one for each hook it uses."""
    uses: frozenset[str] = getattr(target.entry.cls, "uses", frozenset()) if target.entry else frozenset()
    return ["none", *(name for hook, name in (("bias", "alibi"), ("rotate", "rope")) if hook in uses)]
