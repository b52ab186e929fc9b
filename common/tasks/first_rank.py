"""Results of the first rank that the others wait for, without a collective, which would give up after some time."""

import time
from collections.abc import Callable

import lightning as L

from common.processes.interrupts import INTERRUPTS
from common.processes.ranks import CURRENT

POLL = 0.05  # seconds between two looks of a rank that waits


def of_first_rank(trainer: L.Trainer, name: str, act: Callable[[], bytes]) -> bytes:
    """The result of ``act`` on rank 0, on all ranks. All of them call it; ``name`` is of this start alone."""
    counters = CURRENT.counters if trainer.world_size > 1 else None
    if counters is None:
        return act()
    if trainer.is_global_zero:
        counters.put(name, act())
    while (result := counters.get(name)) is None:
        INTERRUPTS.check()
        time.sleep(POLL)
    return result
