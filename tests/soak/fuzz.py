"""Randomly changed files, as by an attacker or a bad disk: they are read, or refused with a MinigptError, and soon."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import random
import signal
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minigpt.data import restore_tokenizer
from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.registry import REGISTRY
from minigpt.run import open_run
from tests.soak.children import small, train_or_resume

MOST_SECONDS = 20
ROOT = Path(__file__).parents[2]
TEXT = "It was the lark, the herald of the morn.\n" * 20

# Values that have broken JSON readers before.
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e308, 5e-324, "", "x", "\x00", "../x"),
    *(
        "1",
        "null",
        "a" * 2000,
        "\u202e\ufeff",
        [],
        {},
        [[]],
        [None],
        {"name": "gqa"},
        {"name": None},
        {"name": "mha", "x": 1},
    ),
]


def changed_value(value: Any, chance: random.Random) -> Any:
    """Change one value in a document: replace, remove, double, rename or wrap it, or copy another value to its place."""
    places = list(_places(value))
    if not places:
        return copy.deepcopy(chance.choice(VALUES))
    parent, key = chance.choice(places)
    kind = chance.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = copy.deepcopy(chance.choice(VALUES))
    elif kind == 2:
        other, other_key = chance.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            parent[key] = json.loads(json.dumps(other[other_key]))
    elif kind == 3:
        for _ in range(chance.choice([1, 3, 60])):
            parent[key] = [parent[key]] if chance.random() < 0.5 else {"name": parent[key]}
    elif kind == 4 and isinstance(parent, dict):
        parent["".join(chance.choices(string.printable, k=chance.randrange(1, 8)))] = parent[key]
    elif isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * chance.choice([-1, 0, 2, 10, 1e3, 1e9, 0.5])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut out, double or insert bytes; the inserted ones have broken readers before."""
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(changed) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del changed[place : place + chance.choice([1, 4, 100])]
        elif kind == 2:
            changed[place:place] = changed[place : place + chance.randrange(1, 200)]
        else:
            changed[place:place] = chance.choice(
                [b"\x00", b"\xff", b"{", b"[" * 3000, b'"', b"9" * 400, b"NaN", b"\xed\xa0\x80"]
            )
    return bytes(changed)


def changed_json(text: str, chance: random.Random) -> bytes:
    """Change values of a JSON document, or its bytes."""
    if chance.random() < 0.7:
        value = json.loads(text)
        for _ in range(chance.choice([1, 1, 2, 4])):
            value = changed_value(value, chance)
        return json.dumps(value).encode()
    return changed_bytes(text.encode(), chance)


@contextmanager
def soon() -> Iterator[None]:
    """Raise TimeoutError if the code in this context hangs."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"no answer in {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def read_or_refused(read: Callable[[], Any], what: str) -> list[str]:
    """Call `read`. Empty if it succeeds or raises a MinigptError with a message; else a description of the failure."""
    try:
        with soon(), contextlib.redirect_stdout(io.StringIO()):
            read()
    except MinigptError as error:
        return [] if str(error).strip() else [f"{what}: refused without a message"]
    except Exception as error:  # any other exception is a bug, which the fuzzing looks for
        return [f"{what}: {type(error).__name__}: {error}"]
    return []


class Experiments:
    """Changed copies of the shipped experiment files, read with `load_experiment`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.texts = [json.dumps(load_experiment(file).to_json()) for file in sorted((ROOT / "experiments").glob("*.json"))]
        self.texts += [file.read_text("utf-8") for file in sorted((ROOT / "experiments" / "families").glob("*.json"))]

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Try one changed file."""
        content = changed_json(chance.choice(self.texts), chance)
        file = self.folder / "changed.json"
        file.write_bytes(content)
        with REGISTRY.temporarily():
            return 1, read_or_refused(lambda: load_experiment(file, allow_plugins=False), content.decode("latin-1"))


class Checkpoints:
    """Changed files of a run, with a manifest that has their new hashes, read with `open_run` as `generate` does."""

    def __init__(self, folder: Path):
        self.experiment = small(folder, training={"max_iters": 3, "eval_interval": 3, "checkpoint_interval": None})
        train_or_resume(self.experiment, folder)
        self.run = folder / "small" / "seed-1337"
        self.last = next(self.run.glob("checkpoints/step-*"))

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Change one file, try it, and restore it."""
        own = [self.run / name for name in ("experiment.json", "tokenizer.json", "provenance.json")]
        file = chance.choice([*self.last.iterdir(), *own])
        sound, manifest = file.read_bytes(), (self.last / "manifest.json").read_bytes()
        content = (
            changed_json(sound.decode(), chance)
            if file.suffix == ".json"
            else _changed_header(sound, chance)
            if chance.random() < 0.5
            else changed_bytes(sound, chance)
        )
        file.write_bytes(content)
        if file.parent == self.last and file.name != "manifest.json":
            digest = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (self.last / "manifest.json").write_text(json.dumps({**json.loads(manifest), file.name: digest}))
        wrong = read_or_refused(
            lambda: open_run(self.run, which="last", allow_plugins=False), f"{file.name}: {content[:2000]!r}"
        )
        (self.last / "manifest.json").write_bytes(manifest)
        file.write_bytes(sound)
        return 1, wrong


def _changed_header(content: bytes, chance: random.Random) -> bytes:
    """A safetensors file with a changed header and the correct header length."""
    length = int.from_bytes(content[:8], "little")
    header = changed_json(content[8 : 8 + length].decode(), chance)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


class Tokenizers:
    """Changed values that tokenizers learned. If they are accepted, encoding and decoding must work."""

    def __init__(self, folder: Path):
        self.cases: list[tuple[Experiment, str]] = []
        for entry in REGISTRY.entries("tokenizer"):
            spec = {"name": "bpe", "vocab_size": 300, "special_tokens": ["<end>"]} if entry.name == "bpe" else entry.name
            experiment = small(folder, tokenizer=spec)
            tokenizer = experiment.tokenizer.build()
            tokenizer.fit(TEXT)
            self.cases.append((experiment, json.dumps(tokenizer.to_json())))

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Try one changed file."""
        experiment, text = chance.choice(self.cases)
        try:
            learned = json.loads(changed_json(text, chance))
        except (ValueError, RecursionError):
            return 0, []

        def use() -> None:
            tokenizer = restore_tokenizer(experiment, learned)
            size = tokenizer.vocab_size
            tokenizer.decode([token for token in (0, 1, size // 2, size - 1) if 0 <= token < size])
            ids = tokenizer.encode(TEXT[:50])
            if len(ids) and not 0 <= ids.min() <= ids.max() < size:
                raise AssertionError("ids outside the vocabulary")

        return 1, read_or_refused(use, f"{experiment.tokenizer.name}: {json.dumps(learned)[:2000]}")
