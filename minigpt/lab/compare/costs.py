"""Count what the models of a comparison cost, each model once."""

from __future__ import annotations

import json

from minigpt.data import Corpus
from minigpt.experiment import Experiment
from minigpt.lab.cost import Cost, measure_training_cost
from minigpt.reading import Reading
from minigpt.training.building import build_trainable

_WITHOUT_EFFECT = ("name", "description", "plugins", "seed", "sampling")


class Costs:
    """The costs of models in the batches that they are trained on.

    Experiments that differ only in their optimizer, as the trials of tuning do, have one cost.

    Args:
        reading: Whether plugins of a teacher may be loaded.
    """

    def __init__(self, reading: Reading):
        self.reading = reading
        self.counted: dict[tuple[object, ...], Cost] = {}

    def of(self, experiment: Experiment, corpus: Corpus) -> Cost:
        """The cost of an experiment's model."""
        settings = {key: value for key, value in experiment.to_json().items() if key not in _WITHOUT_EFFECT}
        settings["training"] = {key: value for key, value in settings["training"].items() if key != "optimizer"}
        classes = tuple(spec.cls for spec in experiment.specs())  # two versions of a plugin may have one name
        key = (json.dumps(settings, sort_keys=True), classes, corpus.fingerprint, corpus.documents)
        if key not in self.counted:
            model = build_trainable(experiment, corpus, reading=self.reading)
            self.counted[key] = measure_training_cost(model, experiment, corpus)
        return self.counted[key]
