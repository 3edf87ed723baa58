"""Read variants, and check that they can be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from minigpt.data import Corpus, tokenizer_fingerprint, tokens_trained
from minigpt.errors import MinigptError, listing, nearest
from minigpt.experiment import Experiment
from minigpt.lab.compare.tuned import RecordedTuning
from minigpt.reading import AS_WRITTEN, Reading, read_experiment
from minigpt.run import RunFolder
from minigpt.run.identity import differing, settings_of

Budget = Literal["tokens", "flops", "time", "steps"]
Size = Literal["params", "flops", "state"]
Unit = Literal["nats", "bits-per-byte"]
UNITS: dict[Unit, str] = {"nats": "nats per token", "bits-per-byte": "bits per byte"}


@dataclass(frozen=True)
class Source:
    """What a variant is read from.

    Attributes:
        path: An experiment file, a folder of one run, or of several that differ by their seed (`runs/quickstart`).
        settings: Settings for this variant alone, in the form of `--set`; they come after those for all variants.
        name: Name of the variant; None for the experiment's own.
        optional: Leave it out if it equals a variant before it that was read from the same file, as a value of `--grid` may.
        tuned: How its settings were tuned; None if they were not.
    """

    path: Path
    settings: tuple[str, ...] = ()
    name: str | None = None
    optional: bool = False
    tuned: RecordedTuning | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, source: Path | Source) -> Source:
        """A path without settings, or the source itself."""
        return source if isinstance(source, Source) else cls(source)

    def __str__(self) -> str:
        return f"{self.path} with {', '.join(self.settings)}" if self.settings else str(self.path)


@dataclass(frozen=True)
class Variant:
    """An experiment that takes part in a comparison.

    Attributes:
        name: The experiment's name; it is unique in a comparison.
        experiment: The experiment, except for its seed.
        source: What it was read from.
        adjusted: Changes that made it comparable, in words.
        runs: Runs that the user named in place of an experiment file.
        read: Reads its file again with further settings in the form of `--set`; None for runs, which are not changed.
        settings: Settings that were added so far, such as `model.ffn.expansion=2.5`.
    """

    name: str
    experiment: Experiment
    source: Source
    adjusted: tuple[str, ...] = ()
    runs: tuple[RunFolder, ...] = ()
    read: Callable[[Sequence[str]], Experiment] | None = field(default=None, repr=False, compare=False)
    settings: tuple[str, ...] = ()

    def changed(self, experiment: Experiment, note: str) -> Variant:
        """The same variant with an adjusted experiment."""
        return replace(self, experiment=experiment, adjusted=(*self.adjusted, note))

    def with_setting(self, setting: str) -> Variant:
        """The same variant, read again with one more setting. Its training section does not change.

        Raises:
            ExperimentError: The experiment is invalid with this setting.
        """
        assert self.read is not None, "runs are not changed"
        settings = (*self.settings, setting)
        experiment = self.read(settings).model_copy(update={"training": self.experiment.training})
        return replace(self, experiment=experiment, settings=settings)

    def with_training(self, changes: dict[str, object], note: str) -> Variant:
        """The same variant with changes in its training section.

        Raises:
            ExperimentError: Its schedule cannot be built for this number of updates.
        """
        training = self.experiment.training.model_copy(update=changes)
        training.schedule.build(training.max_iters)
        return self.changed(self.experiment.model_copy(update={"training": training}), note)


def read_variants(sources: Sequence[Path | Source], reading: Reading = AS_WRITTEN) -> list[Variant]:
    """Read experiment files and run folders; the first is the base.

    Args:
        sources: What the variants are read from.
        reading: How the files are read. The settings of runs are not changed.

    Raises:
        MinigptError: A source cannot be read, or two variants have the same name.
    """
    # If a pattern names the base again (base.json *.json), it is still one variant.
    named = [Source.of(source) for source in sources]
    places = [(source.path.resolve(), source.settings, source.name) for source in named]
    named = [source for index, source in enumerate(named) if places[index] not in places[:index]]
    variants: list[Variant] = []
    for source in named:
        variant = read_variant(source, reading)
        if source.optional and any(is_equal(variant, other) for other in variants if other.source.path == source.path):
            continue
        for other in variants:
            if other.name == variant.name:
                raise MinigptError(
                    f'{variant.source} and {other.source} are both named "{variant.name}"; give one of them another "name"'
                )
        variants.append(variant)
    return variants


def read_variant(source: Path | Source, reading: Reading = AS_WRITTEN) -> Variant:
    """Read one variant. Arguments as for `read_variants`.

    Raises:
        MinigptError: The source cannot be read.
    """
    source = Source.of(source)
    if source.path.is_dir():
        if source.settings:
            raise MinigptError(f"{source.path} is trained already, so no setting of it can change; name its experiment file")
        runs = runs_in(source.path)
        experiments = [run.experiment(replace(reading, overrides=(), plugin_files=())) for run in runs]
        return _of_runs(runs, source, experiments)

    def read(settings: Sequence[str]) -> Experiment:
        changed = reading.with_overrides(*source.settings, *settings)
        return named_as(source.name, read_experiment(source.path, changed))

    experiment = read(())
    adjusted = source.tuned.adjustments if source.tuned is not None else ()
    return Variant(experiment.name, experiment, source, adjusted, read=read)


def is_equal(one: Variant, other: Variant) -> bool:
    """Whether two variants differ in nothing but their names."""
    return named_as(other.name, one.experiment) == other.experiment


def setting_at(variant: Variant, path: str, option: str) -> JsonValue:
    """The value of a setting, such as `model.ffn.expansion`.

    Args:
        variant: The variant that has it.
        path: The setting's path.
        option: The option that names the path, for the message.

    Raises:
        MinigptError: There is no such setting.
    """
    value: JsonValue = variant.experiment.to_json()
    passed: list[str] = []
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            known = list(value) if isinstance(value, dict) else []
            place = ".".join(passed) or "the experiment"
            raise MinigptError(f'{option} {path}: {variant.name} has no "{step}" in {place}{nearest(step, known)}')
        passed.append(step)
        value = value[step]
    return value


def named_as(name: str | None, experiment: Experiment) -> Experiment:
    """The experiment under another name; None keeps its own."""
    return experiment if name is None else experiment.model_copy(update={"name": name})


def runs_in(folder: Path) -> tuple[RunFolder, ...]:
    """The run in a folder, or the runs of several seeds below it.

    Raises:
        RunError: There is no run.
    """
    if RunFolder(folder).exists():
        return (RunFolder(folder),)
    runs = tuple(RunFolder(path) for path in sorted(folder.glob("seed-*")) if RunFolder(path).exists())
    runs = tuple(run for run in runs if ".old-" not in run.path.name)
    if not runs:
        RunFolder(folder).experiment()  # raises an error that suggests the nearest run
    return runs


def _of_runs(runs: tuple[RunFolder, ...], source: Source, experiments: Sequence[Experiment]) -> Variant:
    for run in runs:
        if later := run.later_segments():
            raise MinigptError(
                f"{run.path} was continued with changes ({'; '.join(later)}), so no experiment describes it; name an "
                "experiment file to train a new run"
            )
    first = settings_of({**experiments[0].to_json(), "seed": 0})
    for run, experiment in zip(runs, experiments, strict=True):
        if differences := differing(first, settings_of({**experiment.to_json(), "seed": 0})):
            paths = ", ".join(path for path, *_ in differences)
            raise MinigptError(f"{runs[0].path} and {run.path} differ in more than their seed ({paths}): name one of them")
    return Variant(source.name or experiments[0].name, experiments[0], source, runs=runs)


def settled(variants: Sequence[Variant], precision: Callable[[], str]) -> list[Variant]:
    """Replace `auto` in precision and compile by the same value for all variants, so that only intended changes differ.

    Args:
        variants: Base and variants.
        precision: Returns the precision that `auto` means; called only if it is needed. For compile, `auto` means false,
            because the gain depends on the run, and compiling changes the rounding.
    """
    result = []
    for variant in variants:
        training = variant.experiment.training
        changes: dict[str, object] = {"precision": precision()} if training.precision == "auto" else {}
        changes |= {"compile": False} if training.compile == "auto" else {}
        training = training.model_copy(update=changes)
        result.append(replace(variant, experiment=variant.experiment.model_copy(update={"training": training})))
    return result


def check_comparable(variants: Sequence[Variant], *, unit: Unit, budget: Budget | None) -> None:
    """Refuse variants that cannot be compared.

    Raises:
        MinigptError: Names every difference that prevents a comparison, one per line.
    """
    base, *others = variants
    lines = []
    for other in others:
        pair = f"{other.name} and {base.name}"
        ours, theirs = other.experiment.to_json(), base.experiment.to_json()
        if ours["data"] != theirs["data"]:
            lines.append(f"{pair} have different data: {_written(ours['data'])}, {_written(theirs['data'])}")
        if ours["tokenizer"] != theirs["tokenizer"] and unit == "nats":
            lines.append(
                f"{pair} have different tokenizers ({_written(ours['tokenizer'])}, {_written(theirs['tokenizer'])}), so "
                "losses in nats per token cannot be compared; use --unit bits-per-byte"
            )
        windows = other.experiment.model.block_size, base.experiment.model.block_size
        if windows[0] != windows[1]:
            lines.append(
                f"{pair} are validated in windows of different length (model.block_size {windows[0]}, {windows[1]}): "
                "the first tokens of a window are harder to predict, so the length alone changes the loss"
            )
        seen = tokens_trained(other.experiment), tokens_trained(base.experiment)
        if budget is None and seen[0] != seen[1]:
            lines.append(
                f"{pair} are trained on different numbers of tokens ({seen[0]:,}, {seen[1]:,}); "
                "--budget tokens, flops, time or steps makes them equal in one of these"
            )
    if lines:
        raise MinigptError("\n".join(lines))


def check_same_data(variants: Sequence[Variant], corpus_of: Callable[[Variant], Corpus], unit: Unit) -> None:
    """Refuse variants with equal settings but different content of the data (or, in nats, of the tokenizer).

    Raises:
        MinigptError: Names the variants. A file or a plugin (dataset, tokenizer) was edited between them, or the losses
            of a variant cannot be computed in the unit.
    """
    base, *others = variants
    data = {variant.name: corpus_of(variant) for variant in variants}
    without_bytes = [variant.name for variant in variants if not data[variant.name].val_bytes]
    if unit == "bits-per-byte" and without_bytes:
        raise MinigptError(
            f"--unit bits-per-byte: the validation data of {listing(without_bytes)} is not text, so it has no bytes; "
            "compare in nats"
        )
    for other in others:
        pairs = [("data", *(data[variant.name].fingerprint for variant in (other, base)))]
        if unit == "nats":
            pairs.append(("tokenizers", *(str(tokenizer_fingerprint(data[variant.name])) for variant in (other, base))))
        for what, ours, theirs in pairs:
            if ours != theirs:
                raise MinigptError(
                    f"{other.name} and {base.name} have different {what}: their content has the fingerprints "
                    f"{ours[:12]} and {theirs[:12]}. Name experiment files that use the same {what}"
                )


def _written(value: object) -> str:
    """A component as a person would write it: its name, with its parameters in parentheses."""
    if isinstance(value, dict):
        others = ", ".join(f"{key} {item}" for key, item in value.items() if key != "name")
        return f"{value['name']}{f' ({others})' if others else ''}"
    return str(value)
