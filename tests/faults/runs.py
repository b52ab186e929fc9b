"""Commands that are interrupted at random moments and resumed, and the outcomes of their runs."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from common.records.store import Records
from tests.forked import Forked, fork, fork_ranks
from tests.tiny_test import write_tiny_test

ROOT = Path(__file__).parents[2]
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1")
COMMANDS = ("fit", "attack", "certification", "predict")


@dataclass
class Outcomes:
    """Counts over the runs of a command on some ranks."""

    runs: int = 0
    interruptions: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    too_late: int = 0  # the command had finished, with status 0 and all of its results
    launcher: int = 0  # a rank waited for one that had died before both were connected, until the launcher ended it
    slowest: float = 0.0  # seconds from a signal to the end of all processes


class Command:
    """A small command on one or two ranks in a folder of its own, and its result."""

    def __init__(
        self, name: str, ranks: int, weights: Path, folder: Path, images: int = 24, attack: dict[str, Any] | None = None
    ) -> None:
        self.name, self.ranks, self.folder, self.images, self.attack = name, ranks, folder, images, attack
        folder.mkdir(parents=True)
        self.arguments = getattr(self, f"_{name}")(weights)

    def start(self, change: Callable[[int], object] = lambda rank: None) -> list[Forked]:
        """Start it; a training goes on from its last state. ``change(rank)`` runs in each process."""
        if self.ranks == 1:
            return [fork(self.arguments, self.folder / "log", lambda: change(0))]
        return fork_ranks(self.arguments, self.folder, change)

    def result(self) -> Any:
        """Everything that the finished command has written, for a comparison."""
        if self.name == "fit":
            return (self.folder / "export.safetensors").read_bytes()
        if self.name == "predict":
            out = self.folder / "out"
            return {file.name: file.read_bytes() for file in out.iterdir() if file.is_file() and file.name != ".lock"}
        assert (self.folder / "records" / "records.jsonl").exists()
        lines = (self.folder / "records" / "records.jsonl").read_bytes().splitlines()
        return sorted(lines[1:])

    def _fit(self, weights: Path) -> list[str]:
        keeper = {"dirpath": str(self.folder / "kept"), "filename": "last", "enable_version_counter": False}
        config = {
            "base": [str(ROOT / "configs" / "tour" / "01-classifier.fit.yaml")],
            "model": {"init_args": {"export": str(self.folder / "export.safetensors")}},
            "data": {"init_args": {"batch_size": 100 // self.ranks}},
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": 4,
                "enable_progress_bar": False,
                "enable_checkpointing": True,
                "callbacks": [{"class_path": "ModelCheckpoint", "init_args": keeper}],
                "default_root_dir": str(self.folder),
            },
        }
        (self.folder / "fit.yaml").write_text(yaml.safe_dump(config))
        return ["fit", "-c", str(self.folder / "fit.yaml"), "--ckpt_path", "last"]

    def _attack(self, weights: Path) -> list[str]:
        return ["test", "-c", str(self._test(weights))]

    def _certification(self, weights: Path) -> list[str]:
        path = self._test(weights)
        config = yaml.safe_load(path.read_text())
        smoothing = {"sigma": 0.25, "n0": 10, "n": 60, "alpha": 0.1, "num_classes": 10, "batch_size": 32}
        part = {"class_path": "common.robustness.Smoothing", "init_args": smoothing}
        certified = {"class_path": "common.robustness.Certified", "init_args": {"smoothing": part}}
        config["model"]["init_args"]["evaluators"] = [certified]
        path.write_text(yaml.safe_dump(config))
        return ["test", "-c", str(path)]

    def _predict(self, weights: Path) -> list[str]:
        return ["predict", "-c", str(self._test(weights)), "--out", str(self.folder / "out")]

    def _test(self, weights: Path) -> Path:
        data = {"batch_size": 2, "test_images": self.images}
        return write_tiny_test(weights, self.folder, attack=self.attack, data=data)


def duration(command: Command) -> float:
    """Seconds of an uninterrupted run."""
    begin = time.monotonic()
    statuses = [one.wait() for one in command.start()]
    assert set(statuses) == {0}, [one.read_text() for one in command.folder.glob("*log")]
    return time.monotonic() - begin


def interrupt(command: Command, seconds: float, chance: random.Random, outcomes: Outcomes) -> None:
    """Run a command, with one signal to one rank or all of them within the first ``seconds``, and check its end."""
    processes = command.start()
    time.sleep(seconds * chance.uniform(0.05, 1))
    signum = getattr(signal, chance.choice(SIGNALS))
    targets = processes if chance.random() < 0.5 else [chance.choice(processes)]
    begin = time.monotonic()
    for one in targets:
        with suppress(ProcessLookupError):
            os.kill(one.process, signum)
    if len(processes) > 1 and not wait_for_all(processes):
        outcomes.launcher += 1
        for one in processes:
            with suppress(ProcessLookupError):
                os.kill(one.process, signal.SIGTERM)
    statuses = [one.wait() for one in processes]  # each within a minute, and alone
    outcomes.slowest = max(outcomes.slowest, time.monotonic() - begin)
    outcomes.interruptions += 1
    outcomes.statuses.update([statuses[0]])
    if 0 in statuses:
        outcomes.too_late += 1
        if set(statuses) == {0}:
            command.result()


def wait_for_all(processes: list[Forked]) -> bool:
    """True if all ranks end within some seconds of the first one; then a launcher would end them."""
    deadline = None
    while running := [one for one in processes if not one.ended]:
        if len(running) < len(processes):
            deadline = deadline or time.monotonic() + 30
            if time.monotonic() > deadline:
                return False
        time.sleep(0.02)
    return True


def run(command: Command, seconds: float, expected: Any, seed: int, outcomes: Outcomes) -> None:
    """One run: one to three interruptions, then to the end. ``AssertionError`` if its result is another one."""
    chance = random.Random(seed)
    outcomes.runs += 1
    for _ in range(chance.randint(1, 3)):
        interrupt(command, seconds, chance, outcomes)
    processes = command.start()
    statuses = [one.wait() for one in processes]
    assert set(statuses) == {0}, [one.output for one in processes]
    assert command.result() == expected
    if command.name in ("attack", "certification"):
        assert len(Records.read(command.folder / "records")) == len(command.result())
    shutil.rmtree(command.folder)
