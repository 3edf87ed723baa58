"""The check at the end of a run: the trained model as a whole, in seconds."""

from __future__ import annotations

import copy

import torch

from minigpt import __version__
from minigpt.check.properties.surroundings import random_states_kept
from minigpt.check.suite import TargetReport, check
from minigpt.check.targets import run_target
from minigpt.data import Corpus
from minigpt.experiment import Experiment
from minigpt.model import GPT
from minigpt.printable import printable_line
from minigpt.run import RunFolder
from minigpt.run.recorded import CheckedProperty, ModelCheck


def check_after_training(run: RunFolder, experiment: Experiment, corpus: Corpus, model: GPT | None = None) -> ModelCheck:
    """Check the trained model of a finished run on a part of its data, and record the result in the run folder.

    Args:
        run: The run folder.
        experiment: The run's resolved experiment.
        corpus: The run's data.
        model: The model at the end of its training, on the corpus's device; None if there is only the saved one.

    Raises:
        RunError: The run cannot be read, or another process uses it.
        WriteError: The result cannot be written.
    """
    if corpus.device.type == "mps":  # it has no float64
        corpus, model = corpus.to(torch.device("cpu")), None if model is None else copy.deepcopy(model).cpu()
    with random_states_kept():
        report = check(run_target(run, experiment, corpus=corpus, model=model), quick=True, examples=0, shrink=False)
    found = model_check(report, run)
    run.record_model_check(found)
    return found


def model_check(report: TargetReport, run: RunFolder) -> ModelCheck:
    """Return the record of a report on a run's trained model.

    Raises:
        RunError: The run cannot be read.
    """
    properties = tuple(
        CheckedProperty(
            property=result.property,
            verdict=result.verdict,
            message=printable_line(result.failure.message if result.failure else result.note),
        )
        for result in report.results
    )
    return ModelCheck(minigpt=__version__, update=run.rows()[-1].step, properties=properties)
