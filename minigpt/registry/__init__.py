"""The registered components, their schemas, and plugins. Nothing here imports torch."""

from minigpt.registry.entry import Entry
from minigpt.registry.family import Family
from minigpt.registry.registry import REGISTRY, Registry, register
from minigpt.registry.spec import Spec

__all__ = ["REGISTRY", "Entry", "Family", "Registry", "Spec", "register"]
