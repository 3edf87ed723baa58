"""The shipped library: a folder per family, a file per mechanism. Importing it registers everything.

Shipped parts register as a user's parts do: any of these files works as a plugin, unchanged.
"""

import importlib
import pkgutil

from minigpt import contracts as contracts

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
