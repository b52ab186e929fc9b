"""Memory that the C library keeps for later tensors instead of giving it back to the system."""

import ctypes
import os
import sys
from functools import cache
from typing import Any

__all__ = ["held_bytes", "keep_freed_memory", "keep_graphs"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of mallopt, from malloc.h
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep freed memory in this process, for good; True if it does.

    Without it the graph of a gradient goes back to the system after each backward pass, and the system clears every
    page that the next one takes: a third of the time of a small network. Nothing changes with another library than
    glibc, or where one of its variables (``MALLOC_TRIM_THRESHOLD_`` ...) is set.
    """
    library = _glibc()
    if library is None or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    return bool(library.mallopt(_MMAP_MAX, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, -1))


def keep_graphs(device_type: str, recording: bool) -> None:
    """On a CPU keep the memory of the graphs that are freed from now on, if one is recorded (`keep_freed_memory`)."""
    if recording and device_type == "cpu":
        keep_freed_memory()


class _Statistics(ctypes.Structure):
    """``struct mallinfo2``."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    ]


def held_bytes() -> int:
    """Bytes that this process has freed and the C library still holds; 0 where it does not tell (glibc < 2.33)."""
    statistics = getattr(_glibc(), "mallinfo2", None)
    if statistics is None:
        return 0
    statistics.restype = _Statistics
    return int(statistics().fordblks)


@cache
def _glibc() -> Any:
    """The C library of this process if it is glibc, else None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
