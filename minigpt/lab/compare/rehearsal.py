"""Try variants with plugin parts in a separate process, because a plugin may raise, exit, hang or crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.check.gate import check_before_training
from minigpt.data import load_corpus
from minigpt.errors import MinigptError, PluginError
from minigpt.lab.compare.record import FailedVariant
from minigpt.lab.compare.variants import Source, read_variant, runs_in
from minigpt.lab.cost import measure_training_cost
from minigpt.reading import Reading, named_plugins
from minigpt.reading.named_plugins import read_named
from minigpt.registry import trust
from minigpt.registry.plugins import last_place
from minigpt.system import child
from minigpt.training.building import build_trainable
from minigpt.training.estimate import measure_speed
from minigpt.training.machine import choose_device, choose_precision


@dataclass(frozen=True)
class Rehearsal:
    """The job of the process that tries a variant.

    Attributes:
        source: What the variant is read from.
        reading: How the source is read.
        device: The device on which it would be trained.
        announced: As for `trust.expect`.
    """

    source: Source
    reading: Reading
    device: str
    announced: dict[str, str]


@dataclass(frozen=True)
class Rehearsed:
    """The result of a rehearsal.

    Attributes:
        tried: The sources that were tried.
        failed: The tried variants that cannot be compared.
    """

    tried: tuple[Source, ...] = ()
    failed: tuple[FailedVariant, ...] = ()


def rehearse(sources: Sequence[Path | Source], reading: Reading, *, device: str, seconds: float) -> Rehearsed:
    """Try each variant that has plugins in another process, with the same steps as planning a comparison.

    Args:
        sources: What the variants are read from; the base first.
        reading: How the sources are read.
        device: The device on which they would be trained.
        seconds: A trial that takes longer counts as hung.

    Raises:
        MinigptError: An experiment has an error, the base fails, or no variant is left to compare.
    """
    named = list(dict.fromkeys(Source.of(source) for source in sources))
    read_named((), reading)
    tried = [
        source for source in named if _names_plugins(source.path, reading) or reading.plugin_files
    ]  # before any is executed
    failed = []
    for source in tried:
        rehearsal = Rehearsal(source, reading, device, trust.announced())
        reason = _failure(child.call(_try, rehearsal, seconds=seconds, is_quiet=False), seconds)
        if reason is not None and source == named[0]:
            raise MinigptError(f"{source}, the base: {reason}")
        if reason is not None:
            failed.append(FailedVariant(name=source.name or source.path.stem, source=str(source), message=reason))
    if failed and len(failed) == len(named) - 1:
        raise MinigptError(
            "\n".join(f"{variant.source}: {variant.message}" for variant in failed) + "\nnothing is left to compare"
        )
    return Rehearsed(tuple(tried), tuple(failed))


def _names_plugins(source: Path, reading: Reading) -> bool:
    """Whether a file (or a file it extends) or a run names plugin files. They are announced, but not loaded.

    Raises:
        TrustError: A run names a plugin that is not trusted.
    """
    if not source.is_dir():
        return bool(named_plugins(source, reading))
    files = [run.path / "experiment.json" for run in runs_in(source)]
    named = [named_plugins(file, reading, of_run=True) for file in files]  # a list, so that all of them are announced
    return any(named)


def _failure(answer: str | child.Exit | None, seconds: float) -> str | None:
    """Why a variant is excluded, in words; None if its trial succeeded."""
    if not isinstance(answer, child.Exit):
        return answer
    if answer.timed_out:
        return f"its trial run did not finish within {seconds:.0f} s"
    return f"its trial run ended the process with {answer}"


def _try(rehearsal: Rehearsal) -> str | None:
    """Try a variant, in the other process: what is wrong with its plugins; None if nothing is wrong.

    Raises:
        MinigptError: The experiment has an error.
    """
    trust.expect(rehearsal.announced)
    try:
        variant = read_variant(rehearsal.source, rehearsal.reading)
        changes = (*rehearsal.reading.overrides, *variant.source.settings)
        report = check_before_training(variant.experiment, str(variant.source.path), changes, in_full=False)
        if report is not None and report.broken:
            return f"one of its parts violates its contract: {report.message}"
        corpus = load_corpus(variant.experiment)
        where = choose_device(rehearsal.device)
        model = build_trainable(variant.experiment, corpus, reading=rehearsal.reading)
        measure_training_cost(model, variant.experiment, corpus)
        precision = choose_precision(variant.experiment.training.precision, where)
        measure_speed(variant.experiment, corpus.to(where), model.to(where), precision)
    except PluginError as error:
        return str(error)
    except MinigptError:
        raise
    except Exception as error:  # a plugin may raise any error
        return f"{last_place(error) or rehearsal.source.path}: {type(error).__name__}: {error}"
    return None
