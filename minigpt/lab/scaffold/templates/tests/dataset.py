"""The dataset keeps its contract, and a model learns from it."""

from __future__ import annotations

from pathlib import Path

import torch

from minigpt import build_model, load_corpus, load_experiment
from minigpt.data import train_batch
from minigpt.testing import conformance

NAME = "my_part"
ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "plugins" / f"{NAME}.py"
EXPERIMENT = ROOT / "experiments" / f"{NAME}.json"
SMALL = ["model.d_model=64", "model.head_dim=16", "model.dropout=0.0"]


@conformance("dataset", NAME, plugin=PLUGIN)
def test_it_keeps_its_contract() -> None:
    """One case for each property of `minigpt check`."""


def test_the_experiment_learns_one_batch_of_it() -> None:
    experiment = load_experiment(EXPERIMENT, overrides=SMALL)
    corpus = load_corpus(experiment)
    model = build_model(experiment, corpus.vocab_size)
    batch = train_batch(corpus, experiment, step=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss, auxiliary = model.loss(*batch.inputs)
        optimizer.zero_grad()
        torch.autograd.backward(loss + auxiliary)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
