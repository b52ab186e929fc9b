"""Rendezvous of the ranks of a run: how long one waits for the others to start."""

import os
import re
import sys
import threading
import time
from collections.abc import Mapping

import torch.distributed

from common.processes.interrupts import INTERRUPTS, RankLost

FROM_0 = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
FROM_1 = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS", "SLURM_NNODES")
LARGEST = {"MASTER_PORT": 65535}
OPTION = "ROBUST_DIFFUSION_RENDEZVOUS"
SECONDS = 300.0


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ``ValueError`` for environment variables of a launcher that none would set, with the remedy."""
    for name in (*FROM_0, *FROM_1):
        least, largest, given = int(name in FROM_1), LARGEST.get(name, 1 << 31), environment.get(name, "1")
        if not given.isascii() or not given.isdigit() or not least <= int(given[:20]) <= largest:
            most = f" and at most {largest}" if name in LARGEST else ""
            raise ValueError(
                f"the environment variable {name}, which torchrun or srun sets, must be an integer of at least {least}"
                f"{most}; got {given!r}. Unset it, or start the processes by a launcher."
            )
    number = environment.get("SLURM_JOB_ID", "1")
    if not re.fullmatch(r"\w[\w.-]*", number):
        raise ValueError(f"SLURM_JOB_ID, which names a folder of the job, must be a number; got {number!r}. Unset it.")


def rendezvous_seconds() -> float:
    """Seconds that a rank waits: of the environment variable, or 300. Raises ``ValueError`` for a wrong one."""
    given = os.environ.get(OPTION, str(SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{OPTION} must be a number of seconds > 0; got {given!r}")
    return seconds


def watch_rendezvous(world: int) -> None:
    """End this process, with a line, unless ``world`` processes are connected in time; torch waits half an hour.

    Raises ``ValueError`` as `rendezvous_seconds`.
    """
    seconds = rendezvous_seconds()

    def watch() -> None:
        deadline = time.monotonic() + seconds
        while not torch.distributed.is_initialized():
            if time.monotonic() > deadline:
                lost = RankLost(_missing(world, seconds), 3, shown=False)
                print(f"error: {lost.reason}", file=sys.stderr, flush=True)
                INTERRUPTS.lose(lost)
                return
            time.sleep(0.1)

    if torch.distributed.is_available():
        threading.Thread(target=watch, daemon=True, name="rendezvous").start()


def _missing(world: int, seconds: float) -> str:
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or "0"
    place = f"{os.environ.get('MASTER_ADDR', 'this machine')}:{os.environ.get('MASTER_PORT', '?')}"
    return (
        f"rank {rank} waited {seconds:.0f} s for {world} processes at {place}, and not all of them came. "
        "Start all by one launcher (torchrun, srun), unset RANK, LOCAL_RANK and WORLD_SIZE, or wait longer: "
        f"{OPTION}={2 * seconds:.0f}"
    )
