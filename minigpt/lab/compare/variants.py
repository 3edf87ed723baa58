"""Read variants, check that they can be compared, and match their budgets and sizes to the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from minigpt.data import Corpus, tokenizer_fingerprint, tokens_trained
from minigpt.errors import ExperimentError, MinigptError, listing, nearest
from minigpt.experiment import MAX_COUNT, Experiment
from minigpt.reading import AS_WRITTEN, Reading, read_experiment
from minigpt.run import RunFolder
from minigpt.run.identity import differing, settings_of

Budget = Literal["tokens", "flops", "time", "steps"]
Size = Literal["params", "flops", "state"]
Unit = Literal["nats", "bits-per-byte"]

_FEW = 128  # up to this many values, all are tried

TOLERANCE = 0.01  # sizes that differ by less count as equal


@dataclass(frozen=True)
class Variant:
    """An experiment that takes part in a comparison.

    Attributes:
        name: The experiment's name; it is unique in a comparison.
        experiment: The experiment, except for its seed.
        source: The file or run folder it was read from.
        adjusted: Changes that made it comparable, in words.
        runs: Runs that the user named in place of an experiment file.
        read: Reads its file again with further settings in the form of `--set`; None for runs, which are not changed.
        settings: Settings that were added so far, such as `model.ffn.expansion=2.5`.
    """

    name: str
    experiment: Experiment
    source: str
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


def read_variants(sources: Sequence[Path], reading: Reading = AS_WRITTEN) -> list[Variant]:
    """Read experiment files and run folders; the first is the base.

    Args:
        sources: Files; folders of one run, or of several that differ by their seed (`runs/quickstart`).
        reading: How the files are read. The settings of runs are not changed.

    Raises:
        MinigptError: A source cannot be read, two variants have the same name, or there is only one.
    """
    # If a pattern names the base again (base.json *.json), it is still one variant.
    places = [source.resolve() for source in sources]
    sources = [source for index, source in enumerate(sources) if places[index] not in places[:index]]
    if len(sources) < 2:
        raise MinigptError("compare needs a base and at least one variant: minigpt compare BASE VARIANT...")
    variants: list[Variant] = []
    for source in sources:
        variant = read_variant(source, reading)
        for other in variants:
            if other.name == variant.name:
                raise MinigptError(
                    f'{variant.source} and {other.source} are both named "{variant.name}"; give one of them another "name"'
                )
        variants.append(variant)
    return variants


def read_variant(source: Path, reading: Reading = AS_WRITTEN) -> Variant:
    """Read one experiment file or run folder. Arguments as for `read_variants`.

    Raises:
        MinigptError: The source cannot be read.
    """
    if source.is_dir():
        runs = runs_in(source)
        experiments = [run.experiment(replace(reading, overrides=(), plugin_files=())) for run in runs]
        return _of_runs(runs, source, experiments)

    def read(settings: Sequence[str]) -> Experiment:
        return read_experiment(source, reading.with_overrides(*settings))

    experiment = read(())
    return Variant(experiment.name, experiment, str(source), read=read)


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


def _of_runs(runs: tuple[RunFolder, ...], source: Path, experiments: Sequence[Experiment]) -> Variant:
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
    return Variant(experiments[0].name, experiments[0], str(source), runs=runs)


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


# ------------------------------------------------------------------------------------------------- what must be shared


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


# ------------------------------------------------------------------------------------------------- matching the budget


def matched_budget(base: Variant, variant: Variant, budget: Budget, ratio: float = 1.0, known: str = "") -> Variant:
    """The variant with the number of updates that the base's budget allows.

    Args:
        base: The base; the cost of its training is the budget.
        variant: The variant whose max_iters, and with it its schedule, is changed.
        budget: The quantity that is made equal.
        ratio: Cost of the variant's update divided by the base's: operations for `flops`, seconds for `time`.
        known: The precision of the ratio, for the note about the adjustment.
    """
    training, given = variant.experiment.training, base.experiment.training.max_iters
    match budget:
        case "steps":
            updates = float(given)
        case "tokens":
            updates = training.max_iters * tokens_trained(base.experiment) / tokens_trained(variant.experiment)
        case "flops" | "time":
            updates = given / ratio
    rounded = max(1, min(round(updates), MAX_COUNT))
    how = f"(--budget {budget}{known and f'; {known}'})"
    if rounded != training.max_iters:
        note = f"training.max_iters {training.max_iters:,} → {rounded:,} {how}"
        return variant.with_training({"max_iters": rounded}, note)
    return variant.changed(variant.experiment, f"training.max_iters stays {rounded:,} {how}") if known else variant


# --------------------------------------------------------------------------------------------------- matching the size


def matched_size(
    base: int, variant: Variant, knobs: Sequence[str], size_of: Callable[[Experiment], int], what: Size
) -> Variant:
    """The variant with settings changed so that its size is within 1 % of the base's.

    Args:
        base: The size to match.
        variant: The variant that is adjusted.
        knobs: Paths of numbers in the experiment that increase the size. Each is set to its best value, one after another.
            For example `model.d_model`, whose values must suit the heads, and then `model.ffn.expansion`.
        size_of: Returns the size of an experiment.
        what: The kind of size, for messages.

    Raises:
        MinigptError: There is no such number, or no value of it comes near enough. The message names the nearest size.
    """
    for knob in knobs:
        _number_at(variant, knob)  # a mistake is reported also where no change is needed
    for knob in knobs:
        if not _near(size_of(variant.experiment), base):
            variant = _with_best_value(base, variant, knob, size_of, what)
    size = size_of(variant.experiment)
    if not _near(size, base):
        adjusted = f" ({'; '.join(variant.adjusted)})" if variant.adjusted else ""
        raise MinigptError(
            f"{variant.name}: {' and '.join(knobs)} cannot bring its {what} within 1 % of the base's {base:,}; the nearest "
            f"is {size:,}{adjusted}. Name another --knob, or a finer one after it, such as --knob model.ffn.expansion"
        )
    return variant


def _with_best_value(base: int, variant: Variant, knob: str, size_of: Callable[[Experiment], int], what: Size) -> Variant:
    """The variant with one number set to the value that brings its size nearest to the base's."""
    start = _number_at(variant, knob)
    tried: dict[float, Variant] = {}

    def size(value: float) -> int | None:
        """The size with this value; None if the model refuses it."""
        try:
            tried[value] = variant.with_setting(f"{knob}={value}")
        except ExperimentError:
            return None
        return size_of(tried[value].experiment)

    # d_model must be a multiple of n_heads, and many mixers need an even head_dim.
    best = _best_value(start, 2 * variant.experiment.model.n_heads if knob == "model.d_model" else 1, base, size)
    if best is None or best == start:
        return variant
    return tried[best].changed(tried[best].experiment, f"{knob} {start:g} → {best:g} (--match {what})")


def _near(size: int, target: int) -> bool:
    return abs(size - target) <= TOLERANCE * target


def _best_value(start: float, grid: int, target: int, size: Callable[[float], int | None]) -> float | None:
    """The value whose size is nearest to the target; None if the model refuses all values that were tried.

    Args:
        start: The current value. Values up to 16 times (whole numbers) or 64 times (others) as large are tried.
        grid: Whole numbers are multiples of this number.
        target: The size to match.
        size: Returns the size with a value; None if the model refuses it.
    """
    sizes: dict[float, int] = {}

    def is_enough(value: float) -> bool:
        new_size = size(value)
        if new_size is not None:
            sizes[value] = new_size
        return new_size is None or new_size >= target

    if isinstance(start, int):
        first, last = 1, 16 * start // grid
        if last <= _FEW:  # for example n_heads, where most values may be refused
            for multiple in range(first, last + 1):
                is_enough(multiple * grid)
        else:
            while first <= last:
                middle = (first + last) // 2
                first, last = (first, middle - 1) if is_enough(middle * grid) else (middle + 1, last)
    else:
        low, high = start / 64, start * 64
        for _ in range(40):  # bisection of the logarithm, to a relative precision of 1e-10
            middle_value = (low * high) ** 0.5
            low, high = (low, middle_value) if is_enough(middle_value) else (middle_value, high)
            if any(_near(tried, target) for tried in sizes.values()):
                break
    return min(sizes, key=lambda value: abs(sizes[value] - target), default=None)


def _number_at(variant: Variant, knob: str) -> float:
    value: object = variant.experiment.to_json()
    passed: list[str] = []
    for step in knob.split("."):
        if not isinstance(value, dict) or step not in value:
            known = list(value) if isinstance(value, dict) else []
            place = ".".join(passed) or "the experiment"
            raise MinigptError(f'--knob {knob}: {variant.name} has no "{step}" in {place}{nearest(step, known)}')
        passed.append(step)
        value = value[step]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MinigptError(f"--knob {knob}: found {value!r} in {variant.name}; a number that increases the size is needed")
    return value
