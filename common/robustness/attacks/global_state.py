"""Global state that packages of attacks change: seeded random generators, and the trace function."""

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
def noticed_draws(name: str) -> Iterator[None]:
    """Context manager: warn in the ``name`` of an attack that draws from the global generators of torch or Python."""
    before = _states()
    yield
    if any(not np.array_equal(one, other) for one, other in zip(before, _states(), strict=True)):
        warnings.warn(
            f"{name} drew random numbers from a global generator: its result depends on the batch size and on what ran "
            "before, and a test of it does not resume. Take all of them from the noise, which its classifier gets too",
            stacklevel=4,
        )


def _states() -> list[Any]:
    """States of the global generators of torch, on all devices in use, of numpy and of random."""
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = torch.cuda.get_rng_state_all() if used else []
    legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 (the one that is drawn from)
    tensors = [state.numpy() for state in (torch.get_rng_state(), *gpus)]
    return [*tensors, *legacy["state"].values(), random.getstate()[1]]


@contextmanager
def restored_trace() -> Iterator[None]:
    """Context manager: restore the trace function, which a check of the reference implementation switches off."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
