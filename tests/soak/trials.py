"""The trials. Each has its own folder, takes a random generator, and returns a count and a list of failures."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minigpt.errors import ExperimentError, MinigptError, RunError
from minigpt.experiment import Experiment
from minigpt.registry import REGISTRY
from minigpt.run import RunFolder, checkpoint
from tests.faults import ERRORS, failing
from tests.soak.children import REFUSED, Child, count_calls, die_after, differences, small, timed, train_or_resume, warm_up

ARBITRARY_KILLS = 6  # kills of one run, before it may finish
MOST_SECONDS_TO_STOP, MOST_SECONDS_TO_REFUSE = 10.0, 2.0


class Kills:
    """SIGKILL at random moments: every checkpoint loads, and the finished run equals an uninterrupted one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.experiment = small(folder)
        warm_up(folder)
        self.seconds = timed(lambda: train_or_resume(self.experiment, folder / "whole"))
        self.calls = count_calls(lambda: train_or_resume(self.experiment, folder / "counted"))
        self.whole = RunFolder.of(self.experiment, folder / "whole")

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Kill one run several times. Returns the number of kills and the failures."""
        out = self.folder / f"killed-{chance.randrange(10**9)}"
        run = RunFolder.of(self.experiment, out)
        killed, wrong = 0, []
        for _ in range(ARBITRARY_KILLS):
            if chance.random() < 0.5:
                at = chance.randrange(1, self.calls)
                child = Child(lambda at=at: die_after(at) or train_or_resume(self.experiment, out))  # type: ignore[func-returns-value]
            else:
                child = Child(lambda: train_or_resume(self.experiment, out))
                time.sleep(chance.uniform(0, self.seconds))
                child.signal(signal.SIGKILL)
            code = child.wait()
            killed += code == -signal.SIGKILL
            wrong += [] if code in (0, -signal.SIGKILL) else [f"exit code {code}: {child.printed}"]
            wrong += damaged_checkpoints(run)
        last = Child(lambda: train_or_resume(self.experiment, out))
        if last.wait() != 0:
            return killed, [*wrong, f"the run cannot be resumed: {last.printed}"]
        wrong += differences(self.whole, run)
        shutil.rmtree(out)
        return killed, wrong


def damaged_checkpoints(run: RunFolder) -> list[str]:
    """Damage in the checkpoints of a run. After a kill a checkpoint may be missing, but not damaged."""
    try:
        for which in ("last", "best"):
            loaded = checkpoint.load(run.checkpoints, which)
            if loaded is not None and any("skipped" in note for note in loaded.notes):
                return [f"{which}: {note}" for note in loaded.notes]
    except MinigptError as error:
        return [str(error)]
    return []


class Signals:
    """SIGINT, SIGTERM, SIGHUP at random moments: the run is saved and ends within ten seconds with the right exit code.

    A second signal ends it at once.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.experiment = small(folder, training={"max_iters": 60})
        warm_up(folder)
        self.seconds = timed(lambda: train_or_resume(self.experiment, folder / "whole"))
        self.whole = RunFolder.of(self.experiment, folder / "whole")

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Stop one run several times."""
        out = self.folder / f"stopped-{chance.randrange(10**9)}"
        run = RunFolder.of(self.experiment, out)
        sent, wrong = 0, []
        for _ in range(5):
            number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
            ready = self.folder / f"ready-{sent}"
            ready.unlink(missing_ok=True)
            child = Child(lambda ready=ready: train_or_resume(self.experiment, out, announce=ready))
            while not ready.exists() and not _has_ended(child.pid):
                time.sleep(0.001)
            time.sleep(chance.uniform(0, self.seconds))
            child.signal(number)
            start, twice = time.monotonic(), chance.random() < 0.3
            if twice:
                time.sleep(chance.uniform(0, 0.01))
                child.signal(number)
            code = child.wait()
            took = time.monotonic() - start
            sent += 1
            if took > MOST_SECONDS_TO_STOP:
                wrong.append(f"{took:.1f} s to stop")
            if code not in (0, 128 + number, *([-number] if twice else [])):
                wrong.append(f"{number.name}: exit code {code}: {child.printed}")
            wrong += damaged_checkpoints(run)
        last = Child(lambda: train_or_resume(self.experiment, out))
        if last.wait() != 0:
            return sent, [*wrong, f"the run cannot be resumed: {last.printed}"]
        wrong += differences(self.whole, run)
        shutil.rmtree(out)
        return sent, wrong


class Races:
    """Two processes start the same run: one trains, the other is refused within two seconds with the winner's id.

    A killed winner does not prevent a new start.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.experiment = small(folder, training={"max_iters": 40})
        warm_up(folder)

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Run one race."""
        out = self.folder / f"race-{chance.randrange(10**9)}"
        until = time.monotonic() + 0.05

        def race() -> int:
            while time.monotonic() < until:
                pass
            return train_or_resume(self.experiment, out)

        start = time.monotonic()
        both = [Child(race), Child(race)]
        winner, loser = both
        while True:  # the process that ends first is the loser
            ended = [child for child in both if _has_ended(child.pid)]
            if ended:
                loser = ended[0]
                winner = both[1 - both.index(loser)]
                break
            time.sleep(0.005)
        code, took = loser.wait(), time.monotonic() - start
        wrong = []
        if code != REFUSED or f"is in use by process {winner.pid};" not in loser.printed:
            wrong.append(f"the loser has exit code {code} and says: {loser.printed}")
        if took > MOST_SECONDS_TO_REFUSE:
            wrong.append(f"the loser took {took:.1f} s")
        if chance.random() < 0.5:
            winner.signal(signal.SIGKILL)
            winner.wait()
            winner = Child(lambda: train_or_resume(self.experiment, out))
        if winner.wait() != 0:
            wrong.append(f"the winner says: {winner.printed}")
        if [row.step for row in RunFolder.of(self.experiment, out).rows()] != list(range(1, 41)):
            wrong.append("records of the winner are missing or doubled")
        shutil.rmtree(out)
        return 1, wrong


def _has_ended(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "Z"


READ_BY: dict[str, Callable[[RunFolder], object]] = {
    "experiment.json": RunFolder.experiment,
    "provenance.json": RunFolder.provenance,
    "tokenizer.json": RunFolder.learned,
    "metrics.jsonl": RunFolder.rows,
    "samples.txt": RunFolder.last_sample,
}


class Damage:
    """Flipped bits or a cut end in any file of a run: the file is reported; for a checkpoint the one before is used."""

    def __init__(self, folder: Path):
        self.folder = folder
        experiment = small(folder)
        self.run = RunFolder.of(experiment, folder / "whole")
        train_or_resume(experiment, folder / "whole")

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Damage one file, read it, and restore it."""
        last = checkpoint.load(self.run.checkpoints)
        assert last is not None
        others = [self.run.path / name for name in READ_BY]
        file = chance.choice([*sorted(last.path.iterdir()), *others])
        sound = file.read_bytes()
        content = bytearray(sound)
        if chance.random() < 0.5:
            for _ in range(chance.choice([1, 1, 8])):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del content[chance.randrange(len(content)) :]
        if file.name == "manifest.json" and _same_json(bytes(content), sound):
            return 1, []
        file.write_bytes(content)
        wrong = []
        if file in others:
            try:
                READ_BY[file.name](self.run)
                wrong.append(f"{file.name}: the damage was not noticed")
            except RunError as error:
                wrong += [] if str(file) in str(error) else [f"{file.name}: {error}"]
            file.write_bytes(sound)
            return 1, wrong
        try:
            loaded = checkpoint.load(self.run.checkpoints)
        except MinigptError as error:
            wrong.append(f"{file.name}: {error}")
        else:
            if loaded is None or loaded.path == last.path or str(last.path) not in loaded.notes[0]:
                wrong.append(f"{file.name}: the damage was not noticed")
        file.write_bytes(sound)
        return 1, wrong


def _same_json(a: bytes, b: bytes) -> bool:
    import json

    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


class FailingDisk:
    """The n-th call of a training run that changes a file fails: an error is reported, and the run can be resumed exactly."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.experiment = small(folder, training={"max_iters": 12, "eval_interval": 4, "checkpoint_interval": 4})
        train_or_resume(self.experiment, folder / "whole")
        with failing(folder / "counted", None) as faults:
            train_or_resume(self.experiment, folder / "counted")
        self.calls = len(faults.calls)
        self.whole = RunFolder.of(self.experiment, folder / "whole")
        self.nth = 0

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Try the next n; after the last call start again at 1."""
        self.nth = self.nth % self.calls + 1
        out = self.folder / f"full-{self.nth}"
        error = chance.choice(ERRORS)

        def fail() -> int:
            with failing(out, self.nth, error):
                return train_or_resume(self.experiment, out)

        first = Child(fail)
        wrong = [] if first.wait() in (0, REFUSED) else [f"call {self.nth} failed: {first.printed}"]
        run = RunFolder.of(self.experiment, out)
        wrong += damaged_checkpoints(run)
        second = Child(lambda: train_or_resume(self.experiment, out))
        if second.wait() != 0:
            return 1, [*wrong, f"after call {self.nth} the run cannot be resumed: {second.printed}"]
        wrong += [f"after call {self.nth}: {line}" for line in differences(self.whole, run)]
        shutil.rmtree(out)
        return 1, wrong


class ExactResume:
    """Every shipped component in fp32 and bf16, killed at a random moment: the result equals an uninterrupted run's."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cases = list(all_cases())
        warm_up(folder)
        self.next = 0

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Try the next case, in an order that depends on the seed. After the last case start again."""
        if self.next % len(self.cases) == 0:
            chance.shuffle(self.cases)
        label, changes = self.cases[self.next % len(self.cases)]
        self.next += 1
        folder = self.folder / label.replace("/", "-")
        folder.mkdir(exist_ok=True)
        try:
            experiment = small(folder, **changes)
        except ExperimentError as error:
            return 0, [f"{label}: {error}"]
        return 1, [f"{label}: {line}" for line in _killed_anywhere(experiment, folder, chance)]


def _killed_anywhere(experiment: Experiment, folder: Path, chance: random.Random) -> list[str]:
    whole, killed = folder / "whole", folder / "killed"
    seconds = timed(lambda: train_or_resume(experiment, whole))
    child = Child(lambda: train_or_resume(experiment, killed))
    time.sleep(chance.uniform(0.2, 1) * seconds)
    child.signal(signal.SIGKILL)
    child.wait()
    rest = Child(lambda: train_or_resume(experiment, killed))
    if rest.wait() != 0:
        return [f"the run cannot be resumed: {rest.printed}"]
    wrong = differences(RunFolder.of(experiment, whole), RunFolder.of(experiment, killed))
    shutil.rmtree(folder)
    return wrong


def all_cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every registered model component, optimizer and schedule in both precisions, and every tokenizer."""
    training = {"max_iters": 14, "eval_interval": 6, "checkpoint_interval": 4}
    for precision in ("fp32", "bf16"):
        plan = {**training, "precision": precision}
        for family in ("attention", "position", "norm", "ffn", "block"):
            for entry in REGISTRY.entries(family):
                model = {family: entry.name, **({"position": "none"} if family == "attention" else {})}
                yield f"{family}/{entry.name}/{precision}", {"model": model, "training": plan}
        for family in ("optimizer", "schedule"):
            for entry in REGISTRY.entries(family):
                yield f"{family}/{entry.name}/{precision}", {"training": {**plan, family: entry.name}}
    for entry in REGISTRY.entries("tokenizer"):
        tokenizer = {"name": "bpe", "vocab_size": 300} if entry.name == "bpe" else entry.name
        yield f"tokenizer/{entry.name}", {"tokenizer": tokenizer, "training": training}


class FlatMemory:
    """Two thousand updates with evaluations and checkpoints: memory does not grow after the first hundred updates."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.experiment = small(folder, training={"max_iters": 2000, "eval_interval": 100, "checkpoint_interval": 50})

    def __call__(self, chance: random.Random) -> tuple[int, list[str]]:
        """Train one run."""
        out = self.folder / f"long-{chance.randrange(10**9)}"
        child = Child(lambda: train_or_resume(self.experiment, out))
        early = late = 0.0
        while not _has_ended(child.pid):
            run = RunFolder.of(self.experiment, out)
            rows = run.metrics.read_bytes().count(b"\n") if run.metrics.is_file() else 0
            if rows >= 200:
                now = _resident(child.pid)
                early, late = early or now, now or late
            time.sleep(0.05)
        wrong = [] if child.wait() == 0 else [child.printed]
        if late - early > 8 * 2**20:
            wrong.append(f"memory grew from {early / 2**20:.0f} to {late / 2**20:.0f} MB")
        shutil.rmtree(out)
        return 1, wrong


def _resident(pid: int) -> float:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize() if len(fields) > 1 else 0.0
