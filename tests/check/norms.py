"""A plugin file with a norm that leaks and a sound one."""

from __future__ import annotations

PLUGIN = '''
import torch
from minigpt import register
from minigpt.contracts import Norm

@register("norm", "over_time")
class OverTime(Norm):
    """Divides by the mean over time: correct for one token, and wrong for two."""
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x / (1 + x.abs().mean(1, keepdim=True))

@register("norm", "halved")
class Halved(Norm):
    """Half of its input."""
    scaling = "equivariant"
    def __init__(self, width: int):
        super().__init__()
    def forward(self, x):
        return x / 2
'''
