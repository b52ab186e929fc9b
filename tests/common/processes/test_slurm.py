"""SLURM: a job that SIGUSR1 ends is requeued; no checkpoint of another run is written or read."""

import os
import signal
import threading
import time

import pytest

from common.processes import interrupts
from common.processes.slurm import job
from common.records.store import Records
from tests.common.processes.test_interrupts import FEW, at_row
from tests.common.tasks.test_interruption import at_step, fit_config
from tests.forked import fork

JOB = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
       "SLURM_NODEID": "0"}  # fmt: skip
SCONTROL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n'


def within_job(tmp_path, change):
    """A change that puts the process into a SLURM job, beside a checkpoint that an earlier job left in ``runs``."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "hpc_ckpt_1.ckpt").write_bytes(b"of another network")

    def prepare():
        os.environ.update(JOB, PATH=f"{tmp_path}:{os.environ['PATH']}")
        os.chdir(tmp_path)
        change()

    return prepare


def check_no_checkpoint(tmp_path):
    assert [path.name for path in tmp_path.rglob("hpc_ckpt*")] == ["hpc_ckpt_1.ckpt"]
    assert (tmp_path / "runs" / "hpc_ckpt_1.ckpt").read_bytes() == b"of another network"


def test_a_test_is_requeued_after_the_row_in_hand(tiny_test, tmp_path):
    config = str(tiny_test(data=FEW, trainer={"default_root_dir": "runs"}))
    run = fork(["test", "-c", config], tmp_path / "log", within_job(tmp_path, at_row(6, "SIGUSR1")))
    assert run.wait() == 128 + signal.SIGUSR1
    line = "interrupted after 2 of 5 images; the same command goes on; job 77 is requeued"
    assert run.output.splitlines()[-1] == line
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    assert len(Records.read(tmp_path / "records")) == 5
    assert not list(tmp_path.rglob("*interrupted*"))
    check_no_checkpoint(tmp_path)


def test_a_training_is_requeued_and_goes_on(tmp_path):
    config = fit_config(tmp_path, "one", default_root_dir="runs")
    command = ["fit", "-c", config, "--ckpt_path", "last"]
    run = fork(command, tmp_path / "log", within_job(tmp_path, at_step(2, name="SIGUSR1")))
    assert run.wait() == 128 + signal.SIGUSR1
    assert run.output.splitlines()[-1].endswith("goes on; job 77 is requeued")

    def requeued():
        from common.tasks.classifier import ClassifierTask

        os.environ.update(JOB)
        os.chdir(tmp_path)
        ClassifierTask.on_train_start = lambda self: print("begins after step", self.global_step)

    again = fork(command, tmp_path / "again", requeued)
    assert again.wait() == 0
    assert "begins after step 2" in again.output
    assert (tmp_path / "one.safetensors").exists()
    check_no_checkpoint(tmp_path)


def test_a_job_with_a_long_row_is_requeued_before_its_time_is_over(tiny_test, tmp_path):
    """SLURM ends a requeued job by SIGTERM, as the stand-in of scontrol does."""
    config = str(tiny_test(data=FEW, trainer={"default_root_dir": "runs"}))

    def stuck():
        from common.processes import interrupts
        from common.records.store import Records

        interrupts.PATIENCE, interrupts.GRACE = 0.3, 0.3
        append, calls = Records.append, []

        def appended(self, records):
            append(self, records)
            calls.append(1)
            if len(calls) == 6:
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(60)

        Records.append = appended

    change = within_job(tmp_path, stuck)
    (tmp_path / "scontrol").write_text(f"{SCONTROL}kill -TERM $PPID\n")
    run = fork(["test", "-c", config], tmp_path / "log", change)
    assert run.wait() == 128 + signal.SIGUSR1
    assert "the row in hand takes longer than 0 s; job 77 is requeued" in run.output
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    assert len(Records.read(tmp_path / "records")) == 5


def test_a_job_is_not_requeued_while_it_writes_a_checkpoint(monkeypatch):
    """SLURM would end it within the file."""
    signals, seen = interrupts.Interrupts(), []
    monkeypatch.setattr(interrupts, "PATIENCE", 0.0)
    signals.overdue = lambda: seen.append(writing[0])
    writing, waits = [True], threading.Thread(target=signals._after_patience)
    with signals.patiently():
        waits.start()
        waits.join(0.3)
        assert waits.is_alive() and not seen
        writing[0] = False
    waits.join(20)
    assert seen == [False]


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({}, "77"),
        ({"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "3"}, "70_3"),
        ({"SLURM_JOB_NAME": "interactive"}, None),
    ],
)
def test_the_job_is_one_that_srun_started(changes, number):
    assert job(JOB | changes) == number
    assert job({"SLURM_JOB_ID": "77"}) is None
