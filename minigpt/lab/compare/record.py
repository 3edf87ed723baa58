"""The record of a comparison: writes and reads comparison.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from minigpt.errors import count
from minigpt.lab.compare.blocks import BlockKind
from minigpt.lab.compare.spread import Spread, speed_spread
from minigpt.lab.compare.tuned import RecordedTuning
from minigpt.lab.compare.variants import Budget, Size, Unit
from minigpt.lab.cost import Cost
from minigpt.lab.ledger import shown
from minigpt.lab.sealed import LARGEST, Count, FilePath, Many, Name, Number, Pair, Part, Sealed, Text, plain_json
from minigpt.lab.statistics import Kind
from minigpt.run.status import Status

PASSED = "passed"
"""The gate of a comparison in which every variant is better and survives the ledger."""

NOT_COMPARED = "not compared"
"""The verdict on runs that are shown without a comparison."""


class ComparisonSettings(Part):
    """The settings of a comparison, as the user chose them.

    Attributes:
        seeds: The seeds of the base. Each variant has the first of them, or all.
        most_seeds: Up to this number, seeds were added one at a time until every variant had a verdict; None if the number
            of seeds was fixed before.
        unit: Unit of the losses.
        delta: Differences smaller than this do not matter; in the same unit.
        budget: The training budget that was made equal to the base's.
        match: The size that was made equal to the base's.
        knobs: The settings that may be changed to match the size.
        device: The device for the runs, as the user chose it.
        jobs: Number of runs at the same time.
    """

    seeds: Annotated[Many[Count], Field(min_length=1)]
    most_seeds: Count | None = None
    unit: Unit = "nats"
    delta: Annotated[float, Field(gt=0, le=LARGEST)] = 0.01
    budget: Budget | None = None
    match: Size | None = None
    knobs: Many[Text] = ()
    device: Text = "auto"
    jobs: Count = 1

    @property
    def looking(self) -> bool:
        """Whether seeds were added until there was a verdict. Then the intervals hold however often one looks."""
        return self.most_seeds is not None


class RecordedCost(Part):
    """The costs of a model. If its plugins were not executed, only the context is known.

    Attributes:
        total: Number of parameters.
        parameters: Number of parameters by kind.
        active: Parameters that one token uses.
        context: Length of the counted sequence, in tokens.
        train_flops: Operations per token, forward and backward.
        train_flops_square: The same, with masked scores counted too.
        activation_bytes: Bytes per token that are kept for the backward pass.
        state_bytes_token: Bytes that each further token adds to the decoding state.
        state_bytes: Bytes of the decoding state after a sequence as long as the context.
    """

    total: Count | None = None
    parameters: dict[Text, Count] = Field(default_factory=dict)
    active: Count | None = None
    context: Count
    train_flops: Count | None = None
    train_flops_square: Count | None = None
    activation_bytes: Count | None = None
    state_bytes_token: Count | None = None
    state_bytes: Count | None = None

    @classmethod
    def of(cls, cost: Cost) -> Self:
        """The record of a measured cost."""
        return cls(total=cost.total, **vars(cost))


class TextInterval(Part):
    """What the blocks of the validation text show of a difference, averaged over the seeds.

    Attributes:
        kind: The parts of the text that a block is made of.
        bounds: 95 % interval of the difference over text of the same kind, of this variant only; None if there is none.
        blocks: The difference in each block, in the order of the text.
        reason: Why there is no interval.
    """

    kind: BlockKind
    bounds: Pair[Number] | None = None
    blocks: Many[Number] = ()
    reason: Text = ""

    @model_validator(mode="after")
    def _has_bounds_or_a_reason(self) -> Self:
        if (self.bounds is None) != bool(self.reason):
            raise ValueError("an interval over text needs bounds, or a reason why there are none")
        return self

    @property
    def contains_zero(self) -> bool:
        """Whether other text of the same kind could show the opposite."""
        return self.bounds is not None and self.bounds[0] <= 0 <= self.bounds[1]

    @property
    def described(self) -> str:
        """The number and kind of blocks: `26 blocks of documents`."""
        return f"{count(len(self.blocks), 'block')} of {self.kind}"


class Asked(Part):
    """What the ledger says about a verdict (`minigpt.lab.ledger`).

    Attributes:
        number: Number of the question.
        p: p-value for this variant alone.
        level: The largest p-value that survives, considering how often was asked before.
        survives: Whether the verdict is a difference, and survives.
    """

    number: Count
    p: Annotated[float, Field(ge=0, le=1)]
    level: Annotated[float, Field(ge=0, le=1)]
    survives: bool

    @property
    def in_words(self) -> str:
        """What the ledger says, as the end of a sentence about the variant."""
        verb = "survives" if self.survives else "does not survive"
        p, level = shown(self.p, self.level)
        return f"{verb} the ledger (question {self.number}: p {p}, allowed {level})"


class Difference(Part):
    """The difference of a variant to the base, paired by seed.

    Attributes:
        kind: The kind of verdict.
        n: Number of pairs.
        mean: Mean of the differences; below 0 is better.
        sd: Standard deviation of the differences.
        interval: Joint interval of all variants with a verdict (corrected); without bounds if there are too few seeds.
        plain_interval: 95 % interval of this variant only (uncorrected).
        family: Number of variants in the correction.
        p: Corrected p-value of the hypothesis of no difference.
        p_equivalent: Corrected p-value of the hypothesis of a difference of delta or more.
        effect: The mean divided by the standard deviation.
        seeds_needed: If these seeds cannot tell: with how many a verdict is as likely as not, and with how many it comes 4
            times in 5; None if more than 10,000 would be needed.
        looking: Whether seeds were added until there was a verdict. Then the intervals hold however often one looks.
        outliers: Places of the seeds whose differences lie far from the others, counted from 0.
        caution: Why the differences resemble those that give false verdicts; empty if they do not.
        text_interval: The interval over the validation text; None if no run was measured.
        asked: What the ledger says about the verdict; None if it has no verdict, or was not entered.
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
    seeds_needed: Pair[Count] | None
    looking: bool = False
    outliers: Many[Count] = ()
    caution: Text = ""
    text_interval: TextInterval | None = None
    asked: Asked | None = None

    @model_validator(mode="after")
    def _interval_is_whole(self) -> Self:
        known = [number is not None for number in (*self.interval, *self.plain_interval, self.p)]
        if any(known[:2]) and not all(known):
            raise ValueError("an interval needs two ends, a plain interval and a p")
        return self

    @property
    def has_interval(self) -> bool:
        """Whether there were enough seeds for a verdict."""
        return None not in self.interval


class RunResult(Part):
    """The result of one run: a variant with one seed.

    Attributes:
        seed: The run's seed.
        outcome: The run's status.
        run: The run folder; in the file, relative to the comparison's folder.
        message: What went wrong, or with which changes the run was continued.
        loss: Loss after the last update, in the comparison's unit.
        best: Lowest loss of all evaluations.
        seconds: Training time in seconds.
        tokens_per_second: Median over updates.
        speed_quartiles: Quartiles of tokens/s over updates.
        others: Share of the machine's processors that other processes used meanwhile; None if unknown.
        machine: Processor, device and threads.
        precision: `fp32` or `bf16`.
        code: Fingerprint of the minigpt code that trained the run, and torch's version.
        parts: Each part of the experiment, with the fingerprint of its source.
        position_loss: Loss at each position in the window, in nats; None where no target counts.
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
    parts: dict[Text, Text] = Field(default_factory=dict)
    position_loss: Many[Number | None] = ()

    @property
    def is_finished(self) -> bool:
        """Whether the run was trained to its end, and measured."""
        return self.outcome is Status.FINISHED


class VariantResult(Part):
    """The results of a variant over all seeds.

    Attributes:
        name: Name of its experiment, or of the folder if its runs are not compared.
        source: The file or folder that the user named.
        description: The experiment's description.
        adjusted: Changes that made the variant comparable.
        experiment: The experiment as trained, except for the seed.
        tokens: Tokens that one training sees.
        training_flops: Operations of one training; None if unknown.
        cost: Costs of its model.
        mean: Mean loss over finished runs.
        sd: Standard deviation of the losses; None for fewer than two.
        verdict: The verdict in words.
        difference: The difference to the base; None for the base itself, and if a run failed.
        tuning: How its settings were tuned; None if they were not.
        runs: The runs, one per seed.
    """

    name: Name
    source: Text
    description: Text
    adjusted: Many[Text] = ()
    experiment: Annotated[dict[str, JsonValue], BeforeValidator(plain_json)]
    tokens: Count
    training_flops: Count | None
    cost: RecordedCost
    mean: Number | None
    sd: Number | None
    verdict: Text
    difference: Difference | None = None
    tuning: RecordedTuning | None = None
    runs: Many[RunResult]

    @model_validator(mode="after")
    def _places_are_alike(self) -> Self:
        if len({len(run.position_loss) for run in self.runs if run.position_loss}) > 1:
            raise ValueError("runs have losses at different numbers of positions")
        return self

    @property
    def losses(self) -> list[float]:
        """The losses of the runs that have one."""
        return [run.loss for run in self.runs if run.loss is not None]

    @property
    def finished(self) -> list[RunResult]:
        """The variant's finished runs."""
        return [run for run in self.runs if run.is_finished]

    @property
    def seconds(self) -> Spread | None:
        """Training seconds over the finished runs."""
        return Spread.of([run.seconds for run in self.finished if run.seconds is not None])

    @property
    def tokens_per_second(self) -> Spread | None:
        """Tokens/s: median over the finished runs, and range of the middle half of their updates."""
        speeds = [run.tokens_per_second for run in self.finished if run.tokens_per_second is not None]
        return speed_spread(speeds, [run.speed_quartiles for run in self.finished if run.speed_quartiles is not None])


class FailedVariant(Part):
    """A variant that is not compared, because its plugins do not let it be built or trained.

    Attributes:
        name: Name of its file.
        source: The file or run folder.
        message: What its plugins did.
    """

    name: Text
    source: Text
    message: Text


class NoiseFloor(Part):
    """What a number of seeds can find, from the spread of differences between runs.

    Attributes:
        sd: Standard deviation of a difference, over seeds.
        source: What it was computed from, in words.
        seeds: Number of seeds; with `most_seeds` the largest one.
        smallest: Differences of this size or more are found four times in five.
        power_of_equivalence: Probability that a variant without a difference is found equivalent within delta.
    """

    sd: Number
    source: Text
    seeds: Count
    smallest: Number
    power_of_equivalence: Number


class Comparison(Sealed):
    """The results of a comparison.

    Attributes:
        name: Name of its folder.
        settings: The settings that the user chose.
        failed: Variants that could not be compared.
        variants: The compared variants, the base first. If the base was compared only with itself, its second group of
            seeds is the second variant.
        base_again: The base with further seeds, compared with itself beside the variants; None if it was left out.
        noise: What the number of seeds can find; None if too few runs have finished.
        gate: `passed` if every variant is better and survives the ledger; otherwise why not; empty if it was not entered.
    """

    format_number: ClassVar[int] = 3
    again: ClassVar[str] = "Call minigpt compare again to rewrite it"

    name: Text
    settings: ComparisonSettings
    failed: Many[FailedVariant] = ()
    variants: Annotated[Many[VariantResult], Field(min_length=1)]
    base_again: VariantResult | None = None
    noise: NoiseFloor | None = None
    gate: Text = ""

    @property
    def base(self) -> VariantResult:
        """The variant that the others are compared with."""
        return self.variants[0]

    @property
    def runs(self) -> Iterator[tuple[VariantResult, RunResult]]:
        """Every run with its variant, and the base's second group."""
        groups = self.variants if self.base_again is None else (*self.variants, self.base_again)
        return ((variant, run) for variant in groups for run in variant.runs)

    @property
    def family(self) -> int:
        """Number of variants that intervals and p-values are corrected for; 0 if there is no interval."""
        known = (variant.difference for variant in self.variants if variant.difference is not None)
        return max((difference.family for difference in known if difference.has_interval), default=0)

    def seen_from(self, folder: Path) -> Self:
        """The same comparison, with the paths of runs relative to a folder."""

        def seen(variant: VariantResult) -> VariantResult:
            paths = [Path(os.path.relpath(run.run, folder)).as_posix() for run in variant.runs]
            runs = [run.model_copy(update={"run": path}) for run, path in zip(variant.runs, paths, strict=True)]
            return variant.model_copy(update={"runs": tuple(runs)})

        again = None if self.base_again is None else seen(self.base_again)
        return self.model_copy(update={"variants": tuple(map(seen, self.variants)), "base_again": again})
