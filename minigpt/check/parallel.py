"""Many targets, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from minigpt.check.suite import EXAMPLES, TargetReport, check
from minigpt.check.targets import EXPERIMENT, Target, find_again
from minigpt.errors import CheckError
from minigpt.reading import Reading
from minigpt.registry import trust
from minigpt.system import process

_LONGEST_FIRST = (EXPERIMENT, "dataset", "attention", "block", "ffn", "position")
"""Families whose members take the longest; what is short comes last, so that all processes end at about one time."""


@dataclass(frozen=True)
class Options:
    """How to check.

    Attributes:
        only: Names of the properties to try; empty for all.
        seed: Of the random cases.
        quick: Only the quick part.
        thorough: What takes long too.
        examples: Random cases for each property.
    """

    only: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False
    thorough: bool = False
    examples: int = EXAMPLES

    def check(self, target: Target) -> TargetReport:
        """Check one target here."""
        with _one_thread():
            return check(
                target,
                only=self.only or None,
                seed=self.seed,
                quick=self.quick,
                thorough=self.thorough,
                examples=self.examples,
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors are small here: threads only cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_all(
    targets: Sequence[Target], options: Options, *, jobs: int = 1, done: Callable[[TargetReport], None] = lambda report: None
) -> list[TargetReport]:
    """Check every target; reports in the order of the targets.

    Args:
        targets: What to check.
        options: How.
        jobs: Processes; with 1 all is done in this one.
        done: Called with each report as it is finished.
    """
    if jobs == 1 or len(targets) == 1:
        reports = []
        for target in targets:
            reports.append(options.check(target))
            done(reports[-1])
        return reports
    of_label: dict[str, TargetReport] = {}
    # Not forked: a process that has used threads may not be copied safely.
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        with process.spawning_isolated():  # a process is started when something is submitted, and never later
            pool = stack.enter_context(
                ProcessPoolExecutor(
                    min(jobs, len(targets)),
                    mp_context=context,
                    initializer=trust.expect,
                    initargs=(trust.announced(),),
                )
            )
            waiting = sorted(targets, key=lambda target: [*_LONGEST_FIRST, target.family].index(target.family))
            futures = [
                pool.submit(_check_elsewhere, target.family, _name(target), target.reading, options) for target in waiting
            ]
        try:
            for future in as_completed(futures):
                try:
                    report = future.result()
                except BrokenProcessPool as error:
                    raise CheckError(
                        "a component ended the process that checked it (a crash, or os._exit). "
                        "Check the targets in separate commands to find it"
                    ) from error
                of_label[report.target] = report
                done(report)
        except BaseException:  # Ctrl-C: what has not begun shall not
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [of_label[target.label] for target in targets]


def default_jobs(targets: Sequence[Target]) -> int:
    """A process a core where there is enough to do; one has to import torch first."""
    return 1 if len(targets) < 4 else max(1, min(len(targets) // 2, len(_cores())))


def _cores() -> range | set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _name(target: Target) -> str:
    return target.entry.name if target.entry else target.label


def _check_elsewhere(family: str, name: str, reading: Reading, options: Options) -> TargetReport:
    return options.check(find_again(family, name, reading))
