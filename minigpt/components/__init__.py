"""The shipped library: a folder per family, a file per mechanism. Importing it registers everything.

The parts come in by the door that users use: any file of it works as a plugin, unchanged.
"""

import importlib
import pkgutil

from minigpt import contracts as contracts

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
