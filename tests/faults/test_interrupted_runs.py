"""Runs that are interrupted one to three times at random moments: nothing hangs, survives, or is lost.

``FAULT_RUNS`` sets the number of runs of each command, 20 by default.
"""

import os

import pytest

from tests.faults.runs import COMMANDS, Command, Outcomes, duration, run

RUNS = int(os.environ.get("FAULT_RUNS", "20"))


def check_runs(name, ranks, seeds, weights, folder, images=24):
    """Run a command as often as there are seeds, and print a line of the table in tests/README.md."""
    reference, outcomes = Command(name, ranks, weights, folder / "reference", images), Outcomes()
    seconds = duration(reference)
    expected = reference.result()
    for seed in seeds:
        run(Command(name, ranks, weights, folder / f"run{seed}", images), seconds, expected, seed, outcomes)
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(outcomes.statuses.items()))
    assert outcomes.interruptions >= outcomes.runs == len(seeds)
    return f"| {name} | {ranks} | {outcomes.runs} | {outcomes.interruptions} | {statuses} | {outcomes.slowest:.0f} s |"


@pytest.mark.faults
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", COMMANDS)
def test_interrupted_runs_end_as_uninterrupted_ones(name, ranks, weights, tmp_path, capsys):
    line = check_runs(name, ranks, range(RUNS), weights, tmp_path)
    with capsys.disabled():
        print(f"\n{line}")


@pytest.mark.parametrize(("name", "ranks"), [("fit", 1), ("attack", 1)])
def test_one_interrupted_run(name, ranks, weights, tmp_path):
    """The short form, in the normal run."""
    check_runs(name, ranks, [1], weights, tmp_path, images=8)
