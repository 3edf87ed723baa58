"""A run folder: what a training run leaves behind, and how it is read again."""

from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.opening import OpenRun, open_run
from minigpt.run.progress import Progress
from minigpt.run.recorded import Ending, MetricsRow, Provenance

__all__ = ["Checkpoint", "Ending", "MetricsRow", "OpenRun", "Progress", "Provenance", "RunFolder", "open_run"]
