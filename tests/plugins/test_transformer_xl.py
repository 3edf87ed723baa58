from __future__ import annotations

import numpy as np
import pytest
import torch

from minigpt.contracts import Batch, Draw, Source, TokenRows, TokenStream
from minigpt.errors import DataError
from minigpt.model import build_model
from minigpt.reading import load_experiment
from tests.conftest import Command
from tests.plugins.conftest import ROOT, Build, Train


def drawn(build: Build, step: int, *, memory: int = 7, length: int = 97, seed: int = 1) -> Batch:
    """Ids that are places of the text."""
    source = Source(TokenStream(torch.arange(length)), length, None)
    batch = build(memory=memory).batch(source, Draw(seed, step, 100, 3, 5))
    assert isinstance(batch, Batch)
    return batch


def test_each_row_continues_where_it_ended_and_has_the_tokens_before_it(build: Build) -> None:
    places = 97 - 5 - 7  # a window with its targets and its memory begins at one of these
    starts = drawn(build, 0).tokens[:, 0] - 7
    assert np.diff(starts.sort().values).tolist() in ([28, 28], [28, 29], [29, 28], [28, 57], [57, 28], [29, 56], [56, 29])
    for step in range(60):
        batch = drawn(build, step)
        assert batch.memory is not None
        for row, start in enumerate(starts.tolist()):
            text = list(range(97))[(start + 5 * step) % places :]
            assert batch.memory[row].tolist() == text[:7]
            assert batch.tokens[row].tolist() == text[7:12]
            assert batch.targets[row].tolist() == text[8:13]


def test_a_row_reads_the_whole_text_in_order(build: Build) -> None:
    row = torch.cat([drawn(build, step).tokens[0] for step in range(17)])
    assert row.unique().numel() == 85


def test_a_text_that_is_too_short_has_a_shorter_memory_or_none(build: Build) -> None:
    short, none = drawn(build, 0, length=9), drawn(build, 0, length=6)
    assert short.memory is not None
    assert short.memory.tolist() == [[0, 1, 2]] * 3
    assert none.memory is None
    assert none.tokens.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_rows_of_a_task_are_refused(build: Build) -> None:
    ids = torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(DataError, match="transformer_xl needs text"):
        build().batch(Source(TokenRows(ids, ids, ids == 0), 1, None), Draw(1, 0, 1, 2, 4))


def test_the_loss_is_that_of_the_longer_row_and_the_memory_has_no_gradient(build: Build) -> None:
    """An independent computation: one pass over memory and tokens, of which only the targets of the tokens count."""
    changes = ["model.d_model=16", "model.n_layers=2", "model.block_size=16", "model.embedding.tied=false"]
    model = build_model(load_experiment(ROOT / "experiments" / "transformer_xl.json", overrides=changes), 97).double()
    batch = drawn(build, 3)
    assert batch.memory is not None
    loss = model.loss(batch.tokens, batch.targets, memory=batch.memory)[0]
    logits = model(torch.cat((batch.memory, batch.tokens), 1))[:, 7:]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    (table,) = (each.tensor.grad for each in model.named_roles() if each.role == "embedding")
    assert table is not None
    only_memory = sorted(set(batch.memory.flatten().tolist()) - set(batch.tokens.flatten().tolist()))
    assert only_memory
    assert not table[only_memory].any()
    assert table[batch.tokens.flatten()].any(1).all()


def test_its_experiment_trains_and_generates(train_experiment: Train, minigpt: Command) -> None:
    outcome = train_experiment("training.batching.memory=20")
    assert minigpt("generate", outcome.run.path, "The ", "--max-new-tokens", "5")[0] == 0
