"""Global state that packages of attacks change: seeded random generators, and the trace function."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_generators(seed: int) -> Iterator[None]:
    """Context manager: the global generators of torch, numpy and random seeded, and restored on exit."""
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the package uses it)
    with torch.random.fork_rng(devices=gpus):
        try:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.set_state(np.random.RandomState(seed).get_state())  # noqa: NPY002
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def restored_trace() -> Iterator[None]:
    """Context manager: restore the trace function, which a check of the reference implementation switches off."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
