"""Time a training update, in full and in its two parts, and compare it with the fastest matrix product."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from minigpt.contracts import TokenRows, TokenStream
from minigpt.data import Corpus, alike_updates, sequence_length, train_batch
from minigpt.errors import DivergedError
from minigpt.experiment import Experiment
from minigpt.lab.bench.ceiling import Ceiling, measure_ceiling
from minigpt.lab.bench.machine import Machine, clock, peak_mib, this_machine
from minigpt.lab.bench.timing import Timing
from minigpt.lab.flops import Flops, count_update
from minigpt.model import GPT
from minigpt.reading import AS_WRITTEN, Reading
from minigpt.run.evaluation import micro_batch_size
from minigpt.training.building import build_trainable
from minigpt.training.loop import compute_gradients, set_progress, take_step
from minigpt.training.machine import build_optimizer, choose_precision
from minigpt.training.seeds import seed_generators, stream_seed

_WARMUP = 2
_CORPUS_TOKENS = 1 << 20  # about as many as in TinyShakespeare
_DOCUMENT_TOKENS = 1000
_SHAPES = 8  # groups of batches of similar size


@dataclass(frozen=True)
class Lap:
    """Times of one update, in seconds; means over the training, if updates differ in size.

    Attributes:
        gradients: Time to draw the batch, for forward and backward pass, and for clipping.
        optimizer: Time of the optimizer step and of the components' own adjustments after it.
    """

    gradients: float
    optimizer: float


@dataclass(frozen=True)
class TrainingSpeed:
    """Measured speed of training.

    Attributes:
        machine: The machine that was measured.
        precision: `fp32` or `bf16`.
        parameters: Number of parameters of the model.
        tokens: Tokens in an update; a mean over the training, if updates differ in size.
        micro_batch_size: Sequences that go through the model at once.
        update: Seconds of a whole update.
        gradients: Seconds of its first part: batch, forward, backward and clipping.
        optimizer: Seconds of its second part: the optimizer step and the components' adjustments after it.
        flops: Operations of the forward and backward pass of an update; a mean too.
        before: Matrix products, measured before the updates.
        after: Matrix products, measured after the updates. A difference means that other work used the machine.
        peak_mib: Peak memory of the process until the end of the updates; None if the system does not report it.
        imports_mib: Peak memory of the process before the model was built.
    """

    machine: Machine
    precision: str
    parameters: int
    tokens: int
    micro_batch_size: int
    update: Timing
    gradients: Timing
    optimizer: Timing
    flops: Flops
    before: Ceiling
    after: Ceiling
    peak_mib: float | None
    imports_mib: float | None

    @property
    def tokens_per_second(self) -> float:
        """Training speed, from whole updates."""
        return self.tokens / self.update.median

    @property
    def ceiling(self) -> float:
        """Rate of the fastest matrix product, before or after the updates, in FLOP/s."""
        return max(self.before.best, self.after.best)

    def share(self, flops: int, timing: Timing) -> float:
        """The rate of `flops` operations in the time `timing`, as a fraction of the ceiling."""
        return flops / timing.median / self.ceiling

    def to_json(self) -> dict[str, Any]:
        """All numbers as JSON: rates in FLOP/s, shares as fractions of 1."""
        return {
            **asdict(self),
            "tokens_per_second": self.tokens_per_second,
            "flops_per_second": self.flops.needed / self.update.median,
            "ceiling": self.ceiling,
            "share": self.share(self.flops.needed, self.update),
            "share_of_gradients": self.share(self.flops.needed, self.gradients),
            "share_square": self.share(self.flops.square, self.update),
        }


def measure_training(
    experiment: Experiment,
    *,
    vocab_size: int,
    repeats: int,
    device: torch.device,
    length: int | None = None,
    reading: Reading = AS_WRITTEN,
) -> TrainingSpeed:
    """Time a few updates of a new model on random ids, with the training code of `minigpt run`.

    Nothing is compiled, evaluated or saved. The caller's random state does not change.

    Args:
        experiment: The resolved experiment. Its precision is used.
        vocab_size: Number of token ids.
        repeats: Number of measurements after the warm-up; each makes one update of every size.
        device: The device from `prepare`.
        length: Tokens in the longest sequence; None for block_size.
        reading: Whether plugins of a teacher may be loaded.

    Raises:
        DivergedError: A loss or gradient is not finite.
    """
    length = length or experiment.model.block_size
    precision = choose_precision(experiment.training.precision, device)
    imports = peak_mib(device)
    with torch.random.fork_rng():
        seed_generators(experiment.seed, device)
        corpus = random_corpus(vocab_size, length, rows=length < experiment.model.block_size)
        model = build_trainable(experiment, corpus, device, reading, random_ids=True).train()
        before = measure_ceiling(experiment.model.d_model, precision, device)
        laps = _updates(experiment, corpus.to(device), model, precision, _WARMUP + repeats)[_WARMUP:]
        peak = peak_mib(device)
        after = measure_ceiling(experiment.model.d_model, precision, device)
        (mean,) = alike_updates(experiment, length, most=1)
        return TrainingSpeed(
            machine=this_machine(device),
            precision=precision,
            parameters=model.n_parameters(),
            tokens=round(mean.tokens),
            micro_batch_size=min(experiment.training.batch_size, micro_batch_size(experiment, device)),
            update=Timing.of([lap.gradients + lap.optimizer for lap in laps]),
            gradients=Timing.of([lap.gradients for lap in laps]),
            optimizer=Timing.of([lap.optimizer for lap in laps]),
            flops=count_update(model, experiment, corpus),
            before=before,
            after=after,
            peak_mib=peak,
            imports_mib=imports,
        )


def random_corpus(vocab_size: int, length: int, *, rows: bool = False) -> Corpus:
    """A corpus of uniform random ids: a million, or more for longer sequences. Speed does not depend on the text.

    With `rows` it has separate rows of this length, for sequences that are shorter than block_size.
    """
    ids = torch.randint(vocab_size, (max(_CORPUS_TOKENS, 2 * length),), dtype=torch.int32)
    split: TokenStream | TokenRows = TokenStream(ids, torch.arange(0, len(ids), _DOCUMENT_TOKENS))
    if rows:
        ids = ids[: len(ids) // length * length].view(-1, length)
        split = TokenRows(ids, ids, torch.ones_like(ids, dtype=torch.bool))
    return Corpus(split, split, vocab_size, None, "random", None)


def _updates(experiment: Experiment, corpus: Corpus, model: GPT, precision: str, count: int) -> list[Lap]:
    """Do the trainer's updates and time their two parts."""
    training, device = experiment.training, model.device
    now = clock(device)
    optimizer = build_optimizer(experiment, model, precision)
    schedule = training.schedule.build(training.max_iters)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    groups = alike_updates(experiment, sequence_length(corpus, experiment), most=_SHAPES)
    laps = []
    for number in range(count):
        gradients = step_taken = 0.0
        for alike in groups:
            start, step = now(), alike.steps[number % len(alike.steps)]
            seed_generators(stream_seed(experiment.seed, step, 0), device)
            set_progress(model, optimizer, peaks, schedule.factor(step), step / training.max_iters)
            batch = train_batch(corpus, experiment, step)
            loss, _, norm = compute_gradients(model, batch, experiment, precision).tolist()
            half = now()
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise DivergedError(f"update {step + 1} on random ids is not finite (loss {loss}, gradient norm {norm})")
            take_step(model, optimizer)
            gradients += (half - start) * alike.weight(batch)
            step_taken += (now() - half) * alike.weight(batch)
        laps.append(Lap(gradients, step_taken))
    return laps
