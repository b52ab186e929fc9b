"""Two agents of torchrun, as on two machines: their results are those of one process with the same images per step."""

import os
import re
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.faults.runs import ROOT, Command

LONG = pytest.mark.faults
SCRIPT = ROOT / "configs" / "cluster" / "torchrun.sh"


class Agents:
    """A command on two agents with a rank each, started by the script that configs/cluster holds for it."""

    def __init__(self, command: Command) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        setting = {"NODES": "2", "GPUS": "1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
        self.logs = [command.folder / f"agent{number}.log" for number in (0, 1)]
        self.processes = []
        for number, log in enumerate(self.logs):
            with log.open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        [str(SCRIPT), *command.arguments, "--trainer.accelerator=cpu"],
                        stdout=output, stderr=subprocess.STDOUT, cwd=command.folder, start_new_session=True,
                        env={**os.environ, **setting, "NODE_RANK": str(number), "OMP_NUM_THREADS": "1"},
                    )
                )  # fmt: skip

    @property
    def output(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.logs)

    def wait(self) -> list[int]:
        """Statuses of both. The sessions that they started are ended in any case."""
        try:
            return [process.wait(timeout=150) for process in self.processes]
        finally:
            for process in self.processes:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, 9)
                process.wait()


@pytest.fixture
def one_process(weights, tmp_path):
    """Result of a command on one process."""

    def run(name):
        command = Command(name, 1, weights, tmp_path / "one", images=8)
        assert [one.wait() for one in command.start()] == [0]
        return command

    return run


@pytest.mark.parametrize("name", [pytest.param("attack", marks=LONG), "certification"])
def test_records_of_two_agents_are_those_of_one_process(weights, tmp_path, one_process, name):
    command = Command(name, 2, weights, tmp_path / "two", images=8)
    agents = Agents(command)
    assert agents.wait() == [0, 0], agents.output
    assert command.result() == one_process(name).result()
    assert {file.name[:10] for file in (command.folder / "records").glob("part-*")} == {"part-00000", "part-00001"}


@LONG
def test_weights_of_two_agents_are_those_of_one_process(weights, tmp_path, one_process):
    """Halves of a batch add up in another order. Adam's steps are near the sign of a gradient, so the last bit of one
    that is about zero moves its weight by the whole step (0.003), up or down: 1.2 % of a tensor's norm was measured
    after 48 steps.
    """
    command = Command("fit", 2, weights, tmp_path / "two", images=8)
    agents = Agents(command)
    assert agents.wait() == [0, 0], agents.output
    found, expected = (load_file(one.folder / "export.safetensors") for one in (command, one_process("fit")))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert (found[name] - weight).norm() <= 0.05 * weight.norm(), name


@LONG
@pytest.mark.parametrize("name", ["fit", "attack"])
def test_agents_go_on_after_a_worker_was_killed(weights, tmp_path, name):
    straight = Command(name, 2, weights, tmp_path / "straight", images=8)
    agents = Agents(straight)
    assert agents.wait() == [0, 0], agents.output
    command = Command(name, 2, weights, tmp_path / "killed", images=8)
    agents = Agents(command)
    begun = command.folder / ("kept/last.ckpt" if name == "fit" else "records")
    deadline = time.monotonic() + 120
    while not rows(begun) and time.monotonic() < deadline:
        time.sleep(0.05)
    for worker in children(agents.processes[1].pid):
        os.kill(worker, 9)
    assert 0 not in agents.wait(), agents.output
    assert "has died" in agents.output
    agents = Agents(command)
    assert agents.wait() == [0, 0], agents.output
    assert command.result() == straight.result()


def rows(place: Path) -> int:
    """1 of a checkpoint; the number of rows of a folder of records."""
    if place.suffix:
        return int(place.exists())
    return sum(max(0, len(file.read_bytes().splitlines()) - 1) for file in place.glob("part-*.jsonl"))


def children(process: int) -> list[int]:
    """Processes that a process has started, from /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if re.search(rf"^PPid:\s+{process}$", (folder / "status").read_text(), re.MULTILINE):
                found.append(int(folder.name))
    return found
