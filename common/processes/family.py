"""Parents and children: a process ends with the one that started it, also when that one is killed."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO

from common.files.replacing import is_running

PARENT = "ROBUST_DIFFUSION_PARENT"
"""Environment variable of a process that a study or tour started: the process id of its parent."""
RANKS = ("LOCAL_RANK", "SLURM_PROCID")
"""Environment variables of a process that Lightning, torchrun or srun started as one of several."""
PATIENCE = 30.0
"""Seconds that children have to end after a signal, before they are killed."""
_PR_SET_PDEATHSIG = 1


def end_with_parent(environment: Mapping[str, str] = os.environ) -> None:
    """End this process when its parent ends, if a study, a tour or a run of several ranks started it.

    Linux sends SIGTERM then; elsewhere a thread looks every second. ``SystemExit`` if the parent is gone already.
    """
    if not any(environment.get(name) for name in (PARENT, *RANKS)):
        return
    parent = os.getppid()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()
    of_rank = "LOCAL_RANK" in environment  # it has inherited the variable; its parent is another one
    started_by = str(parent) if of_rank else environment.get(PARENT, str(parent))
    inherited = not started_by.isdecimal() or is_running(int(started_by))  # by a script that a stage runs
    if started_by != str(os.getppid()) and not inherited:
        raise SystemExit(128 + signal.SIGTERM)


def start(command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process that ends with this one, in a process group of its own, which `stop` ends as a whole."""
    return subprocess.Popen(
        command,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**environment, PARENT: str(os.getpid())},
        start_new_session=True,
    )


def stop(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """End processes with all that they started: SIGTERM, and SIGKILL after ``PATIENCE`` seconds."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    try:
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        for process in running:
            _signal(process, signal.SIGKILL)  # also ranks and loaders of a process that has ended
            process.wait()


def _signal(process: "subprocess.Popen[bytes]", signum: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signum)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
