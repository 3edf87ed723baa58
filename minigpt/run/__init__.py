"""The run folder: writes, checks and reads the files of a training run."""

from minigpt.run.checkpoint import Checkpoint
from minigpt.run.folder import RunFolder
from minigpt.run.opening import OpenRun, open_run
from minigpt.run.progress import Progress
from minigpt.run.recorded import Ending, MetricsRow, ModelCheck, Provenance

__all__ = ["Checkpoint", "Ending", "MetricsRow", "ModelCheck", "OpenRun", "Progress", "Provenance", "RunFolder", "open_run"]
