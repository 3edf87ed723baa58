"""The options of reading an experiment, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Reading:
    """How an experiment is read: the settings to change, and the plugins that may be executed for it.

    Attributes:
        overrides: `model.attention.name=gqa` and the like; the value is JSON, or text where it is not JSON.
        plugin_files: Plugins to load in addition to those that the experiment names.
        allow_plugins: False loads no plugin, and refuses an experiment that names one.
        trust: Execute plugins that a run folder's file names, and trust them from now on; known ones are executed anyway.
    """

    overrides: tuple[str, ...] = ()
    plugin_files: tuple[Path, ...] = ()
    allow_plugins: bool = True
    trust: bool = False

    def with_overrides(self, *overrides: str) -> Reading:
        """A copy with further overrides after the existing ones."""
        return replace(self, overrides=(*self.overrides, *overrides))

    def as_recorded(self) -> Reading:
        """A copy with the same plugin options and no overrides."""
        return replace(self, overrides=())


AS_WRITTEN = Reading()
"""No overrides; plugins that a person named are executed."""
