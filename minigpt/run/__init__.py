"""A run folder: what a training run leaves behind, and how it is read again."""

from minigpt.run.checkpoint import Checkpoint, Progress
from minigpt.run.folder import OpenRun, RunFolder, open_run

__all__ = ["Checkpoint", "OpenRun", "Progress", "RunFolder", "open_run"]
