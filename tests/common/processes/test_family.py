"""Children end with the process that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from common.processes.family import start, stop
from tests.forked import fork

SLEEPER = """
import os, sys, time
sys.path.insert(0, {root!r})
from common.processes.family import end_with_parent
from common.processes.interrupts import INTERRUPTS
with INTERRUPTS.handled():
    end_with_parent()
    grandchild = os.fork()
    open(sys.argv[1] + (".child" if grandchild else ".grandchild"), "w").write(str(os.getpid()))
    time.sleep(60)
"""


def sleeper(tmp_path):
    """A stage of a study, which starts a process of its own."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    with (tmp_path / "log").open("wb") as log:
        return start([sys.executable, "-c", SLEEPER.format(root=root), str(tmp_path / "stage")], log, os.environ)


def pids(tmp_path):
    """Process ids of child and grandchild, once both are there."""
    files = [tmp_path / f"stage.{name}" for name in ("child", "grandchild")]
    deadline = time.monotonic() + 30
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(file.read_text()) for file in files]


def running(pid):
    """True unless the process has ended; one that nobody has waited for yet, a zombie, has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_ended(processes):
    deadline = time.monotonic() + 20
    while any(map(running, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [process for process in processes if running(process)]


def test_a_process_is_stopped_with_its_children(tmp_path):
    process = sleeper(tmp_path)
    family = pids(tmp_path)
    stop([process])
    assert process.returncode == 128 + signal.SIGTERM
    check_ended(family)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread looks every second")
@pytest.mark.parametrize(("name", "status"), [("SIGKILL", 137), ("SIGTERM", 143), ("SIGINT", 130)])
def test_the_stages_of_a_study_end_with_it(tmp_path, name, status):
    """SIGKILL leaves the parent no time to stop anything: the system does."""
    config = tmp_path / "1-a.test.yaml"
    config.write_text("model: {init_args: {}}\n")

    def change():
        from rich.console import Console

        import common.commands.study
        from common.experiments.stages import Stage, run_stages

        def begin(self, logs, threads):
            self.process = sleeper(tmp_path)

        Stage.start = begin
        common.commands.study.run = lambda _: run_stages([Stage(config)], tmp_path, 1, Console())

    run = fork(["study"], tmp_path / "study.log", change)
    family = pids(tmp_path)
    os.kill(run.process, getattr(signal, name))
    assert run.wait() == status
    if name != "SIGKILL":
        assert run.output.splitlines()[-1] == "interrupted: the same command goes on"
        check_ended(family)
    else:
        check_ended(family[:1])  # the grandchild in its turn asks for this itself, as ranks do
        os.kill(family[1], signal.SIGKILL)


def test_a_child_whose_parent_is_gone_does_not_start(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    environment = {**os.environ, "ROBUST_DIFFUSION_PARENT": str(ended.pid)}
    code = "from common.processes.family import end_with_parent; end_with_parent(); print('started')"
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 143
    for inherited in (str(os.getppid()), "nonsense"):  # by a script between the two
        environment["ROBUST_DIFFUSION_PARENT"] = inherited
        assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
