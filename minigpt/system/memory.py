"""Free memory and disk space, so that what cannot fit is refused in advance."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from minigpt.errors import TooLargeError
from minigpt.numbers import size

_CGROUPS = (  # limit and use of a container, in version 2 and version 1 of control groups
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory(device: torch.device | None = None) -> int | None:
    """Free bytes of memory on a device, by default the CPU; None if the system does not report them."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device is not None and device.type == "mps":
        return int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    rooms = (_of_machine(Path("/proc/meminfo")), _of_container(_CGROUPS), _of_process())
    return min((room for room in rooms if room is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text("ascii").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    return None


def _of_container(files: tuple[tuple[str, str], ...]) -> int | None:
    rooms = []
    for limit, use in files:
        if Path(limit).is_file() and Path(use).is_file():
            most = Path(limit).read_text("ascii").strip()
            if most.isdigit():  # "max" is no limit
                rooms.append(int(most) - int(Path(use).read_text("ascii")))
    return min(rooms, default=None)


def _of_process() -> int | None:
    """Bytes left under a limit on the address space (`ulimit -v`)."""
    use = Path("/proc/self/statm")
    if sys.platform == "win32" or not use.is_file():
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return max(0, limit - int(use.read_text("ascii").split()[0]) * resource.getpagesize())


def free_disk(place: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def refuse_if_too_large(what: str, needed: int, device: torch.device | None = None) -> None:
    """Raise an error if something does not fit into memory.

    Args:
        what: Its name for the message.
        needed: Bytes.
        device: The device with the memory.

    Raises:
        TooLargeError: Less memory is free.
    """
    free = available_memory(device)
    if free is not None and needed > free:
        raise TooLargeError(f"{what} needs {size(needed)} of memory, and {size(free)} are free here")
