"""Variants with plugin parts are tried in a process of their own first: there a plugin may raise, leave, hang or crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.check.gate import check_before_training
from minigpt.data import load_corpus
from minigpt.errors import MinigptError, PluginError
from minigpt.lab.compare.record import FailedVariant
from minigpt.lab.compare.variants import read_variant, runs_in
from minigpt.lab.cost import measure_cost
from minigpt.model import build_model
from minigpt.reading import Reading, named_plugins
from minigpt.reading.named_plugins import read_named
from minigpt.registry import trust
from minigpt.registry.plugins import last_place
from minigpt.system import child
from minigpt.training.estimate import measure_speed
from minigpt.training.machine import choose_device, choose_precision


@dataclass(frozen=True)
class Rehearsal:
    """What is tried of a variant.

    Attributes:
        source: An experiment file, or a folder of runs.
        reading: How it is read.
        device: Where it would be trained.
        announced: As for `trust.expect`.
    """

    source: Path
    reading: Reading
    device: str
    announced: dict[str, str]


@dataclass(frozen=True)
class Rehearsed:
    """What came of it.

    Attributes:
        tried: The sources that were tried.
        failed: Those of them that cannot be compared.
    """

    tried: tuple[Path, ...] = ()
    failed: tuple[FailedVariant, ...] = ()


def rehearse(sources: Sequence[Path], reading: Reading, *, device: str, seconds: float) -> Rehearsed:
    """Do everything that planning a comparison does with each variant that has plugins, in another process.

    Args:
        sources: Experiment files and folders of runs; the base first.
        reading: How they are read.
        device: Where they would be trained.
        seconds: After which one counts as hung.

    Raises:
        MinigptError: Something in an experiment is to be fixed, the base fails, or nothing is left to compare with it.
    """
    sources = list(dict.fromkeys(sources))
    read_named((), reading)
    tried = [
        source for source in sources if _names_plugins(source, reading) or reading.plugin_files
    ]  # before any is executed
    failed = []
    for source in tried:
        rehearsal = Rehearsal(source, reading, device, trust.announced())
        reason = _failure(child.call(_try, rehearsal, seconds=seconds, is_quiet=False), seconds)
        if reason is not None and source == sources[0]:
            raise MinigptError(f"{source}, the base: {reason}")
        if reason is not None:
            failed.append(FailedVariant(name=source.stem, source=str(source), message=reason))
    if failed and len(failed) == len(sources) - 1:
        raise MinigptError(
            "\n".join(f"{variant.source}: {variant.message}" for variant in failed) + "\nnothing is left to compare"
        )
    return Rehearsed(tuple(tried), tuple(failed))


def _names_plugins(source: Path, reading: Reading) -> bool:
    """Whether a file, or what it extends, or a run, names plugin files; they are announced, and none is loaded.

    Raises:
        TrustError: A run names one that is not trusted.
    """
    if not source.is_dir():
        return bool(named_plugins(source, reading))
    files = [run.path / "experiment.json" for run in runs_in(source)]
    named = [named_plugins(file, reading, of_run=True) for file in files]  # all of them are announced
    return any(named)


def _failure(answer: str | child.Ending | None, seconds: float) -> str | None:
    """What a variant's plugins did that excludes it, in words."""
    if not isinstance(answer, child.Ending):
        return answer
    if answer.timed_out:
        return f"it came to no end in {seconds:.0f} s when it was tried"
    return f"it ended the process with {answer} when it was tried"


def _try(rehearsal: Rehearsal) -> str | None:
    """In the other process: what is wrong with the plugins; None if nothing is.

    Raises:
        MinigptError: Something in the experiment is to be fixed.
    """
    trust.expect(rehearsal.announced)
    try:
        variant = read_variant(rehearsal.source, rehearsal.reading)
        report = check_before_training(variant.experiment, variant.source, rehearsal.reading.overrides, in_full=False)
        if report is not None and report.broken:
            return f"a part of it does not keep its contract: {report.message}"
        corpus = load_corpus(variant.experiment)
        where = choose_device(rehearsal.device)
        model = build_model(variant.experiment, corpus.vocab_size)
        measure_cost(model)
        precision = choose_precision(variant.experiment.training.precision, where)
        measure_speed(variant.experiment, corpus.to(where), model.to(where), precision)
    except PluginError as error:
        return str(error)
    except MinigptError:
        raise
    except Exception as error:  # a plugin may raise anything
        return f"{last_place(error) or rehearsal.source}: {type(error).__name__}: {error}"
    return None
