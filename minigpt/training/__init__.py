"""Training: from an experiment to a run folder."""

from minigpt.training.loop import Outcome, Trainer
from minigpt.training.observer import Observer, PlainObserver
from minigpt.training.session import resume, train
from minigpt.training.tensorboard import TensorBoardObserver

__all__ = ["Observer", "Outcome", "PlainObserver", "TensorBoardObserver", "Trainer", "resume", "train"]
