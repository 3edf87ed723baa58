"""Variants with plugin parts are tried in a process of their own first: there a plugin may raise, leave, hang or crash.

python -m minigpt.lab.compare.rehearsal JOB.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from minigpt.errors import MinigptError, PluginError
from minigpt.system import process


class _Job(TypedDict):
    source: str
    overrides: list[str]
    plugin_files: list[str]
    device: str
    trust: bool
    answer: str


def rehearse(
    source: Path, overrides: Sequence[str], plugin_files: Sequence[Path], *, device: str, trust: bool, seconds: float
) -> str | None:
    """Do everything with a variant that planning a comparison does, elsewhere.

    Args:
        source: An experiment file, or a folder of runs.
        overrides: As for `load_experiment`.
        plugin_files: Likewise.
        device: Where it would be trained.
        trust: As for `load_experiment`.
        seconds: After which it counts as hung.

    Returns:
        What its plugins did that loses the variant; None if there is nothing against it.

    Raises:
        MinigptError: Something in the experiment is to be mended.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        said: _Job = {
            "source": str(source),
            "overrides": list(overrides),
            "plugin_files": [str(file) for file in plugin_files],
            "device": device,
            "trust": trust,
            "answer": str(answer),
        }
        job.write_text(json.dumps(said), encoding="utf-8")
        try:
            command = process.python("-m", "minigpt.lab.compare.rehearsal", str(job))
            done = subprocess.run(command, env=process.environment(), timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"it came to no end in {seconds:.0f} s when it was tried"
        if not answer.is_file():
            code = done.returncode
            return f"it ended the process with {f'signal {-code}' if code < 0 else f'exit code {code}'} when it was tried"
        kind, text = json.loads(answer.read_text("utf-8"))
    if kind == "mistake":
        raise MinigptError(text)
    return text or None


def names_plugins(source: Path, *, trust: bool) -> bool:
    """Whether a file, or what it extends, or a run, names plugin files; none is loaded.

    Raises:
        TrustError: A run names one that is not trusted.
    """
    from minigpt.lab.compare.variants import runs_in
    from minigpt.reading import named_plugins

    if not source.is_dir():
        return bool(named_plugins(source, trusted=trust))
    files = [run.path / "experiment.json" for run in runs_in(source)]
    named = [named_plugins(file, of_run=True, trusted=trust) for file in files]
    return any(named)


def main() -> None:
    """Do the job in the file that the command line names."""
    job: _Job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(job["answer"]).write_text(json.dumps(_try(job)), encoding="utf-8")


def _try(job: _Job) -> tuple[str, str]:
    from minigpt.check.gate import check_before_training
    from minigpt.data import load_corpus
    from minigpt.lab.compare.variants import read_variant
    from minigpt.lab.cost import measure_cost
    from minigpt.model import build_model
    from minigpt.registry.plugins import last_place
    from minigpt.training.estimate import measure_speed
    from minigpt.training.machine import choose_device, choose_precision

    try:
        files = [Path(file) for file in job["plugin_files"]]
        variant = read_variant(Path(job["source"]), job["overrides"], files, trust=job["trust"])
        check_before_training(variant.experiment, variant.source, job["overrides"], in_full=False)
        corpus = load_corpus(variant.experiment)
        where = choose_device(job["device"])
        model = build_model(variant.experiment, corpus.vocab_size)
        measure_cost(model)
        precision = choose_precision(variant.experiment.training.precision, where)
        measure_speed(variant.experiment, corpus.to(where), model.to(where), precision)
    except PluginError as error:
        return "lost", str(error)
    except MinigptError as error:
        return "mistake", str(error)
    except Exception as error:  # a plugin may raise anything
        return "lost", f"{last_place(error) or job['source']}: {type(error).__name__}: {error}"
    return "sound", ""


if __name__ == "__main__":
    main()
