"""SLURM: the job of this process, and its return to the queue."""

import os
import subprocess
from collections.abc import Mapping
from functools import cache


def job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The job's id, of one of an array with its index; None outside of SLURM and in an interactive job."""
    if "SLURM_NTASKS" not in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
        return None
    if "SLURM_ARRAY_JOB_ID" in environment and "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


@cache
def requeued() -> str:
    """Put the job back into the queue, once, for the line of an interrupted command; "" outside of SLURM."""
    number = job()
    if number is None:
        return ""
    try:
        done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"; job {number} was not requeued: {error}"
    return f"; job {number} is requeued" if done.returncode == 0 else f"; job {number} was not requeued: {done.stderr}"
