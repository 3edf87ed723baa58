"""A comparison, from its results to the page: comparison.json is written and read here alone.

The file has a format number, and a digest that finds damage and edits. The types hold against a file that a stranger made:
whatever is read here, the report can show.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from minigpt.errors import RunError, UnreadableError
from minigpt.lab.compare.spread import Spread, speed_spread
from minigpt.lab.compare.variants import Budget, Size, Unit
from minigpt.lab.cost import Cost
from minigpt.lab.statistics import Kind
from minigpt.printable import printable
from minigpt.run.status import Status
from minigpt.system.files import read_object, write_json

FORMAT = 2
"""Of comparison.json. In format 1 `failed` had another name."""

LARGEST = 1e100
"""Of a number in the file, either way: beyond every loss and every count, and sums and squares of it are finite."""

NOT_COMPARED = "not compared"
"""The verdict on runs that are only shown."""

_MAX_BYTES = 1 << 28  # it has a loss for each place in the window, of each run
_DEEPEST = 40  # nesting of an experiment

_MOST_CHARACTERS = 1 << 16  # of a text; what a plugin raises may have more
_LONGEST_PATH = 4096


def _text(value: object) -> object:
    """A text as it can be shown: without control characters and halves of characters, and not endless."""
    return printable(value)[:_MOST_CHARACTERS] if isinstance(value, str) else value


def _path(value: str) -> str:
    if len(value) > _LONGEST_PATH:
        raise ValueError(f"a path of {len(value):,} characters")
    return value


_T = TypeVar("_T")
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**30)]
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=200)]
FilePath = Annotated[str, AfterValidator(_path)]
Many = Annotated[tuple[_T, ...], Field(strict=False)]
Pair = Annotated[tuple[_T, _T], Field(strict=False)]


def _plain(value: object, depth: int = 0) -> object:
    """JSON that can be written again: no NaN, no half characters, no nesting without end."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            _plain(key, depth + 1)
            _plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _plain(item, depth + 1)
    elif isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"found {value}")
    return value


class _Part(BaseModel):
    """Strict types, and nothing beside them."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Asked(_Part):
    """What was asked for.

    Attributes:
        seeds: The same for each variant.
        unit: Of the losses.
        delta: Differences smaller than this do not matter, in that unit.
        budget: What every variant has as much of as the base.
        match: The size that was made equal.
        knobs: The settings that were changed for it.
        device: Where the runs were trained, as it was asked for.
        jobs: Runs at a time.
    """

    seeds: Annotated[Many[Count], Field(min_length=1)]
    unit: Unit = "nats"
    delta: Annotated[float, Field(gt=0, le=LARGEST)] = 0.01
    budget: Budget | None = None
    match: Size | None = None
    knobs: Many[Text] = ()
    device: Text = "auto"
    jobs: Count = 1


class RecordedCost(_Part):
    """What a model takes; only the context is known of one with parts that are not executed.

    Attributes:
        total: Parameters.
        parameters: By kind.
        active: Those that a token makes use of.
        context: Tokens of the sequence that was counted.
        train_flops: Operations a token, forward and backward.
        train_flops_square: The same with masked scores.
        activation_bytes: Kept for the backward pass, a token.
        state_bytes_token: Remembered of each further token.
        state_bytes: Remembered of a sequence as long as the context.
    """

    total: Count | None = None
    parameters: dict[Text, Count] = {}
    active: Count | None = None
    context: Count
    train_flops: Count | None = None
    train_flops_square: Count | None = None
    activation_bytes: Count | None = None
    state_bytes_token: Count | None = None
    state_bytes: Count | None = None

    @classmethod
    def of(cls, cost: Cost) -> Self:
        """What was measured."""
        return cls(total=cost.total, **vars(cost))


class Difference(_Part):
    """A variant against the base, seed by seed.

    Attributes:
        kind: The verdict in a word.
        n: Pairs.
        mean: Of the differences; below 0 is better.
        sd: Their standard deviation.
        interval: Holds for all variants with a verdict together; without bounds where there are too few seeds.
        plain_interval: 95 % confidence for this variant alone.
        family: Variants that are corrected for.
        p: Of no difference, corrected.
        p_equivalent: Of a difference of delta or more, likewise.
        effect: The mean in standard deviations.
        seeds_needed: About how many seeds would show a difference or equivalence, where these cannot.
    """

    kind: Kind
    n: Count
    mean: Number
    sd: Number | None
    interval: Pair[Number | None]
    plain_interval: Pair[Number | None]
    family: Count
    p: Number | None
    p_equivalent: Number | None
    effect: Number | None
    seeds_needed: Count | None

    @model_validator(mode="after")
    def _interval_is_whole(self) -> Self:
        known = [number is not None for number in (*self.interval, *self.plain_interval, self.p)]
        if any(known[:2]) and not all(known):
            raise ValueError("an interval has two ends, the plain one beside it, and a p")
        return self

    @property
    def has_interval(self) -> bool:
        """Whether there were seeds enough for a verdict."""
        return None not in self.interval


class RunResult(_Part):
    """One run: a variant with one seed.

    Attributes:
        seed: Of the run.
        outcome: How it stands.
        run: The run folder; in the file, as seen from the comparison's folder.
        message: Of what went wrong, or of what the run was continued with.
        loss: After the last update, in the comparison's unit.
        best: The best of all evaluations.
        seconds: Of training.
        tokens_per_second: Median over updates.
        speed_quartiles: Of tokens/s over updates.
        others: What other processes took of the machine's processors meanwhile, as a part; None where that is not known.
        machine: Processor, device and threads.
        precision: `fp32` or `bf16`.
        code: Fingerprint of minigpt's model and training code that trained it, and torch's version.
        parts: Each part of the experiment, with the fingerprint of its source.
        position_loss: By place in the window, in nats; None where no target counts.
    """

    seed: Count
    outcome: Annotated[Status, Field(strict=False)]
    run: FilePath
    message: Text = ""
    loss: Number | None = None
    best: Number | None = None
    seconds: Number | None = None
    tokens_per_second: Number | None = None
    speed_quartiles: Pair[Number] | None = None
    others: Annotated[float, Field(ge=0, le=LARGEST)] | None = None
    machine: Text | None = None
    precision: Text | None = None
    code: Text | None = None
    parts: dict[Text, Text] = {}
    position_loss: Many[Number | None] = ()

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end, and measured."""
        return self.outcome is Status.FINISHED


class VariantResult(_Part):
    """A variant over its seeds.

    Attributes:
        name: Of its experiment; or the folder of runs that are only shown.
        source: The file or folder that was named.
        description: As the experiment has it.
        adjusted: What was changed so that it can be compared.
        experiment: What was trained, but for the seed.
        tokens: That one training sees.
        training_flops: Of one training; None where that is unknown.
        cost: What its model takes.
        mean: Loss over finished seeds.
        sd: Its standard deviation; None for fewer than two.
        verdict: In words.
        difference: To the base; None for the base itself, and where something failed.
        runs: One a seed.
    """

    name: Name
    source: Text
    description: Text
    adjusted: Many[Text] = ()
    experiment: Annotated[dict[str, JsonValue], BeforeValidator(_plain)]
    tokens: Count
    training_flops: Count | None
    cost: RecordedCost
    mean: Number | None
    sd: Number | None
    verdict: Text
    difference: Difference | None = None
    runs: Many[RunResult]

    @model_validator(mode="after")
    def _places_are_alike(self) -> Self:
        if len({len(run.position_loss) for run in self.runs if run.position_loss}) > 1:
            raise ValueError("runs have losses at different numbers of places")
        return self

    @property
    def losses(self) -> list[float]:
        """Of the runs that have one."""
        return [run.loss for run in self.runs if run.loss is not None]

    @property
    def finished(self) -> list[RunResult]:
        """Its finished runs."""
        return [run for run in self.runs if run.is_finished]

    @property
    def seconds(self) -> Spread | None:
        """Of training, over its finished runs."""
        return Spread.of([run.seconds for run in self.finished if run.seconds is not None])

    @property
    def tokens_per_second(self) -> Spread | None:
        """The median over its finished runs, and the middle half of the updates of all."""
        speeds = [run.tokens_per_second for run in self.finished if run.tokens_per_second is not None]
        return speed_spread(speeds, [run.speed_quartiles for run in self.finished if run.speed_quartiles is not None])


class FailedVariant(_Part):
    """A variant that is not compared, because its plugins do not let it be built or trained.

    Attributes:
        name: Of its file.
        source: The file or run folder.
        message: What its plugins did.
    """

    name: Text
    source: Text
    message: Text


class Comparison(_Part):
    """All that a comparison found.

    Attributes:
        name: Of its folder.
        settings: What was asked for.
        failed: Variants that could not be compared.
        variants: The base first.
    """

    name: Text
    settings: Asked
    failed: Many[FailedVariant] = ()
    variants: Annotated[Many[VariantResult], Field(min_length=1)]

    @property
    def base(self) -> VariantResult:
        """What the others are compared with."""
        return self.variants[0]

    @property
    def runs(self) -> Iterator[tuple[VariantResult, RunResult]]:
        """Every run with its variant."""
        return ((variant, run) for variant in self.variants for run in variant.runs)

    @property
    def family(self) -> int:
        """Variants that are judged together: those with a verdict, which intervals and p-values are corrected for."""
        return sum(variant.difference is not None and variant.difference.has_interval for variant in self.variants)

    def seen_from(self, folder: Path) -> Self:
        """The same with the paths of the runs as seen from a folder."""
        variants = []
        for variant in self.variants:
            paths = [Path(os.path.relpath(run.run, folder)).as_posix() for run in variant.runs]
            runs = [run.model_copy(update={"run": path}) for run, path in zip(variant.runs, paths, strict=True)]
            variants.append(variant.model_copy(update={"runs": tuple(runs)}))
        return self.model_copy(update={"variants": tuple(variants)})

    def document(self) -> dict[str, JsonValue]:
        """As it stands in the file."""
        return seal(self.model_dump(mode="json"))

    def write(self, file: Path) -> None:
        """Write the file, whole or not at all. Raises WriteError as `write_json` does."""
        write_json(file, self.document())

    @classmethod
    def read(cls, file: Path) -> Self:
        """A comparison from its file.

        Raises:
            RunError: It is damaged, was edited, or has another format.
        """
        try:
            document = read_object(file, _MAX_BYTES)
        except UnreadableError as error:
            raise RunError(str(error)) from error
        again = "Call minigpt compare again, which writes it anew"
        number = document.get("format")
        if number != FORMAT or isinstance(number, bool):
            raise RunError(f"{file} has the format {_abbreviated(number)}; this version reads {FORMAT}. {again}")
        if document.pop("sha256", None) != _digest(document):
            raise RunError(f"{file} is damaged or was edited: it does not have the digest in it. {again}")
        del document["format"]
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RunError(f"{file} is damaged: {where}: {first['msg']}. {again}") from error


def seal(document: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The document with its format number and digest."""
    plain = {"format": FORMAT, **{key: value for key, value in document.items() if key not in ("format", "sha256")}}
    return {**plain, "sha256": _digest(plain)}


def _digest(document: dict[str, JsonValue]) -> str:
    text = json.dumps(document, sort_keys=True)  # ASCII: half a character is written as its escape
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _abbreviated(value: object) -> str:
    text = repr(value)
    return text if len(text) < 20 else f"{text[:17]}..."
