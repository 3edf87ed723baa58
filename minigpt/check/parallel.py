"""Checks many targets in parallel processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from minigpt.check.suite import EXAMPLES, TargetReport, check
from minigpt.check.targets import EXPERIMENT, RUN, Target, find_again
from minigpt.errors import CheckError
from minigpt.reading import Reading
from minigpt.registry import trust
from minigpt.system import process

_LONGEST_FIRST = (RUN, EXPERIMENT, "dataset", "attention", "block", "ffn", "position")
"""Families from slow to fast. Fast targets start last, so that all processes end at about the same time."""


@dataclass(frozen=True)
class Options:
    """The options of a check.

    Attributes:
        only: Names of the properties to check; empty for all.
        seed: Seed of the random cases.
        quick: Check only the quick part.
        thorough: Include slow properties.
        examples: Number of random cases for each property.
        shrink: Search for the smallest failing case.
    """

    only: tuple[str, ...] = ()
    seed: int = 0
    quick: bool = False
    thorough: bool = False
    examples: int = EXAMPLES
    shrink: bool = True

    def check(self, target: Target) -> TargetReport:
        """Check one target in this process."""
        with _one_thread():
            return check(
                target,
                only=self.only or None,
                seed=self.seed,
                quick=self.quick,
                thorough=self.thorough,
                examples=self.examples,
                shrink=self.shrink,
                in_new_process=not self.quick,
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one torch thread inside: the tensors are small, so more threads only add overhead."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_all(
    targets: Sequence[Target], options: Options, *, jobs: int = 1, done: Callable[[TargetReport], None] = lambda report: None
) -> list[TargetReport]:
    """Check every target and return the reports in the order of the targets.

    Args:
        targets: The targets to check.
        options: The options of the check.
        jobs: Number of processes; with 1 everything runs in this process.
        done: Called with each report as soon as it is complete.
    """
    if jobs == 1 or len(targets) == 1:
        reports = []
        for target in targets:
            reports.append(options.check(target))
            done(reports[-1])
        return reports
    by_label: dict[str, TargetReport] = {}
    # Spawn, not fork: forking a process that has used threads is unsafe.
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        with process.spawning_isolated():  # the pool starts its processes only in submit
            pool = stack.enter_context(
                ProcessPoolExecutor(
                    min(jobs, len(targets)),
                    mp_context=context,
                    initializer=_begin_worker,
                    initargs=(trust.announced(),),
                )
            )
            slowest_first = sorted(targets, key=lambda target: [*_LONGEST_FIRST, target.family].index(target.family))
            futures = [
                pool.submit(_check_in_worker, target.family, _name(target), target.reading, options)
                for target in slowest_first
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
                by_label[report.target] = report
                done(report)
        except BaseException:  # on Ctrl-C, targets that have not started are cancelled
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [by_label[target.label] for target in targets]


def _begin_worker(announced: dict[str, str]) -> None:
    """Expect the plugins that the parent announced, and end when the parent does, however it ends."""
    trust.expect(announced)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def default_jobs(targets: Sequence[Target]) -> int:
    """Return at most one process per core and per two targets, because each process must import torch."""
    return 1 if len(targets) < 4 else max(1, min(len(targets) // 2, len(_cores())))


def _cores() -> range | set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _name(target: Target) -> str:
    return target.entry.name if target.entry else target.label


def _check_in_worker(family: str, name: str, reading: Reading, options: Options) -> TargetReport:
    return options.check(find_again(family, name, reading))
