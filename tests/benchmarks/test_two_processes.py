"""Two processes with one thread each against one process, and against two independent runs in the same measurement.

An idle machine with two processors is needed: pytest -n 0 -m bench tests/benchmarks/test_two_processes.py. Set
``SCALE_SIZE=small`` to try it with a small network.
"""

import os

import pytest

from common.records.store import Records
from tests.benchmarks.two_processes import LARGE, SMALL, span, timed, write_config
from tests.forked import fork, fork_ranks

pytestmark = pytest.mark.bench
TINY = os.environ.get("SCALE_SIZE") == "small"
IMAGES = {"attack": 64, "certification": 12, "fit": 0}
STEPS = {"attack": 3, "certification": 0, "fit": 12}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Function: seconds of a command on one process, on two ranks, and of two independent processes."""
    monkeypatch.setattr("tests.forked.LIMIT", 1800.0)

    def start(kind, name, ranks=1):
        folder = tmp_path / name
        folder.mkdir()
        path = write_config(kind, folder, SMALL if TINY else LARGE, IMAGES[kind], STEPS[kind])
        arguments = ["fit" if kind == "fit" else "test", "-c", str(path)]
        if ranks == 1:
            return [fork(arguments, folder / "log", lambda: timed(folder / "time0", kind))]
        if kind == "fit":
            arguments.append("--data.init_args.batch_size=32")  # the same images in each step
        return fork_ranks(arguments, folder, lambda rank: timed(folder / f"time{rank}", kind))

    def seconds(kind):
        measured = []
        for names, ranks in ((["one"], 1), (["two"], 2), (["first", "second"], 1)):
            processes = [process for name in names for process in start(kind, name, ranks)]
            assert {process.wait() for process in processes} == {0}, [process.output for process in processes]
            files = [file for name in names for file in sorted((tmp_path / name).glob("time*"))]
            measured.append(span(*files))
        if kind != "fit":
            first, second = (Records.read(tmp_path / name / "records") for name in ("one", "two"))
            assert first == second
            if kind == "certification":
                samples = [row.samples for row in first]
                assert max(samples) > 3 * min(samples), samples
        return measured

    return seconds


@pytest.mark.parametrize("kind", ["attack", "certification", "fit"])
def test_two_processes_do_twice_the_work(run, kind, capsys):
    """At least 1.8 times that of one, or 0.95 of what two independent runs reach on the same processors."""
    one, two, independent = run(kind)
    with capsys.disabled():
        print(
            f"\n{kind}: one process {one:.1f} s, two ranks {two:.1f} s, two independent runs {independent:.1f} s: "
            f"{one / two:.2f} times one process, {independent / (2 * two):.2f} of two independent runs"
        )
    assert one / two >= 1.8 or independent / (2 * two) >= 0.95
