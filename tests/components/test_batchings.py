"""Each batching draws what its description says, compared with plain Python."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt.contracts import Batch, Batching, Dataset, Draw, Source, Splits, TokenRows, TokenStream
from minigpt.data import load_corpus, tokens_trained, train_batch
from minigpt.errors import DataError, ExperimentError
from minigpt.experiment import Experiment
from minigpt.lab.compare.grid import Corpora
from minigpt.lab.compare.variants import Variant, check_same_data
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run.evaluation import micro_batch_size
from minigpt.run.identity import Identity
from minigpt.run.provenance import changed_since, provenance
from minigpt.training import PlainObserver, train
from minigpt.training.observer import Plan

CPU = torch.device("cpu")


def batching(name: str, **params: Any) -> Batching:
    built = REGISTRY.resolve("batching", {"name": name, **params}).build()
    assert isinstance(built, Batching)
    return built


def text(length: int, *starts: int) -> Source:
    documents = torch.tensor([0, *starts]) if starts else None
    return Source(TokenStream(torch.arange(length, dtype=torch.int32), documents), length, None)


def rows(count: int, time: int = 3) -> Source:
    tokens = torch.arange(count * time).view(count, time)
    return Source(TokenRows(tokens, tokens + 1, tokens % 2 == 0), count * time + 1, None)


def draw(step: int, batch_size: int = 4, block_size: int = 8, max_iters: int = 100, seed: int = 5) -> Draw:
    return Draw(seed, step, max_iters, batch_size, block_size)


# ----------------------------------------------------------------------------------------------------------- windows


def test_windows_are_drawn_with_numbers_of_the_seed_and_the_step() -> None:
    """The draws of every experiment so far, written out."""
    for step in range(3):
        starts = np.random.Generator(np.random.Philox(key=[5, step])).integers(0, 50 - 8, 4)
        drawn = batching("windows").batch(text(50), draw(step))
        assert drawn.tokens.tolist() == [list(range(start, start + 8)) for start in starts]
        assert drawn.targets.tolist() == [list(range(start + 1, start + 9)) for start in starts]
        chosen = np.random.Generator(np.random.Philox(key=[5, step])).integers(0, 20, 4)
        drawn = batching("windows").batch(rows(20), draw(step, block_size=3))
        assert drawn.tokens[:, 0].tolist() == [3 * row for row in chosen]


# --------------------------------------------------------------------------------------------------------- documents


@given(st.sets(st.integers(1, 59), max_size=30), st.integers(0, 20), st.integers(1, 30))
def test_documents_count_every_target_but_the_first_of_a_document(starts: set[int], step: int, block_size: int) -> None:
    source = text(60, *sorted(starts)) if starts else Source(TokenStream(torch.arange(60), torch.tensor([0])), 60, None)
    drawn = batching("documents").batch(source, draw(step, block_size=block_size))
    plain = batching("windows").batch(source, draw(step, block_size=block_size))
    assert torch.equal(drawn.tokens, plain.tokens)
    assert torch.equal(drawn.targets, plain.targets)
    assert drawn.mask is not None
    assert drawn.segments is not None
    document = np.cumsum([token in starts for token in range(60)])  # by token, which is its own place
    assert drawn.mask.tolist() == [[target not in starts for target in row] for row in drawn.targets.tolist()]
    for tokens, segments in zip(drawn.tokens.tolist(), drawn.segments.tolist(), strict=True):
        assert segments == [document[token] - document[tokens[0]] for token in tokens]
    assert drawn.positions is None
    restarted = batching("documents", restart_positions=True).batch(source, draw(step, block_size=block_size))
    assert restarted.positions is not None
    for tokens, positions in zip(drawn.tokens.tolist(), restarted.positions.tolist(), strict=True):
        first = [max([tokens[0], *(start for start in starts if start <= token)]) for token in tokens]
        assert positions == [token - begin for token, begin in zip(tokens, first, strict=True)]


def test_a_dataset_says_where_documents_begin_and_each_is_encoded_separately(tmp_path: Path) -> None:
    for number, content in enumerate(["abab", "abcab", "ab" * 300, "never for training " * 4]):
        (tmp_path / f"{number}.txt").write_text(content)
    document = {
        "data": {"name": "text", "paths": [str(tmp_path)], "val_fraction": 0.1},
        "tokenizer": {"name": "bpe", "vocab_size": 258},
        "model": {"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 8},
    }
    plain, asked = (load_experiment({**document, "training": {"batching": name}}) for name in ("windows", "documents"))
    splits = plain.data.build().load()
    assert (splits.documents, splits.val_documents) == ((0, 5, 11, 612), (0,))
    without, with_documents = load_corpus(plain), load_corpus(asked)
    assert isinstance(without.train, TokenStream)
    assert isinstance(with_documents.train, TokenStream)
    assert without.train.starts is None
    assert with_documents.train.starts is not None
    assert with_documents.tokenizer is not None
    ends = [*with_documents.train.starts[1:].tolist(), len(with_documents.train.ids)]
    texts = [
        with_documents.tokenizer.decode(with_documents.train.ids[start:end].numpy())
        for start, end in zip(with_documents.train.starts.tolist(), ends, strict=True)
    ]
    assert isinstance(splits.train, str)
    assert texts == [splits.train[:5], splits.train[5:11], splits.train[11:612], splits.train[612:]]
    assert torch.equal(with_documents.val.ids, without.val.ids)  # type: ignore[union-attr]
    assert with_documents.fingerprint == without.fingerprint, "a comparison with windows is one on the same data"
    assert without.documents is None
    assert with_documents.documents is not None
    for number in (0, 1):  # the same text in other documents
        (tmp_path / f"{number}.txt").write_text(["abab\nab", "cab"][number])
    other = load_corpus(asked)
    assert other.documents not in (None, with_documents.documents)
    before, after = (provenance(asked, each, device=CPU, precision="fp32") for each in (with_documents, other))
    assert Identity.of(before) != Identity.of(after)
    assert [change.what for change in changed_since(before, after)] == ["the data", "the documents"]
    windows = provenance(plain, without, device=CPU, precision="fp32")
    assert [change.what for change in changed_since(before, windows)][-1:] != ["the documents"], "the batching says it"


def test_variants_with_and_without_documents_have_their_own_tokens(tmp_path: Path) -> None:
    corpora = Corpora()
    plain, asked = (Variant(name, experiment(tmp_path, batching=name), "") for name in ("windows", "documents"))
    assert corpora.of(plain).documents is None
    assert corpora.of(asked).documents is not None
    check_same_data([plain, asked], corpora.of, "nats")


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (None, "data: task does not say where documents begin, which training.batching documents needs"),
        ((3,), "data: the documents of task must begin at 0, increase, and end with the text"),
        ((0, 7, 7), "must begin at 0, increase"),
        ((0, 400), "must begin at 0, increase"),
        ((), "must begin at 0, increase"),
    ],
)
def test_missing_and_wrong_documents_are_one_line(documents: tuple[int, ...] | None, message: str) -> None:
    class Task(Dataset):
        """A text."""

        def __init__(self) -> None:
            pass

        def load(self) -> Splits:
            return Splits("abcd" * 100, "dcba" * 10, documents=documents)

    REGISTRY.register("dataset", "task")(Task)
    small = {"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 8}
    with pytest.raises(DataError, match=message):
        load_corpus(load_experiment({"data": "task", "model": small, "training": {"batching": "documents"}}))


def test_documents_refuse_a_task() -> None:
    with pytest.raises(DataError, match="documents needs text of which it is known where documents begin"):
        batching("documents").batch(rows(9), draw(0, block_size=3))


# ----------------------------------------------------------------------------------------------------------- growing


def sizes(max_iters: int, batch_size: int, block_size: int, **params: Any) -> list[tuple[int, int]]:
    grown = batching("growing", **params)
    draws = [draw(step, batch_size, block_size, max_iters) for step in range(max_iters)]
    shapes = [tuple(grown.batch(text(300), each).tokens.shape) for each in draws]
    assert [grown.shape(each).n_tokens for each in draws] == [sequences * length for sequences, length in shapes]
    return [(sequences, length) for sequences, length in shapes]


def test_growing_lengthens_sequences_linearly_in_multiples() -> None:
    found = sizes(10, 4, 40, context=0.2, over=0.8, multiple=4)
    # 8 + 32 * step / 8, down to a multiple of 4
    assert found == [(4, length) for length in (8, 12, 16, 20, 24, 28, 32, 36, 40, 40)]


def test_growing_adds_sequences_linearly() -> None:
    assert sizes(6, 16, 8, context=1.0, batch=0.25, over=1.0) == [(count, 8) for count in (4, 6, 8, 10, 12, 14)]


def test_growing_with_equal_tokens_draws_more_of_the_short_sequences() -> None:
    found = sizes(8, 6, 32, context=0.25, over=1.0, multiple=8, equal_tokens=True)
    assert found[0] == (24, 8)
    assert {sequences * length for sequences, length in found} == {192}
    assert sorted({length for _, length in found}) == [8, 16, 24]


def test_growing_with_everything_at_once_is_windows() -> None:
    for step in range(5):
        grown = batching("growing", context=1.0).batch(text(99), draw(step))
        assert torch.equal(grown.tokens, batching("windows").batch(text(99), draw(step)).tokens)


def test_growing_cannot_shorten_the_rows_of_a_task() -> None:
    with pytest.raises(DataError, match="growing cannot shorten the rows of a task; set its context to 1.0"):
        batching("growing").batch(rows(9), draw(0, block_size=3))
    assert len(batching("growing", context=1.0, batch=0.5).batch(rows(9), draw(0, block_size=3)).tokens) == 2


# ---------------------------------------------------------------------------------------------------------- shuffled


@given(st.integers(2, 150), st.integers(1, 9), st.integers(1, 12), st.booleans())
def test_shuffled_reads_every_window_of_an_epoch_once(length: int, batch_size: int, block_size: int, offset: bool) -> None:
    source, block_size = text(length), min(block_size, length - 1)
    shuffled = batching("shuffled", offset=offset)
    first = [
        row[0] for step in range(60) for row in shuffled.batch(source, draw(step, batch_size, block_size)).tokens.tolist()
    ]
    n_windows = (length - 1) // block_size
    count = max(1, (length - 1 - (block_size - 1) * offset) // block_size)
    orders = [first[place : place + count] for place in range(0, len(first) // count * count, count)]
    for order in orders:
        starts = sorted(order)
        assert np.array_equal(np.diff(starts), np.full(count - 1, block_size)), "adjacent windows, each once"
        assert starts[0] == 0 or (offset and starts[0] < block_size)
    assert offset or count == n_windows
    if count > 8 and len(orders) > 1:
        assert orders[0] != orders[1], "a new order in each epoch"


def test_the_offset_of_an_epoch_varies_and_reaches_both_ends() -> None:
    first = [batching("shuffled").batch(text(40), draw(step, 4, 8)).tokens for step in range(300)]
    assert {int(tokens.min()) for tokens in first} == set(range(8))
    assert max(int(tokens.max()) for tokens in first) == 38


def test_shuffled_reads_every_row_of_a_task_once() -> None:
    drawn = [batching("shuffled").batch(rows(10), draw(step, 4, 3)).tokens[:, 0].tolist() for step in range(5)]
    numbers = [first // 3 for each in drawn for first in each]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))
    assert numbers[:10] != numbers[10:]


# ------------------------------------------------------------------------------------------------------- in training


def experiment(path: Path, **training: Any) -> Experiment:
    (path / "corpus.txt").write_text("".join(f"{a} times {b} is {a * b}.\n" for a in range(20) for b in range(20)))
    return load_experiment(
        {
            "data": {"name": "text", "paths": [str(path / "corpus.txt")]},
            "model": {"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 16},
            "training": {"batch_size": 4, "max_iters": 8, "precision": "fp32", "compile": False, **training},
            "sampling": {"max_new_tokens": 2},
        }
    )


def test_a_batch_is_drawn_as_the_experiment_says(tmp_path: Path) -> None:
    one = experiment(tmp_path, batching={"name": "growing", "context": 0.5, "over": 1.0})
    corpus = load_corpus(one)
    assert [train_batch(corpus, one, step).tokens.shape for step in (0, 7)] == [(4, 8), (4, 8)]
    late = train_batch(corpus, one.model_copy(update={"seed": 2}), 9)
    assert late.tokens.shape == (4, 16), "after the last update, everything has grown"


def test_tokens_are_counted_as_they_are_trained(tmp_path: Path) -> None:
    one = experiment(tmp_path, batching={"name": "growing", "context": 0.5, "batch": 0.5, "over": 0.5})
    observed: list[int] = []

    class Watching(PlainObserver):
        def begin(self, plan: Plan) -> None:
            super().begin(plan)
            observed.append(plan.tokens)

    outcome = train(one, out=tmp_path / "runs", device="cpu", observer=Watching(io.StringIO()))
    counted = [train_batch(load_corpus(one), one, step).tokens.numel() for step in range(8)]
    assert [row.tokens for row in outcome.run.rows()] == np.cumsum(counted).tolist()
    assert observed == [sum(counted)] == [tokens_trained(one)]
    assert tokens_trained(one, first_step=6) == sum(counted[6:])


def test_tokens_of_a_long_training_are_extrapolated(tmp_path: Path) -> None:
    assert tokens_trained(experiment(tmp_path, max_iters=3_000_001)) == 3_000_001 * 64
    grown = experiment(
        tmp_path, max_iters=1_000_000, batching={"name": "growing", "context": 1.0, "batch": 0.25, "over": 1.0}
    )
    assert tokens_trained(grown) == pytest.approx(1_000_000 * 16 * (1 + 2 + 3) / 3, rel=1e-3)


def test_a_mixer_that_looks_across_documents_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    one = experiment(tmp_path, batching="documents")
    assert train(one, out=tmp_path / "runs", device="cpu", observer=PlainObserver(io.StringIO())).status == "finished"
    model = one.model.model_copy(update={"attention": REGISTRY.resolve("attention", "gla")})
    other = one.model_copy(update={"model": model, "name": "other"})
    with pytest.raises(
        ExperimentError,
        match=r"^training.batching: blocks.0.attention \(GatedLinearAttention\) cannot keep the segments of a row apart",
    ):
        train(other, out=tmp_path / "runs", device="cpu", observer=PlainObserver(io.StringIO()))
    assert not (tmp_path / "runs" / other.name / f"seed-{other.seed}" / "experiment.json").exists()


def test_a_batch_is_split_with_all_its_parts() -> None:
    whole = torch.arange(12).view(4, 3)
    batch = Batch(whole, whole + 1, whole > 3, whole + 2, whole[:, :1], whole + 4)
    parts = list(batch.split(3))
    assert [len(part.tokens) for part in parts] == [3, 1]
    for name, tensor in vars(batch).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), tensor)
    assert [part.n_targets for part in parts] == [5, 3]
    assert next(replace(batch, mask=None, segments=None, memory=None).split(2)).memory is None


def test_sources_move_with_their_documents() -> None:
    data = text(20, 5).data
    moved = data.to(torch.device("meta"))
    assert isinstance(moved, TokenStream)
    assert moved.starts is not None
    assert moved.starts.device.type == moved.ids.device.type == "meta"


def test_short_sequences_are_put_into_micro_batches_by_their_length(tmp_path: Path) -> None:
    one = experiment(tmp_path)
    assert [micro_batch_size(one, CPU, length) for length in (None, 16, 4)] == [256, 256, 1024]
    assert [micro_batch_size(one, torch.device("cuda"), length) for length in (None, 16, 4)] == [4, 4, 16]
    fixed = experiment(tmp_path, micro_batch_size=2)
    assert micro_batch_size(fixed, CPU, 4) == 2
