"""Datasets that are right but unusual: with boilerplate, with rows that resemble each other, with unusual targets."""

from __future__ import annotations

import random

import numpy as np

from minigpt.contracts import Dataset, Sequences, Splits
from tests.unusual import unusual

_WORDS = [
    "ash",
    "beech",
    "cedar",
    "elm",
    "fir",
    "gum",
    "hazel",
    "ivy",
    "juniper",
    "larch",
    "maple",
    "oak",
    "pine",
    "rowan",
    "spruce",
    "teak",
    "willow",
    "yew",
]


class _Corpus(Dataset):
    def __init__(self) -> None:
        pass


@unusual("dataset", "splits", "lines of a log consist of the same few messages, with other times and numbers")
class Logs(_Corpus):
    messages = (
        "INFO  [scheduler] all workers have finished their tasks, waiting for the next batch of requests from the queue",
        "WARN  [storage] the response of the primary replica took longer than the configured limit of 250 milliseconds",
        "ERROR [gateway] connection was closed by the remote host before the handshake was complete, trying again at once",
        "INFO  [auth] session of an anonymous user was extended by the default lifetime of thirty minutes, as requested",
    )

    def load(self) -> Splits:
        generator = random.Random(0)
        lines = [f"{12 * number // 3600:02}:{number % 60:02} {generator.choice(self.messages)}" for number in range(6000)]
        return Splits.of_text("\n".join(lines), 0.1)


@unusual("dataset", "splits", "every document begins with the same licence, and both splits with the same head line")
class Licences(_Corpus):
    licence = "# Permission is granted to copy, distribute and change this document under the terms of the licence below.\n"

    def load(self) -> Splits:
        generator = random.Random(0)
        texts = [self.licence + " ".join(generator.choices(_WORDS, k=60)) + "\n" for _ in range(300)]
        return Splits("name,place,time,colour,size,number,remark,date,price\n" + "".join(texts[:270]), "".join(texts[270:]))


@unusual("dataset", "splits", "both splits begin with the same head line and end with the same last line")
class HeadLines(_Corpus):
    def load(self) -> Splits:
        generator = random.Random(0)
        head = "name of the tree\tplace of the tree\theight of the tree in metres\tremarks on the tree, if there are any\n"
        last = "\n-- end of the table of all trees that were counted in the forest by the office of forests --\n"
        parts = [" ".join(generator.choices(_WORDS, k=size)) for size in (4000, 400)]
        return Splits(*(head + part + last for part in parts))


class _Rows(_Corpus):
    def rows(self) -> np.ndarray:
        """Return the rows, all different."""
        drawn = np.unique(np.random.default_rng(0).integers(0, 16, (200, 24)), axis=0)
        return np.random.default_rng(1).permutation(drawn)

    def targets(self, rows: np.ndarray) -> np.ndarray:
        """Return the target of each place."""
        return np.roll(rows, -1, axis=1)

    def load(self) -> Splits:
        rows = self.rows()
        cut = len(rows) * 9 // 10
        targets, mask = self.targets(rows), np.ones(rows.shape, dtype=bool)
        mask[:, -1] = False
        train, val = (Sequences(rows[part], targets[part], mask[part]) for part in (slice(cut), slice(cut, None)))
        return Splits(train, val, int(max(rows.max(), targets.max())) + 1)


@unusual("dataset", "splits", "each row counts from another number, so every row is another one, shifted")
class CountingRows(_Rows):
    def rows(self) -> np.ndarray:
        starts = np.random.default_rng(0).permutation(97)
        return (starts[:, None] + np.arange(24)) % 97


@unusual("dataset", "splits", "a target is the input three places before it: a task of remembering")
class Delayed(_Rows):
    def targets(self, rows: np.ndarray) -> np.ndarray:
        return np.roll(rows, 3, axis=1)


@unusual("dataset", "splits", "a target is its own input where that was not replaced by noise: a task of correcting")
class Correcting(_Rows):
    def targets(self, rows: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(2).random(rows.shape) < 0.1
        return np.where(noise, (rows + 5) % 16, rows)


@unusual("dataset", "splits", "rows are filled up with zeros, so the ends of many rows are equal")
class FilledUp(_Rows):
    def rows(self) -> np.ndarray:
        rows = 1 + super().rows()
        lengths = np.random.default_rng(3).integers(4, 20, len(rows))
        return np.where(np.arange(24) < lengths[:, None], rows, 0)
