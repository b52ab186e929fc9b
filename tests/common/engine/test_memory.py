"""Free memory of machine and control groups, and budgets."""

from pathlib import Path

import pytest
import torch

from common.engine.memory import budget_in_bytes, free_bytes, gradient_memory

CPU = torch.device("cpu")
MACHINE = "MemTotal:  9000 kB\nMemAvailable:   8000 kB\n"


@pytest.fixture
def files(monkeypatch):
    """Texts of files by path; all others do not exist."""
    texts: dict[str, str] = {"/proc/meminfo": MACHINE}

    def read(path, *arguments, **named):
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr("common.engine.memory.held_bytes", lambda: 0)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    return texts


def test_what_the_machine_has_is_shared_by_its_processes(files, monkeypatch):
    assert free_bytes(CPU) == 8000 * 1024
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(CPU) == 2000 * 1024


def test_what_the_process_has_freed_and_holds_is_free(files, monkeypatch):
    monkeypatch.setattr("common.engine.memory.held_bytes", lambda: 7)
    assert free_bytes(CPU) == 8000 * 1024 + 7


def test_processes_that_lightning_started_share_too(files, monkeypatch):
    """They have no variable of a launcher; where there is one, the larger number counts."""
    with gradient_memory("auto", processes=2):
        assert budget_in_bytes(CPU) == 2000 * 1024
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert budget_in_bytes(CPU) == 1000 * 1024
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        assert budget_in_bytes(CPU) == 2000 * 1024
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with gradient_memory("auto"):
        assert budget_in_bytes(CPU) == 4000 * 1024


def test_the_tightest_control_group_counts(files):
    files |= {
        "/proc/self/cgroup": "0::/job/step\n",
        "/sys/fs/cgroup/job/step/memory.max": "max\n",
        "/sys/fs/cgroup/job/step/memory.current": "5\n",
        "/sys/fs/cgroup/job/memory.max": "3000\n",
        "/sys/fs/cgroup/job/memory.current": "1000\n",
    }
    assert free_bytes(CPU) == 2000


def test_groups_of_version_one(files):
    files |= {
        "/proc/self/cgroup": "4:memory,cpu:/job\n3:devices:/other\n",
        "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "3000\n",
        "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2500\n",
    }
    assert free_bytes(CPU) == 500


def test_the_budget_is_that_of_the_context_unless_one_is_named(files):
    assert budget_in_bytes(CPU) == 0
    with gradient_memory("auto"):
        assert budget_in_bytes(CPU) == 4000 * 1024
        with gradient_memory(7):
            assert (budget_in_bytes(CPU), budget_in_bytes(CPU, 9)) == (7, 9)
    assert budget_in_bytes(CPU) == 0


@pytest.mark.parametrize("budget", [-1, 1.5, "all", True])
def test_bad_budgets_are_refused(budget):
    with pytest.raises(ValueError, match="memory"), gradient_memory(budget):
        pass
