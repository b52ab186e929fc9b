"""Two ranks: a signal to one ends both, a death is noticed and named, no rank waits in a collective for another."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

import cli
from common.records.store import Records
from tests.forked import fork_ranks
from tests.test_invariance import exact_part
from tests.tiny_test import write_tiny_test

TIMEOUT = 4  # seconds, of the process group
FEW = {"batch_size": 1, "test_images": 8}  # each batch is filled up to 16 rows
LONG = pytest.mark.faults  # outside the normal run


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """Records of the small test, of 8 images, on one process."""
    folder = tmp_path_factory.mktemp("finished")
    cli.main(["test", "-c", str(write_tiny_test(weights, folder, data={"test_images": 8}))])
    return folder / "records"


def at_row(rank, count, action):
    """A change of one rank: ``action()`` when it has appended its ``count``-th rows."""

    def change(own):
        append, calls = Records.append, []

        def appended(self, records):
            append(self, records)
            calls.append(1)
            if len(calls) == count:
                action()

        if own == rank:
            Records.append = appended

    return change


def kill(name):
    return lambda: os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize(
    ("rank", "name"), [(1, "SIGTERM"), pytest.param(0, "SIGINT", marks=LONG), pytest.param(1, "SIGUSR1", marks=LONG)]
)
def test_a_signal_to_one_rank_ends_both(tiny_test, tmp_path, rows, finished, rank, name):
    config = str(tiny_test(data=FEW))
    ranks = fork_ranks(["test", "-c", config], tmp_path, at_row(rank, 3, kill(name)))
    assert [one.wait() for one in ranks] == [128 + getattr(signal, name)] * 2
    assert "Traceback" not in ranks[0].output + ranks[1].output
    last = ranks[0].output.splitlines()[-1]
    done = len(set.intersection(*({row.index for row in Records.read(tmp_path / "records") if row.evaluator == one}
                                  for one in ("clean", "attacked"))))  # fmt: skip
    assert last == f"interrupted after {done} of 8 images; the same command goes on"
    assert "interrupted" not in ranks[1].output
    if rank:
        cli.main(["test", "-c", config])
        assert exact_part(rows(tmp_path / "records")) == exact_part(rows(finished))


@pytest.mark.parametrize("dead", [0, 1])
def test_the_death_of_a_rank_is_named(tiny_test, tmp_path, dead):
    config = str(tiny_test(data=FEW))
    ranks = fork_ranks(["test", "-c", config], tmp_path, at_row(dead, 3, kill("SIGKILL")))
    start = time.monotonic()
    statuses = [one.wait() for one in ranks]
    assert statuses[dead] == 137 and statuses[1 - dead] == 3
    assert time.monotonic() - start < 40
    output = ranks[1 - dead].output
    assert f"error: rank {dead} (" in output and "has died" in output and "Traceback" not in output


def test_an_error_of_one_rank_is_a_line_of_the_first(tiny_test, tmp_path):
    def fail():
        raise ValueError("image 3 is damaged")

    ranks = fork_ranks(["test", "-c", str(tiny_test(data=FEW))], tmp_path, at_row(1, 3, fail))
    assert [one.wait() for one in ranks] == [2, 2]
    assert "error: rank 1: image 3 is damaged" in ranks[0].output
    assert "Traceback" not in ranks[0].output + ranks[1].output
    assert "error" not in ranks[1].output


@pytest.mark.parametrize(
    ("command", "slow", "times"),
    [
        ("test", 1, 2),
        pytest.param("test", 0, 10, marks=LONG),
        pytest.param("test", 1, 10, marks=LONG),
        pytest.param("predict", 0, 2, marks=LONG),
        pytest.param("predict", 1, 10, marks=LONG),
    ],
)
def test_no_rank_waits_in_a_collective(tiny_test, tmp_path, command, slow, times):
    """One works for several ``times`` the process group's timeout after the other has finished."""

    def change(rank):
        from lightning.pytorch.strategies import DDPStrategy

        from common.tasks.robust import RobustTask

        setup, step, calls = DDPStrategy.setup_distributed, getattr(RobustTask, f"{command}_step"), []

        def impatient(self):
            self._timeout = timedelta(seconds=TIMEOUT)
            setup(self)

        def slowed(self, *args):
            calls.append(1)
            if len(calls) == 1 and rank == slow:
                time.sleep(times * TIMEOUT)
            return step(self, *args)

        DDPStrategy.setup_distributed = impatient
        setattr(RobustTask, f"{command}_step", slowed)

    options = ["--out", str(tmp_path / "out")] if command == "predict" else []
    ranks = fork_ranks([command, "-c", str(tiny_test()), *options], tmp_path, change)
    assert [one.wait() for one in ranks] == [0, 0], [one.output for one in ranks]
    if command == "test":
        assert len((tmp_path / "records" / "records.jsonl").read_text().splitlines()) == 1 + 2 * 13
    else:
        assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + 13


def test_the_first_rank_may_export_longer_than_the_others_live(tmp_path):
    """They have finished, and are not taken for dead."""
    config = {
        "base": [str(Path(__file__).parents[3] / "configs" / "tour" / "01-classifier.fit.yaml")],
        "model": {"init_args": {"export": str(tmp_path / "a.safetensors")}},
        "trainer": {"accelerator": "cpu", "max_steps": 1, "limit_val_batches": 0, "enable_progress_bar": False,
                    "default_root_dir": str(tmp_path)},
    }  # fmt: skip
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))

    def change(rank):
        from common.tasks.training import TrainingTask

        save, other = TrainingTask._save, tmp_path / "other-has-ended"

        def slow(self, export):
            deadline = time.monotonic() + 30
            while rank == 0 and not other.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.5)
            save(self, export)

        TrainingTask._save = slow

    first, second = fork_ranks(["fit", "-c", str(tmp_path / "fit.yaml")], tmp_path, change)
    assert second.wait() == 0, second.output
    (tmp_path / "other-has-ended").touch()
    assert first.wait() == 0 and "has died" not in first.output, first.output
    assert (tmp_path / "a.safetensors").exists()
