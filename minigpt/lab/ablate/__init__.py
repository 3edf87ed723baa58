"""Take a recipe apart: what is each of its changes worth?"""

from minigpt.lab.ablate.ablating import Ablated, ablate
from minigpt.lab.ablate.record import Ablation

__all__ = ["Ablated", "Ablation", "ablate"]
