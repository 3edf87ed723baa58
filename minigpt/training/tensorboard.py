"""Write TensorBoard files in addition to the run's own records (extra `tensorboard`)."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.run.recorded import MetricsRow
from minigpt.training.observer import Observer, Plan

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

_SCALARS = {
    "train_loss": "loss/train",
    "val_loss": "loss/validation",
    "val_bits_per_byte": "loss/validation_bits_per_byte",
    "auxiliary_loss": "loss/auxiliary",
    "lr": "training/learning_rate",
    "grad_norm": "training/gradient_norm",
    "tokens_per_second": "training/tokens_per_second",
}


class TensorBoardObserver:
    """Passes every event to another observer, and also writes it to RUN/tensorboard.

    Losses, learning rate, gradient norm and speed are scalars by update; samples are text. At the end, HPARAMS shows the
    experiment's settings with the last validation loss. A resumed run continues the same plots: values that a killed session
    wrote after its last checkpoint are replaced.

    If its files cannot be written, a note says so, and the training continues without them.

    Args:
        observer: Receives each event first.

    Raises:
        MinigptError: The extra is not installed.
    """

    def __init__(self, observer: Observer):
        if importlib.util.find_spec("tensorboard") is None:
            raise MinigptError("--tensorboard needs the extra of that name: pip install 'minigpt-lab[tensorboard]'")
        self.observer = observer
        self.experiment: Experiment | None = None
        self.writer: SummaryWriter | None = None
        self.val_loss: float | None = None

    def note(self, text: str) -> None:
        """Pass on the message."""
        self.observer.note(text)

    def begin(self, plan: Plan) -> None:
        """Open the files."""
        from torch.utils.tensorboard.writer import SummaryWriter  # imported here, because it takes a second

        self.observer.begin(plan)
        self.experiment = plan.experiment
        self.folder = Path(plan.folder) / "tensorboard"
        self._previous_hook, threading.excepthook = threading.excepthook, self._thread_failed
        with self._ending_at_errors():
            self.writer = SummaryWriter(str(self.folder), purge_step=plan.first_step + 1)

    def updated(self, row: MetricsRow) -> None:
        """Write the scalars of an update."""
        self.observer.updated(row)
        self._scalars(row)

    def evaluating(self, done: int, total: int) -> None:
        """Pass on the progress."""
        self.observer.evaluating(done, total)

    def evaluated(self, row: MetricsRow, best: bool, sample: str | None) -> None:
        """Write the scalars of an update and its evaluation, and the sample."""
        self.observer.evaluated(row, best, sample)
        self._scalars(row)
        self.val_loss = row.val_loss
        if sample is not None:
            indented = "\n".join(f"    {line}" for line in sample.splitlines())  # a code block, because the text is Markdown
            with self._ending_at_errors():
                if self.writer is not None:
                    self.writer.add_text("sample", indented, row.step)

    def end(self) -> None:
        """Write the settings and the result, and close the files."""
        self.observer.end()
        with self._ending_at_errors():
            if self.writer is not None and self._folder_exists():
                if self.val_loss is not None and self.experiment is not None:
                    self.writer.add_hparams(settings(self.experiment), {"hparam/val_loss": self.val_loss}, run_name=".")
                self.writer.close()
        threading.excepthook = self._previous_hook

    def _scalars(self, row: MetricsRow) -> None:
        with self._ending_at_errors():
            if self.writer is None or not self._folder_exists():
                return
            for key, tag in _SCALARS.items():
                if (value := getattr(row, key)) is not None:
                    self.writer.add_scalar(tag, value, row.step)

    @contextlib.contextmanager
    def _ending_at_errors(self) -> Iterator[None]:
        """Write no more to TensorBoard after an error of the file system, and note it once."""
        try:
            yield
        except OSError as error:
            self.writer = None
            self.observer.note(f"{self.folder} cannot be written: {error.strerror or error}; TensorBoard gets no more data")

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Print nothing for an error in TensorBoard's thread: its next call raises the same error."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._previous_hook(failure)

    def _folder_exists(self) -> bool:
        """Whether the run folder still has its path.

        If it was moved, TensorBoard would create the old path again.
        """
        return self.folder.is_dir()


def settings(experiment: Experiment) -> dict[str, bool | str | float | int]:
    """Every setting by its dotted path; values of types that TensorBoard lacks become text."""
    by_path: dict[str, bool | str | float | int] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{path}.{key}" if path else key)
        else:
            by_path[path] = value if isinstance(value, bool | str | float | int) else str(value)

    walk({key: value for key, value in experiment.to_json().items() if key not in ("description", "plugins")}, "")
    return by_path
