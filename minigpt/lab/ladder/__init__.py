"""The same comparison at several sizes: does an advantage grow, stay or vanish?"""

from minigpt.lab.ladder.laddering import Laddered, LadderWatcher, ladder
from minigpt.lab.ladder.sizes import Growth

__all__ = ["Growth", "LadderWatcher", "Laddered", "ladder"]
