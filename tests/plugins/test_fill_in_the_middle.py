from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt.components.tokenizer.byte import ByteTokenizer
from minigpt.components.tokenizer.char import CharTokenizer
from minigpt.contracts import Draw, Source, TokenRows, TokenStream
from minigpt.errors import DataError, ExperimentError
from tests.plugins.conftest import Build, Train

TEXT = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def rows(build: Build, *, step: int = 0, block_size: int = 20, **params: Any) -> list[str]:
    """Inputs and last target of a batch, as text."""
    tokenizer = ByteTokenizer()
    source = Source(TokenStream(torch.from_numpy(tokenizer.encode(TEXT))), 256, tokenizer)
    drawn = build(**params).batch(source, Draw(1, step, 100, 200, block_size))
    assert drawn.mask is None
    assert torch.equal(drawn.tokens[:, 1:], drawn.targets[:, :-1])
    return [tokenizer.decode(row) for row in torch.cat((drawn.tokens, drawn.targets[:, -1:]), 1).tolist()]


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_the_parts_of_a_window_are_a_stretch_of_the_text(build: Build, order: str) -> None:
    lengths = set()
    for row in rows(build, rate=1.0, order=order, marks="<|>"):
        assert row.startswith("<" if order == "psm" else "<|")
        beginning, _, rest = row[1:].partition("|")
        suffix, _, rest = rest.partition(">")
        prefix, middle = (beginning, rest) if order == "psm" else ("", rest)  # in spm the prefix and the middle are joined
        assert prefix + middle + suffix in TEXT
        assert len(prefix + middle + suffix) == 18
        lengths.add((len(prefix), len(suffix)))
    assert len(lengths) > (80 if order == "psm" else 15), "cut anywhere"


def test_the_rate_is_the_share_of_rearranged_windows(build: Build) -> None:
    found = [row for row in rows(build, rate=0.25, marks="<|>") if "<" in row]
    assert 30 < len(found) < 70
    assert all(row in TEXT for row in rows(build, rate=0.0))
    assert all(row in TEXT for row in rows(build, rate=1.0, block_size=2)), "no room for the marks"


def test_marks_that_the_tokenizer_does_not_have_are_refused(build: Build) -> None:
    tokenizer = CharTokenizer()
    tokenizer.fit(TEXT)
    source = Source(TokenStream(torch.from_numpy(tokenizer.encode(TEXT))), tokenizer.vocab_size, tokenizer)
    with pytest.raises(DataError, match=r"^batching: marks of fill_in_the_middle: character '<'.*use tokenizer byte$"):
        build(marks="<|>").batch(source, Draw(1, 0, 1, 2, 20))
    bytewise = Source(source.data, 256, ByteTokenizer())
    with pytest.raises(DataError, match="must be one token each"):
        build(marks="<|é").batch(bytewise, Draw(1, 0, 1, 2, 20))
    ids = torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(DataError, match="needs text"):
        build().batch(Source(TokenRows(ids, ids, ids == 0), 1, None), Draw(1, 0, 1, 2, 4))
    with pytest.raises(ExperimentError, match="three different characters"):
        build(marks="<<>")


def test_its_experiment_trains(train_experiment: Train) -> None:
    assert len(train_experiment().run.rows()) == 4


def test_marks_that_a_text_lacks_are_reported_before_the_run_begins(train_experiment: Train, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"marks of fill_in_the_middle: character '\\x01'"):
        train_experiment('tokenizer="char"')
    assert not list(tmp_path.glob("runs/*/*"))
