"""Read experiment files into complete experiments, and make the JSON Schema for editors."""

from minigpt.reading.files import parent_of
from minigpt.reading.loading import (
    load_experiment,
    load_recorded,
    load_without_plugins,
    read_experiment,
)
from minigpt.reading.moved import migrated
from minigpt.reading.named_plugins import named_plugins
from minigpt.reading.options import AS_WRITTEN, Reading

__all__ = [
    "AS_WRITTEN",
    "Reading",
    "load_experiment",
    "load_recorded",
    "load_without_plugins",
    "migrated",
    "named_plugins",
    "parent_of",
    "read_experiment",
]
