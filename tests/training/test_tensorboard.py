"""The files for TensorBoard, read with TensorBoard's own reader."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from minigpt.errors import MinigptError
from minigpt.experiment import Experiment
from minigpt.reading import load_experiment
from minigpt.run import MetricsRow, RunFolder
from minigpt.training import TensorBoardObserver, resume, train
from minigpt.training.tensorboard import settings
from tests.training.conftest import Watcher, Write


def read(run: RunFolder) -> EventAccumulator:
    found = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def trained(experiment: Experiment, out: Path, interrupt: tuple[str, int] | None = None) -> RunFolder:
    observer = TensorBoardObserver(Watcher(interrupt))
    return train(experiment, out=out, device="cpu", observer=observer).run


def test_scalars_samples_and_settings_are_those_of_the_run(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(), overrides=["training.max_iters=6", "training.eval_interval=3"])
    run = trained(experiment, tmp_path)
    found, rows = read(run), run.rows()
    for tag, key in (
        ("loss/train", "train_loss"),
        ("training/learning_rate", "lr"),
        ("training/gradient_norm", "grad_norm"),
    ):
        events = found.Scalars(tag)
        assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
        assert [event.value for event in events] == pytest.approx([getattr(row, key) for row in rows], rel=1e-6)
    validation = found.Scalars("loss/validation")
    assert [(event.step, event.value) for event in validation] == [
        (row.step, pytest.approx(row.val_loss)) for row in rows if row.val_loss is not None
    ]
    samples = found.Tensors("sample/text_summary")
    assert [event.step for event in samples] == [3, 6]
    text = samples[-1].tensor_proto.string_val[0].decode()
    assert "".join(line.removeprefix("    ") for line in text.splitlines(keepends=True)) in run.samples.read_text()
    data = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    chosen = HParamsPluginData.FromString(data).session_start_info.hparams
    assert chosen["model.d_model"].number_value == 32
    assert chosen["model.attention.name"].string_value == "mha"
    assert found.Scalars("hparam/val_loss")[-1].value == pytest.approx(rows[-1].val_loss)


def test_a_resumed_run_continues_the_same_plots(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment(), overrides=["training.max_iters=12", "training.checkpoint_interval=4"])

    class Failing(Watcher):
        def updated(self, row: MetricsRow) -> None:
            if row.step == 7:
                raise ZeroDivisionError
            super().updated(row)

    with pytest.raises(ZeroDivisionError):
        train(experiment, out=tmp_path, device="cpu", observer=TensorBoardObserver(Failing()))
    run = RunFolder.of(experiment, tmp_path)
    assert read(run).Scalars("loss/train")[-1].step == 6, "two updates beyond the checkpoint"
    resume(run.path, observer=TensorBoardObserver(Watcher()))
    assert [event.step for event in read(run).Scalars("loss/train")] == list(range(1, 13))


def test_settings_are_flat_and_of_types_that_tensorboard_supports(write_experiment: Write) -> None:
    found = settings(load_experiment(write_experiment()))
    assert found["model.n_layers"] == 2
    assert found["training.optimizer.name"] == "adamw"
    assert found["model.embedding.softcap"] == "None"
    assert all(type(value) in (bool, str, float, int) for value in found.values())


def test_without_the_extra_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    missing: Any = lambda name, *others: None if name == "tensorboard" else find(name, *others)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(MinigptError, match=r"pip install 'minigpt-lab\[tensorboard\]'"):
        TensorBoardObserver(Watcher())


def test_signals_stop_a_run_with_this_observer_too(write_experiment: Write, tmp_path: Path) -> None:
    experiment = load_experiment(write_experiment())
    observer = TensorBoardObserver(Watcher(("updated", 3)))
    outcome = train(experiment, out=tmp_path, device="cpu", observer=observer)
    assert (outcome.status, outcome.stop_signal) == ("stopped", signal.SIGTERM)


def test_a_disk_that_fills_up_ends_only_tensorboards_part(
    write_experiment: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hook, real = threading.excepthook, RecordWriter.write
    written: list[bytes] = []

    def write(self: RecordWriter, data: bytes) -> None:
        written.append(data)
        if len(written) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    watcher = Watcher()
    experiment = load_experiment(write_experiment(), overrides=["training.max_iters=12", "training.eval_interval=6"])
    outcome = train(experiment, out=tmp_path, device="cpu", observer=TensorBoardObserver(watcher))
    assert outcome.status == "finished"
    line = f"{outcome.run.path / 'tensorboard'} cannot be written: No space left on device; TensorBoard gets no more data"
    assert watcher.out.getvalue().count(line) == 1
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook
