"""Coverage-guided fuzzing; needs atheris: `python -m tests.soak.guided experiments -max_total_time=600`.

Targets and the definition of a failure come from `fuzz.py`. The arguments after the target are options of libFuzzer.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["minigpt"]):
    from minigpt.data import restore_tokenizer
    from minigpt.reading import load_experiment
    from minigpt.run import open_run

from minigpt.registry import REGISTRY
from tests.soak.fuzz import Checkpoints, Experiments, Tokenizers, read_or_refused

FuzzTarget = tuple[list[bytes], Callable[[bytes], list[str]]]


def experiments(folder: Path) -> FuzzTarget:
    """A target whose input is the content of an experiment file."""
    file = folder / "file.json"

    def read(content: bytes) -> list[str]:
        file.write_bytes(content)
        with REGISTRY.temporarily():
            return read_or_refused(lambda: load_experiment(file, allow_plugins=False), "experiment")

    return [text.encode() for text in Experiments(folder).texts], read


def checkpoints(folder: Path) -> FuzzTarget:
    """A target whose first input byte selects a file of a run. The other bytes are the content of the file."""
    trial = Checkpoints(folder)
    files = sorted(
        [*trial.last.iterdir(), *(trial.run / f"{name}.json" for name in ("experiment", "tokenizer", "provenance"))]
    )
    sound = {file: file.read_bytes() for file in files}
    manifest = json.loads((trial.last / "manifest.json").read_text())

    def read(content: bytes) -> list[str]:
        file, rest = files[content[0] % len(files) if content else 0], content[1:]
        file.write_bytes(rest)
        if file.name in manifest:
            digest = {"bytes": len(rest), "sha256": hashlib.sha256(rest).hexdigest()}
            (trial.last / "manifest.json").write_text(json.dumps({**manifest, file.name: digest}))
        wrong = read_or_refused(lambda: open_run(trial.run, which="last", allow_plugins=False), file.name)
        file.write_bytes(sound[file])
        (trial.last / "manifest.json").write_text(json.dumps(manifest))
        return wrong

    return [bytes([index]) + sound[file] for index, file in enumerate(files)], read


def tokenizers(folder: Path) -> FuzzTarget:
    """A target whose first input byte selects a tokenizer. The other bytes are its learned values."""
    cases = Tokenizers(folder).cases

    def read(content: bytes) -> list[str]:
        experiment, _ = cases[content[0] % len(cases) if content else 0]
        try:
            learned = json.loads(content[1:])
        except (ValueError, RecursionError):
            return []

        def use() -> None:
            tokenizer = restore_tokenizer(experiment, learned)
            size = tokenizer.vocab_size
            tokenizer.decode([token for token in (0, size // 2, size - 1) if 0 <= token < size])
            tokenizer.encode("It was the lark")

        return read_or_refused(use, experiment.tokenizer.name)

    return [bytes([index]) + text.encode() for index, (_, text) in enumerate(cases)], read


def main() -> None:
    """Fuzz a target until libFuzzer's time is over. A failure ends the process and shows its input."""
    targets = {"experiments": experiments, "checkpoints": checkpoints, "tokenizers": tokenizers}
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        seeds, read = targets[name](Path(place))
        corpus = Path(place) / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(seeds):
            (corpus / str(index)).write_bytes(seed)

        def try_input(content: bytes) -> None:
            wrong = read(content)
            if wrong:
                raise AssertionError(wrong[0])

        atheris.Setup([sys.argv[0], str(corpus), *options], try_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
