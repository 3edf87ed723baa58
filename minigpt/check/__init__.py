"""The properties that a component must satisfy, and the functions that check them."""

from minigpt.check.property import Failure, NotTried, Property, Result, Violation
from minigpt.check.suite import TargetReport, check, check_component, property_names
from minigpt.check.targets import Target, component_target, experiment_target, find_targets, plugin_targets

__all__ = [
    "Failure",
    "NotTried",
    "Property",
    "Result",
    "Target",
    "TargetReport",
    "Violation",
    "check",
    "check_component",
    "component_target",
    "experiment_target",
    "find_targets",
    "plugin_targets",
    "property_names",
]
