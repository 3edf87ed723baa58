"""From a file to a complete experiment, and to the JSON Schema that an editor needs."""

from minigpt.reading.loading import load_experiment, load_recorded, load_without_plugins, named_plugins

__all__ = ["load_experiment", "load_recorded", "load_without_plugins", "named_plugins"]
