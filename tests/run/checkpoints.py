"""Checkpoints of a small model after one update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from minigpt.experiment import ModelSection
from minigpt.model import GPT
from minigpt.run import checkpoint
from minigpt.run.checkpoint import Progress


def model(seed: int = 0, **changes: Any) -> GPT:
    torch.manual_seed(seed)
    return GPT(ModelSection.model_validate({"d_model": 8, "n_heads": 2, "n_layers": 1, "block_size": 8, **changes}), 11)


def trained(seed: int = 0) -> tuple[GPT, torch.optim.Optimizer]:
    lm = model(seed)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=0.1)
    ids = torch.randint(0, 11, (2, 8))
    lm.loss(ids, ids)[0].backward()
    optimizer.step()
    return lm, optimizer


def save(root: Path, step: int, best: bool = False, seed: int = 0, **changes: Any) -> Path:
    lm, optimizer = trained(seed)
    return checkpoint.save(root, lm, optimizer, Progress(step=step, **changes), best=best)
