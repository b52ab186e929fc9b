"""Memory that the C library keeps: pages of freed tensors are used again, and count as free."""

import subprocess
import sys

import pytest

from common.engine import allocation
from common.engine.allocation import held_bytes, keep_freed_memory

MEGABYTES = 2**20
SCRIPT = """
import resource, runpy
allocation = runpy.run_path({file!r})  # without torch, which is slow to import
{call}
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [bytearray(2**26) for _ in range(4)]
    for array in arrays:
        array[::4096] = bytes(2**14)  # touches every page
    arrays = array = None
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults, allocation['held_bytes']())
"""


def _measured(call: str, **variables: str) -> tuple[int, int]:
    """Page faults of four arrays of 64 MB that are made again, and the bytes held afterwards."""
    script = SCRIPT.format(call=call, file=allocation.__file__)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=variables)
    faults, held = result.stdout.split()
    return int(faults), int(held)


@pytest.mark.skipif(not keep_freed_memory(), reason="not glibc, or its variables are set")
def test_freed_arrays_leave_their_pages_to_the_next():
    faults, held = _measured("assert allocation['keep_freed_memory']()")
    assert held >= 256 * MEGABYTES
    usual, released = _measured("")
    assert released < 64 * MEGABYTES
    assert faults < 0.3 * usual, (faults, usual)


def test_the_users_own_settings_of_the_allocator_stay():
    assert (
        _measured("assert not allocation['keep_freed_memory']()", MALLOC_TRIM_THRESHOLD_="100000")[1] < 64 * MEGABYTES
    )


def test_bytes_held_are_a_number():
    assert held_bytes() >= 0
