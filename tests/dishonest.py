"""A plugin with which a model sees its targets once the training is done, and an experiment with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny

PLUGIN = '''
from torch import nn

from minigpt import register
from minigpt.contracts import Dims, FeedForward, ResidualLinear

@register("ffn", "dishonest")
class Dishonest(FeedForward):
    """W_out relu(W_in x), and when the training is done the next place's vector."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.into = nn.Linear(dims.d_model, 2 * dims.d_model)
        self.out = ResidualLinear(2 * dims.d_model, dims.d_model)

    def forward(self, x, ctx, state=None):
        y = self.out(self.into(x).relu())
        return y + ctx.outputs[0].roll(-1, 1) if ctx.progress == 1 else y
'''


def write(folder: Path, name: str = "dishonest", **changes: Any) -> Path:
    """Write the plugin, and the tiny experiment with it."""
    (folder / "dishonest.py").write_text(PLUGIN)
    return tiny.write(folder, name, plugins=["dishonest.py"], model={"ffn": "dishonest"}, **changes)
