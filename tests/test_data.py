from __future__ import annotations

import io
import itertools
import json
import math
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minigpt import data
from minigpt.contracts import Dataset, Sequences, Splits, TokenRows, TokenStream
from minigpt.data import entropies, load_corpus, train_batch
from minigpt.errors import DataError, TokenizerError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY, register
from minigpt.run import open_run
from minigpt.training import PlainObserver, train
from tests.conftest import Command


def experiment(path: Path, text: str | bytes, **changes: Any) -> Experiment:
    file = path / "corpus.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    data = {"name": "text", "paths": [str(file)], **changes.pop("data", {})}
    model = {"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 8, **changes.pop("model", {})}
    return load_experiment({"data": data, "model": model, "training": {"batch_size": 4}, **changes})


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 5))
def test_windows_predict_every_token_but_the_first_exactly_once(length: int, block_size: int, batch_size: int) -> None:
    stream = TokenStream(torch.arange(length))
    targets = [target for batch in stream.windows(batch_size, block_size) for target in batch.targets.flatten().tolist()]
    assert targets == list(range(1, length))
    for batch in stream.windows(batch_size, block_size):
        assert torch.equal(batch.tokens + 1, batch.targets)
        assert batch.tokens.shape[0] <= batch_size
        assert batch.tokens.shape[1] <= block_size


def test_a_batch_is_a_function_of_seed_and_step_alone(tmp_path: Path) -> None:
    one = experiment(tmp_path, "abcdefgh" * 40)
    corpus = load_corpus(one)
    first = train_batch(corpus, one, 7)
    train_batch(corpus, one, 8)
    assert torch.equal(train_batch(corpus, one, 7).tokens, first.tokens)
    assert not torch.equal(train_batch(corpus, one, 8).tokens, first.tokens)
    other = one.model_copy(update={"seed": 2})
    assert not torch.equal(train_batch(corpus, other, 7).tokens, first.tokens)
    wider = experiment(tmp_path, "abcdefgh" * 40, model={"d_model": 16, "attention": "gqa"})
    assert torch.equal(train_batch(load_corpus(wider), wider, 7).tokens, first.tokens), "with any architecture"


def test_batches_reach_every_position_of_the_split(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 60)))
    one = experiment(tmp_path, text)
    corpus = load_corpus(one)
    assert isinstance(corpus.train, TokenStream)
    seen = Counter[int]()
    for step in range(300):
        batch = train_batch(corpus, one, step)
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
        seen.update(batch.targets[:, -1].tolist() + batch.tokens[:, 0].tolist())
    assert set(corpus.train.ids.tolist()) == set(seen), "the first and the last token too"


def test_the_first_nine_tenths_are_for_training() -> None:
    splits = Splits.of_text("x" * 1_115_394, 0.1)
    assert (len(splits.train), len(splits.val)) == (1_003_854, 111_540)


def test_the_corpus_is_tokenized_and_identified_by_its_content(tmp_path: Path) -> None:
    one = load_corpus(experiment(tmp_path, "hello world, héllo\n" * 20))
    assert one.vocab_size == len(set("hello world, héllo\n"))
    assert one.tokenizer is not None
    assert isinstance(one.val, TokenStream)
    text = one.tokenizer.decode(one.val.ids.tolist())
    assert one.val_bytes == len(text[1:].encode())
    again = load_corpus(experiment(tmp_path, "hello world, héllo\n" * 20))
    other = load_corpus(experiment(tmp_path, "hello world, hello\n" * 20))
    moved = load_corpus(experiment(tmp_path, "hello world, héllo\n" * 20, data={"val_fraction": 0.2}))
    assert one.fingerprint == again.fingerprint
    assert len({one.fingerprint, other.fingerprint, moved.fingerprint}) == 3


def test_a_char_tokenizer_has_the_validation_texts_characters(tmp_path: Path) -> None:
    corpus = load_corpus(experiment(tmp_path, "a" * 90 + "b" * 10))
    assert corpus.vocab_size == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the training split has 0 tokens; at least 9 are needed"),
        (b"abc", r"the training split has 2 tokens; at least 9 are needed \(model.block_size \+ 1 for training\)"),
        (b"abcdefghij", "the validation split has 1 token; at least 2"),
        (b"good \xff bad", "corpus.txt: the byte 0xff at offset 5 is not UTF-8; "),
        (b"\xef\xbb\xbfgood \xff", "the byte 0xff at offset 8 is not UTF-8"),
    ],
)
def test_an_unusable_corpus_is_a_one_line_error(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_corpus(experiment(tmp_path, text))


def test_bytes_that_are_not_utf8_can_be_replaced(tmp_path: Path) -> None:
    corpus = load_corpus(experiment(tmp_path, b"good \xff" + b" bad " * 40, data={"errors": "replace"}))
    assert corpus.tokenizer is not None
    assert "\ufffd" in corpus.tokenizer.decode(range(corpus.vocab_size))


def test_line_endings_and_nul_are_kept_and_byte_order_marks_removed(tmp_path: Path) -> None:
    corpus = load_corpus(experiment(tmp_path, b"\xef\xbb\xbfa\r\nb\0c\r" * 1 + b"xyz" * 30))
    assert corpus.tokenizer is not None
    assert corpus.tokenizer.decode(range(corpus.vocab_size)) == "\0\n\rabcxyz"


any_bytes = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\0", b"\xed\xa0\x80"]), st.binary(max_size=60)).map(
        b"".join
    ),
    st.tuples(st.text(min_size=1, max_size=3), st.integers(1, 200)).map(
        lambda pair: (pair[0] * pair[1]).encode("utf-8", "replace")
    ),
)


REFUSALS = (
    "at least",
    "is not UTF",
    "characters are NUL",
    ", not text; save its text as",
    "is damaged: ",
    "cannot be read: ",
)


@given(any_bytes, st.sampled_from(["strict", "replace", "any"]), st.sampled_from(["char", "byte", "word"]))
def test_any_bytes_are_a_corpus_or_a_one_line_error(content: bytes, errors: str, tokenizer: str) -> None:
    refusal = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            corpus = load_corpus(experiment(Path(folder), content, data={"errors": errors}, tokenizer=tokenizer))
        except (DataError, TokenizerError) as error:
            refusal = str(error)
    if refusal:
        assert len(refusal.splitlines()) == 1
        assert any(reason in refusal for reason in (REFUSALS if errors == "strict" else REFUSALS[:1] + REFUSALS[2:]))
        return
    marked = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}.get(content[:2], "utf-8-sig")
    expected = content.decode(marked, errors.replace("any", "replace"))
    assert corpus.tokenizer is not None
    assert isinstance(corpus.train, TokenStream)
    assert isinstance(corpus.val, TokenStream)
    read = "".join(corpus.tokenizer.decode(split.ids.numpy()) for split in (corpus.train, corpus.val))
    assert read == expected


def test_a_text_of_one_character_trains_and_generates(
    minigpt: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("a" * 400)
    small = {"d_model": 8, "n_heads": 1, "n_layers": 1, "block_size": 8}
    training = {"max_iters": 2, "eval_interval": 2, "batch_size": 2}
    data = {"name": "text", "paths": ["corpus.txt"]}
    Path("one.json").write_text(
        json.dumps({"data": data, "model": small, "training": training, "sampling": {"max_new_tokens": 5}})
    )
    code, out, err = minigpt("run", "one.json")
    assert code == 0, err
    assert "validation loss 0.0000 nats per token" in out
    assert minigpt("generate", "runs/one/seed-1337", "--seed", "1")[1] == "a" * 5 + "\n"


def test_folders_are_searched_in_sorted_order(tmp_path: Path) -> None:
    for name, text in {"b.txt": "second", "a/z.md": "first", "c.bin": "never", "a/.x": "never"}.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(text)
    (tmp_path / "val.txt").write_text("held out")
    dataset = REGISTRY.resolve(
        "dataset", {"name": "text", "paths": [str(tmp_path / "corpus")], "val_path": str(tmp_path / "val.txt")}
    ).build()
    notes = ("data.paths: 2 files skipped: 1 .bin, 1 hidden",)
    assert dataset.load() == Splits("first\nsecond", "held out", notes=notes, documents=(0, 6), val_documents=(0,))


def test_run_folders_inside_a_corpus_folder_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    run = tmp_path / "runs" / "x" / "seed-1"
    run.mkdir(parents=True)
    for name in ("experiment.json", "provenance.json", "samples.txt"):
        (run / name).write_text("never")
    dataset = REGISTRY.resolve("dataset", {"name": "text", "paths": [str(tmp_path)], "val_fraction": 0.5}).build()
    assert dataset.load() == Splits(
        "te", "xt", notes=("data.paths: 1 file skipped: 1 run folder",), documents=(0,), val_documents=(0,)
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [(["nowhere"], "there is no file or folder .*nowhere"), (["."], r"no file in .* ends in .txt, .md")],
)
def test_missing_text_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        REGISTRY.resolve("dataset", {"name": "text", "paths": paths}).build().load()


def test_a_missing_character_is_reported_with_the_split(tmp_path: Path) -> None:
    one = experiment(tmp_path, "abc" * 30)
    with pytest.raises(TokenizerError, match="the training split: character 'c'"):
        load_corpus(one, {"code_points": [97, 98]})


def test_entropies_match_shannons_formulas(tmp_path: Path) -> None:
    text = "abac" * 250
    one = experiment(tmp_path, text, data={"val_fraction": 0.1})
    corpus = load_corpus(one)
    got = entropies(corpus)
    assert got is not None
    train = text[:900]
    unigram = Counter(train)
    pairs, firsts = Counter(itertools.pairwise(train)), Counter(train[:-1])
    expected = -sum(n / 899 * math.log(n / firsts[a]) for (a, _), n in pairs.items())
    assert got["unigram"] == pytest.approx(-sum(n / 900 * math.log(n / 900) for n in unigram.values()))
    assert got["bigram"] == pytest.approx(expected)
    assert got["uniform"] == pytest.approx(math.log(3))


def test_python_docs_needs_no_network() -> None:
    """A property of every dataset tests that it is the same each time: `minigpt check dataset/python-docs`."""
    corpus = load_corpus(load_experiment({"data": "python-docs"}))
    assert corpus.tokenizer is not None
    assert len(corpus.train.ids) + len(corpus.val.ids) > 800_000
    assert "with_statement" in corpus.tokenizer.decode(corpus.train.ids.numpy()) + corpus.tokenizer.decode(
        corpus.val.ids.numpy()
    )
    assert 90 <= corpus.vocab_size <= 200
    yardsticks = entropies(corpus)
    assert yardsticks is not None
    assert yardsticks["bigram"] < yardsticks["unigram"] < yardsticks["uniform"]


# ------------------------------------------------------------------------------------------------- synthetic tasks


def rows(count: int, time: int, **changes: Any) -> Sequences:
    tokens = np.arange(count * time).reshape(count, time) % 5
    made = Sequences(tokens, (tokens + 1) % 5, tokens > 1)
    for field, array in changes.items():  # bypasses the shape check of the tests, which users do not have
        object.__setattr__(made, field, array)
    return made


def synthetic(train: Any, val: Any, vocab_size: int | None = None, name: str = "task") -> Experiment:
    @register("dataset", name)
    class Task(Dataset):
        """A task."""

        def __init__(self) -> None:
            pass

        def load(self) -> Splits:
            return Splits(train, val, vocab_size)

    return load_experiment(
        {"data": name, "model": {"d_model": 8, "n_heads": 2, "block_size": 8}, "training": {"batch_size": 3}}
    )


def test_a_synthetic_task_keeps_its_targets_and_mask() -> None:
    one = synthetic(rows(7, 6), rows(4, 6), 5)
    corpus = load_corpus(one)
    assert isinstance(corpus.val, TokenRows)
    assert corpus.vocab_size == 5
    assert corpus.tokenizer is None
    assert corpus.notes == ("4 of 4 validation rows are training rows too",)
    batch = train_batch(corpus, one, 0)
    assert batch.tokens.shape == (3, 6)
    assert torch.equal((batch.tokens + 1) % 5, batch.targets)
    assert batch.mask is not None
    assert torch.equal(batch.mask, batch.tokens > 1)
    assert sum(int(b.mask.sum()) for b in corpus.val.windows(3, 8) if b.mask is not None) == corpus.val.n_targets
    assert entropies(corpus) is None


@pytest.mark.parametrize(
    ("train", "val", "vocab_size", "message"),
    [
        (rows(3, 9), rows(3, 8), None, "rows of 9 tokens are longer than model.block_size 8"),
        (rows(3, 4, mask=np.zeros((3, 4), dtype=bool)), rows(3, 4), None, "the training split has no target that counts"),
        (rows(3, 4), rows(3, 4, targets=np.zeros((3, 3), dtype=int)), None, "of the validation split differ in shape"),
        (rows(3, 4), rows(3, 4), 4, "ids from 0 to 4, but vocab_size is 4"),
        (rows(3, 4), rows(3, 4), None, "rows without vocab_size, and no tokenizer to set it"),
        (rows(3, 4), "text", None, "task returns Sequences for training and str for validation; allowed: text for both"),
    ],
)
def test_an_invalid_synthetic_task_is_reported(train: Any, val: Any, vocab_size: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_corpus(synthetic(train, val, vocab_size))


def as_rows(windows: Any) -> Sequences:
    return Sequences(windows[:, :-1], windows[:, 1:], np.ones_like(windows[:, 1:], dtype=bool))


def test_rows_are_the_same_if_they_differ_only_where_no_target_counts() -> None:
    train, val = rows(3, 6), rows(3, 6)
    others = replace(val, targets=np.where(val.mask, val.targets, (val.targets + 1) % 5))
    shorter = [np.pad(array, ((0, 0), (0, 2))) for array in vars(train).values()]
    for number, part in enumerate([others, Sequences(*shorter)]):
        notes = load_corpus(synthetic(train, part, 5, name=f"same-{number}")).notes
        assert notes == ("3 of 3 validation rows are training rows too",)
    counted = replace(val, targets=np.where(val.mask, (val.targets + 1) % 5, val.targets))
    assert load_corpus(synthetic(train, counted, 5, name="others")).notes == ()


@pytest.mark.parametrize(("vocab_size", "shared"), [(100, True), (2, False)])
def test_shifted_rows_of_one_series_are_reported_unless_they_may_be_there_by_chance(vocab_size: int, shared: bool) -> None:
    series = np.random.default_rng(1).integers(0, vocab_size, 2000)
    windows = np.random.default_rng(2).permutation(np.lib.stride_tricks.sliding_window_view(series, 9).copy())
    notes = load_corpus(synthetic(as_rows(windows[200:]), as_rows(windows[:200]), vocab_size)).notes
    expected = ["% of the validation rows' targets are in training rows too, at other places of the rows"] * shared
    assert [note.lstrip("0123456789") for note in notes if "rows'" in note] == expected
    cut = [np.lib.stride_tricks.sliding_window_view(part, 9).copy() for part in (series[:1800], series[1800:])]
    assert not any("rows'" in note for note in load_corpus(synthetic(*map(as_rows, cut), vocab_size, name="cut")).notes)


def test_synthetic_tasks_of_the_same_bytes_are_distinguished_by_shape_dtype_and_vocab_size() -> None:
    fingerprints = []
    variants = [(4, 5, "i1", "i2"), (8, 5, "i1", "i2"), (4, 6, "i1", "i2"), (4, 5, "i2", "i1"), (4, 5, "i1", "i2")]
    for number, (time, vocab_size, tokens, targets) in enumerate(variants):
        zeros = np.zeros((64 // time, time))
        part = Sequences(zeros.astype(tokens), zeros.astype(targets), zeros == 0)
        fingerprints.append(load_corpus(synthetic(part, part, vocab_size, name=f"task-{number}")).fingerprint)
    assert fingerprints[0] == fingerprints[-1]
    assert len(set(fingerprints)) == 4


class Digits(Dataset):
    """Rows of digits, with a function of each as its target."""

    alphabet: str | None = "0123456789"

    def load(self) -> Splits:
        rows = np.random.default_rng(0).integers(0, 10, (40, 16))
        splits = [Sequences(part, (3 * part + 1) % 10, np.ones(part.shape, bool)) for part in (rows[:30], rows[30:])]
        return Splits(*splits, vocab_size=10, alphabet=self.alphabet)


def test_a_synthetic_task_with_an_alphabet_is_shown_as_text(tmp_path: Path) -> None:
    class Hidden(Digits):
        """The same without an alphabet."""

        alphabet = None

    class Longer(Digits):
        """An alphabet with too many characters."""

        alphabet = "0123456789a"

    for name, cls in (("digits", Digits), ("hidden", Hidden), ("longer", Longer)):
        register("dataset", name)(cls)
    small = {"model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16}, "training": {"max_iters": 2}}
    experiment = load_experiment({**small, "data": "digits"})
    corpus = load_corpus(experiment)
    assert corpus.tokenizer is not None
    assert corpus.tokenizer.decode(corpus.train.tokens[0].tolist()) == "".join(map(str, corpus.train.tokens[0].tolist()))
    assert corpus.val_bytes is None
    assert load_corpus(load_experiment({**small, "data": "hidden"})).tokenizer is None
    with pytest.raises(DataError, match=r"has 10 ids, but the tokenizer char has 11 for its alphabet; choose another"):
        load_corpus(load_experiment({**small, "data": "longer"}))
    trained = train(experiment, out=tmp_path, device="cpu", observer=PlainObserver(io.StringIO()))
    assert set(trained.sample or "") <= set("0123456789")
    opened = open_run(trained.run.path)
    assert opened.tokenizer is not None
    assert opened.tokenizer.encode("42").tolist() == [4, 2]


@given(st.text(st.characters(), max_size=50), st.integers(1, 7))
def test_a_text_is_hashed_in_pieces(text: str, size: int) -> None:
    with mock.patch.object(data, "_PIECE", size):
        assert b"".join(data._utf8(text)) == text.encode("utf-8", "surrogatepass")
