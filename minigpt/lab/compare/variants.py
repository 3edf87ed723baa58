"""What is compared: experiments that share data, windows and budget, and how they are brought to share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from minigpt.data import Corpus, tokenizer_fingerprint
from minigpt.errors import ExperimentError, MinigptError, listing, nearest
from minigpt.experiment import MAX_COUNT, Experiment
from minigpt.reading import AS_WRITTEN, Reading, read_experiment
from minigpt.run import RunFolder
from minigpt.run.identity import differing, settings_of

Budget = Literal["tokens", "flops", "time", "steps"]
Size = Literal["params", "flops", "state"]
Unit = Literal["nats", "bits-per-byte"]

_FEW = 128  # values that are all tried

TOLERANCE = 0.01  # sizes that differ by less are called equal


@dataclass(frozen=True)
class Variant:
    """One of the things that are compared.

    Attributes:
        name: Of the experiment; no two variants share it.
        experiment: What is trained, but for its seed.
        source: The file or run folder it was read from.
        adjusted: What was changed so that it can be compared, in words.
        runs: Finished or begun runs that were named themselves.
        read: Reads its file again with further settings, as `--set` has them; None for runs, which nothing changes.
        settings: Those that were added so far, such as `model.ffn.expansion=2.5`.
    """

    name: str
    experiment: Experiment
    source: str
    adjusted: tuple[str, ...] = ()
    runs: tuple[RunFolder, ...] = ()
    read: Callable[[Sequence[str]], Experiment] | None = field(default=None, repr=False, compare=False)
    settings: tuple[str, ...] = ()

    def changed(self, experiment: Experiment, note: str) -> Variant:
        """The same variant with something adjusted."""
        return replace(self, experiment=experiment, adjusted=(*self.adjusted, note))

    def with_setting(self, setting: str) -> Variant:
        """The same variant, read again with one setting more; how it is trained stays.

        Raises:
            ExperimentError: The experiment is not valid with it.
        """
        assert self.read is not None, "runs are not changed"
        settings = (*self.settings, setting)
        experiment = self.read(settings).model_copy(update={"training": self.experiment.training})
        return replace(self, experiment=experiment, settings=settings)

    def with_training(self, changes: dict[str, object], note: str) -> Variant:
        """The same variant, trained otherwise.

        Raises:
            ExperimentError: Its schedule cannot be had for so many updates.
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
        MinigptError: One cannot be read, two have one name, or there is nothing to compare with.
    """
    # A base that a pattern names once more (base.json *.json) is one variant.
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
        MinigptError: It cannot be read.
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
        RunError: There is none.
    """
    if RunFolder(folder).exists():
        return (RunFolder(folder),)
    runs = tuple(RunFolder(path) for path in sorted(folder.glob("seed-*")) if RunFolder(path).exists())
    runs = tuple(run for run in runs if ".old-" not in run.path.name)
    if not runs:
        RunFolder(folder).experiment()  # says what is wrong, and what may have been meant
    return runs


def _of_runs(runs: tuple[RunFolder, ...], source: Path, experiments: Sequence[Experiment]) -> Variant:
    for run in runs:
        if later := run.later_segments():
            raise MinigptError(
                f"{run.path} was continued with changes ({'; '.join(later)}), so it stands for no experiment; name an "
                "experiment file to train it anew"
            )
    first = settings_of({**experiments[0].to_json(), "seed": 0})
    for run, experiment in zip(runs, experiments, strict=True):
        if differences := differing(first, settings_of({**experiment.to_json(), "seed": 0})):
            paths = ", ".join(path for path, *_ in differences)
            raise MinigptError(f"{runs[0].path} and {run.path} differ in more than their seed ({paths}): name one of them")
    return Variant(experiments[0].name, experiments[0], str(source), runs=runs)


def settled(variants: Sequence[Variant], precision: Callable[[], str]) -> list[Variant]:
    """Base and variants with precision and compile settled once for all of them, so that they differ in what was asked only.

    Args:
        variants: Base and variants.
        precision: What `auto` is; asked where it is needed. For torch.compile it is false: whether it pays depends on the
            run, and it changes the rounding.
    """
    found = []
    for variant in variants:
        training = variant.experiment.training
        changes: dict[str, object] = {"precision": precision()} if training.precision == "auto" else {}
        changes |= {"compile": False} if training.compile == "auto" else {}
        training = training.model_copy(update=changes)
        found.append(replace(variant, experiment=variant.experiment.model_copy(update={"training": training})))
    return found


def tokens_of(experiment: Experiment) -> int:
    """Tokens that a training sees."""
    return experiment.training.max_iters * experiment.training.batch_size * experiment.model.block_size


# ------------------------------------------------------------------------------------------------- what must be shared


def check_comparable(variants: Sequence[Variant], *, unit: Unit, budget: Budget | None) -> None:
    """Refuse what cannot be compared.

    Raises:
        MinigptError: Naming every difference that stands in the way, a line each.
    """
    base, *others = variants
    lines = []
    for other in others:
        pair = f"{other.name} and {base.name}"
        ours, theirs = other.experiment.to_json(), base.experiment.to_json()
        if ours["data"] != theirs["data"]:
            lines.append(f"{pair} have different data: {_short(ours['data'])}, {_short(theirs['data'])}")
        if ours["tokenizer"] != theirs["tokenizer"] and unit == "nats":
            lines.append(
                f"{pair} have different tokenizers ({_short(ours['tokenizer'])}, {_short(theirs['tokenizer'])}), and a loss "
                "in nats a token says nothing then; --unit bits-per-byte can be compared"
            )
        windows = other.experiment.model.block_size, base.experiment.model.block_size
        if windows[0] != windows[1]:
            lines.append(
                f"{pair} are validated in windows of different length (model.block_size {windows[0]}, {windows[1]}): "
                "what comes first in a window is harder, so that alone changes the loss"
            )
        seen = tokens_of(other.experiment), tokens_of(base.experiment)
        if budget is None and seen[0] != seen[1]:
            lines.append(
                f"{pair} are trained on different numbers of tokens ({seen[0]:,}, {seen[1]:,}); "
                "--budget tokens, flops, time or steps makes them equal in one of these"
            )
    if lines:
        raise MinigptError("\n".join(lines))


def check_same_data(variants: Sequence[Variant], corpus_of: Callable[[Variant], Corpus], unit: Unit) -> None:
    """Refuse variants whose data, or in nats whose tokenizer, have other content although their settings are the same.

    Raises:
        MinigptError: Naming the variants: a dataset's or tokenizer's plugin, or a file, was edited between them; or the
            losses of one cannot be given in the unit.
    """
    base, *others = variants
    data = {variant.name: corpus_of(variant) for variant in variants}
    without_bytes = [variant.name for variant in variants if not data[variant.name].val_bytes]
    if unit == "bits-per-byte" and without_bytes:
        raise MinigptError(
            f"--unit bits-per-byte: the validation data of {listing(without_bytes)} is no text, so it has no bytes; "
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
                    f"{ours[:12]} and {theirs[:12]}. Name experiment files that use the same"
                )


def _short(value: object) -> str:
    """A component as one would write it."""
    if isinstance(value, dict):
        others = ", ".join(f"{key} {item}" for key, item in value.items() if key != "name")
        return f"{value['name']}{f' ({others})' if others else ''}"
    return str(value)


# ------------------------------------------------------------------------------------------------- matching the budget


def matched_budget(base: Variant, variant: Variant, budget: Budget, ratio: float = 1.0, known: str = "") -> Variant:
    """The variant with as many updates as the base's budget gives it.

    Args:
        base: Sets the budget: what its own updates take.
        variant: Its max_iters, and with it its schedule, is changed.
        budget: What is made equal.
        ratio: What an update of the variant takes, one of the base being 1: operations for `flops`, seconds for `time`.
        known: How well the ratio is known, for the note of what was adjusted.
    """
    training, given = variant.experiment.training, base.experiment.training.max_iters
    match budget:
        case "steps":
            updates = float(given)
        case "tokens":
            each = training.batch_size * variant.experiment.model.block_size
            updates = tokens_of(base.experiment) / each
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
        base: The size to come to.
        variant: What is adjusted.
        knobs: Paths of numbers in the experiment that the size grows with, such as `model.d_model` and then, since a width
            must suit its heads, `model.ffn.expansion`: each is brought as near as it goes.
        size_of: The size of an experiment.
        what: For messages.

    Raises:
        MinigptError: There is no such number, or no value of it comes near enough; the nearest is named.
    """
    for knob in knobs:
        if not _near(size_of(variant.experiment), base):
            variant = _turned(base, variant, knob, size_of, what)
    there = size_of(variant.experiment)
    if not _near(there, base):
        came = f" ({'; '.join(variant.adjusted)})" if variant.adjusted else ""
        raise MinigptError(
            f"{variant.name}: {' and '.join(knobs)} cannot bring its {what} within 1 % of the base's {base:,}; the nearest "
            f"is {there:,}{came}. Name another --knob, or a finer one after it, such as --knob model.ffn.expansion"
        )
    return variant


def _turned(base: int, variant: Variant, knob: str, size_of: Callable[[Experiment], int], what: Size) -> Variant:
    """The variant with one number set to where its size is nearest to the base's."""
    start = _number_at(variant, knob)
    tried: dict[float, Variant] = {}

    def size(value: float) -> int | None:
        """None where the model refuses that value."""
        try:
            tried[value] = variant.with_setting(f"{knob}={value}")
        except ExperimentError:
            return None
        return size_of(tried[value].experiment)

    # A width is a multiple of the heads, and many mixers want the head's width even.
    best = _best_value(start, 2 * variant.experiment.model.n_heads if knob == "model.d_model" else 1, base, size)
    if best is None or best == start:
        return variant
    return tried[best].changed(tried[best].experiment, f"{knob} {start:g} → {best:g} (--match {what})")


def _near(size: int, aim: int) -> bool:
    return abs(size - aim) <= TOLERANCE * aim


def _best_value(start: float, grid: int, aim: int, size: Callable[[float], int | None]) -> float | None:
    """The value whose size is nearest to the aim; None where the model refuses all that were tried.

    Args:
        start: The value now; up to 16 times (a whole number) or 64 times as much is tried.
        grid: Whole numbers are multiples of it.
        aim: The size to come to.
        size: Of a value; None where the model refuses it.
    """
    sizes: dict[float, int] = {}

    def is_enough(value: float) -> bool:
        found = size(value)
        if found is not None:
            sizes[value] = found
        return found is None or found >= aim

    if isinstance(start, int):
        first, last = 1, 16 * start // grid
        if last <= _FEW:  # such as heads, where most values may be refused
            for multiple in range(first, last + 1):
                is_enough(multiple * grid)
        else:
            while first <= last:
                middle = (first + last) // 2
                first, last = (first, middle - 1) if is_enough(middle * grid) else (middle + 1, last)
    else:
        low, high = start / 64, start * 64
        for _ in range(40):  # halves the logarithm's interval: to a part in 10^10
            middle_value = (low * high) ** 0.5
            low, high = (low, middle_value) if is_enough(middle_value) else (middle_value, high)
            if any(_near(found, aim) for found in sizes.values()):
                break
    return min(sizes, key=lambda value: abs(sizes[value] - aim), default=None)


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
        raise MinigptError(f"--knob {knob}: found {value!r} in {variant.name}; a number is needed that the size grows with")
    return value
