"""Two ranks of a SLURM job: signals that reach them at different times, a rank that is killed, and the requeued job."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.runs import Command
from tests.forked import Forked

JOB = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "x",
       "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "127.0.0.1"}  # fmt: skip
SCONTROL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n'
WORK = {"fit": "training_step", "attack": "test_step", "certification": "test_step"}
FIRST = {"fit": 3, "attack": 1, "certification": 1}  # steps before a signal
LONG = pytest.mark.faults


def within_job(command: Command, calls: int):
    """A change that puts a rank into the job, and tells by a file that it has begun its ``calls``-th step."""
    scontrol = command.folder / "bin" / "scontrol"
    scontrol.parent.mkdir(exist_ok=True)
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)

    def change(rank: int) -> None:
        from common.tasks.classifier import ClassifierTask
        from common.tasks.robust import RobustTask

        os.environ.update(JOB, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
        os.environ["PATH"] = f"{scontrol.parent}:{os.environ['PATH']}"
        task = ClassifierTask if command.name == "fit" else RobustTask
        step, done = getattr(task, WORK[command.name]), []

        def slow(self, *args):
            done.append(1)
            if len(done) == calls:
                (command.folder / f"begun{rank}").touch()
            if len(done) >= calls:
                time.sleep(0.3)
            return step(self, *args)

        setattr(task, WORK[command.name], slow)

    return change


def wait_until_begun(processes: list[Forked], folder: Path) -> None:
    deadline = time.monotonic() + 300
    while not all((folder / f"begun{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < deadline and not any(one.ended for one in processes), [p.output for p in processes]
        time.sleep(0.02)


def send(process: Forked, name: str) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.process, getattr(signal, name))


@pytest.fixture(scope="module")
def straight(weights, tmp_path_factory):
    """Results of uninterrupted runs on a number of ranks, each once."""
    known = {}

    def result(name, ranks):
        if (name, ranks) not in known:
            command = Command(name, ranks, weights, tmp_path_factory.mktemp("straight") / "run", images=8)
            assert {one.wait() for one in command.start()} == {0}
            known[name, ranks] = command.result()
        return known[name, ranks]

    return result


def check_ended_and_requeued(command, processes, name, status):
    assert [one.wait() for one in processes] == [status, status], [one.output for one in processes]
    assert not [one.output for one in processes if "Traceback" in one.output]
    calls = command.folder / "bin" / "calls"
    assert (calls.read_text() if calls.exists() else "") == ("requeue 77\n" if name == "SIGUSR1" else "")


SENT = [("SIGUSR1", 0.0, 0), ("SIGUSR1", 0.2, 1), ("SIGUSR1", 2.0, 1), ("SIGTERM", 0.2, 0)]  # signal, skew, first rank
QUICK = [("fit", *SENT[1])]  # in the normal run


@pytest.mark.parametrize(
    ("command", "name", "skew", "first"),
    [
        pytest.param(command, *sent, marks=() if (command, *sent) in QUICK else LONG)
        for command in WORK
        for sent in SENT
    ],
)
def test_a_requeued_job_ends_as_an_uninterrupted_one(weights, tmp_path, straight, command, name, skew, first):
    """The records are those of one process too; the sums of gradients of two ranks round differently."""
    run = Command(command, 2, weights, tmp_path / "run", images=8)
    processes = run.start(within_job(run, FIRST[command]))
    wait_until_begun(processes, run.folder)
    send(processes[first], name)
    time.sleep(skew)
    send(processes[1 - first], name)
    check_ended_and_requeued(run, processes, name, 128 + getattr(signal, name))
    assert {one.wait() for one in run.start(within_job(run, 10**6))} == {0}
    assert run.result() == straight(command, 2 if command == "fit" else 1)
    assert not list(run.folder.rglob("hpc_ckpt*"))


@pytest.mark.faults
@pytest.mark.parametrize("command", ["fit", "attack", "certification"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_job_goes_on_after_a_rank_was_killed(weights, tmp_path, straight, command, rank):
    run = Command(command, 2, weights, tmp_path / "run", images=8)
    processes = run.start(within_job(run, FIRST[command]))
    wait_until_begun(processes, run.folder)
    send(processes[rank], "SIGKILL")
    statuses = [one.wait() for one in processes]
    assert statuses[rank] == 137 and statuses[1 - rank] == 3, [one.output for one in processes]
    assert {one.wait() for one in run.start(within_job(run, 10**6))} == {0}
    assert run.result() == straight(command, 2 if command == "fit" else 1)
