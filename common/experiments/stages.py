"""Stages: configs ``NN-name.SUBCOMMAND.yaml``, run as processes, several side by side.

A stage starts when the weights that its config reads exist. Small networks gain little from a second thread, so the
processors are shared out among the stages that run side by side.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from common.experiments.preset_layers import read_config
from common.processes.family import start, stop
from common.processes.interrupts import INTERRUPTS
from common.records.reading import read_table
from common.records.record_files import ARCHIVE, MERGED
from common.records.schema import Record
from common.records.summary import main_metric, summarise

ROOT = Path(__file__).parents[2]  # of the project: cli.py, configs
WEIGHTS = ".safetensors"
REFRESH = 5.0  # seconds between two readings of a test's records, which may be many


class StageError(RuntimeError):
    """Failure of a stage, with the reason from its log."""


@dataclass
class Stage:
    """One config and its process, which is None before the start."""

    config: Path
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    settings: dict[str, Any] = field(init=False)
    _merged: tuple[int, int] | None = field(default=None, init=False, repr=False)  # the file before the start
    _summary: tuple[float, str] = field(default=(-math.inf, ""), init=False, repr=False)  # time of reading, text

    def __post_init__(self) -> None:
        self.settings = read_config(self.config)
        if self.config.stem.rpartition(".")[2] not in ("fit", "test"):
            raise ValueError(f"a stage is named NN-NAME.fit.yaml or NN-NAME.test.yaml; got {self.config.name}")
        model = self.settings.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("init_args"), dict):
            raise ValueError(f"{self.config}: a stage needs model: {{class_path: …, init_args: {{…}}}}")

    @property
    def subcommand(self) -> str:
        """The part before ``.yaml``: ``fit`` or ``test``."""
        return self.config.stem.rsplit(".", 1)[1]

    @property
    def name(self) -> str:
        """Subcommand and file name without its number: ``fit denoiser``."""
        stem = self.config.stem.rsplit(".", 1)[0]
        number, _, rest = stem.partition("-")
        return f"{self.subcommand} {rest if number.isdigit() else stem}"

    @property
    def title(self) -> str:
        """The config's first line."""
        return self.config.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")

    @property
    def export(self) -> Path | None:
        """The weights file that the stage writes, if it trains."""
        return self._path("export")

    @property
    def records(self) -> Path | None:
        """The directory of the stage's records, if it tests."""
        return self._path("records")

    @property
    def certifies(self) -> bool:
        """True of a test with certificates."""
        return any(text.rpartition(".")[2] == "Certified" for text in _strings(self.settings))

    @property
    def on_test_images(self) -> bool:
        """False of a test on validation images, which chooses a setting and is no result."""
        data = (self.settings.get("data") or {}).get("init_args") or {}
        return bool(data.get("test_on", "test") == "test")

    def _path(self, key: str) -> Path | None:
        value = self.settings["model"]["init_args"].get(key)
        return None if value is None else Path(value)

    @property
    def reads(self) -> set[Path]:
        """Weights files that the stage reads."""
        return {Path(text) for text in _strings(self.settings) if text.endswith(WEIGHTS)} - {self.export}

    def missing(self) -> list[Path]:
        """Weights files that the stage reads and that do not exist yet."""
        return sorted(path for path in self.reads if not path.exists())

    def start(self, logs: Path, threads: int) -> None:
        """Start the stage's process; its output goes to a file in ``logs``."""
        command = [sys.executable, str(ROOT / "cli.py"), self.subcommand, "-c", str(self.config)]
        self._merged = self._merged_file()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "160"}
        self.started = time.monotonic()
        self.log(logs).unlink(missing_ok=True)  # a link there would lead the log elsewhere
        with self.log(logs).open("xb") as log:
            self.process = start(command, log, environment)

    @property
    def finished(self) -> bool:
        """True if the process wrote all that it should: the weights of a training, the last row of a test.

        A test merges its rows into one file when the last one is there.
        """
        if self.process is None or self.process.poll():
            return self.process is None
        return self.records is None or self._merged_file() not in (None, self._merged)

    def _merged_file(self) -> tuple[int, int] | None:
        """Identity of the file of merged rows, another one after each test; None if there is none."""
        path = self.records and self.records / MERGED
        if path is None or not path.exists():
            return None
        return path.stat().st_ino, path.stat().st_mtime_ns

    @property
    def running(self) -> bool:
        """True between the start and the end of the process."""
        return self.process is not None and self.process.poll() is None

    def log(self, logs: Path) -> Path:
        """The file in ``logs`` that holds the stage's output."""
        return logs / f"{self.config.stem}.log"

    def summary(self) -> str:
        """Accuracies of a test's records so far, read every few seconds while it runs."""
        if time.monotonic() < self._summary[0] + REFRESH and self.running:
            return self._summary[1]
        self._summary = time.monotonic(), self._summarise()
        return self._summary[1]

    def _summarise(self) -> str:
        try:
            rows: Sequence[Record] = read_table(self.records)[1] if self.records is not None else []
        except ValueError:  # no record yet
            return ""
        pairs = [(s, main_metric(s)) for s in summarise(rows)]
        return " · ".join(f"{_shown(s.source.title, m)} {s.metrics[m][0]:.1%} of {s.n}" for s, m in pairs)


def run_stages(stages: Sequence[Stage], logs: Path, jobs: int, console: Console) -> None:
    """Run all stages, at most ``jobs`` side by side, as far as their weights exist.

    A training that more stages wait for comes first, then certifications, the longest of the tests; otherwise the order
    is that of ``stages``.

    Raises `StageError` with the reason when a stage fails, and when none can start; the others are stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = sorted(stages, key=lambda s: (-sum(s.export in other.reads for other in stages), not s.certifies))
    running, start = list[Stage](), time.monotonic()
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            while waiting or running:
                for stage in [s for s in waiting if not s.missing()][: jobs - len(running)]:
                    stage.start(logs, threads)
                    if not console.is_terminal:  # a terminal shows what is running
                        console.print(f"[dim]{time.monotonic() - start:4.0f} s[/]  started   {escape(stage.name)}")
                    waiting.remove(stage)
                    running.append(stage)
                if not running:
                    names = "; ".join(f"{s.name} needs {', '.join(map(str, s.missing()))}" for s in waiting)
                    raise StageError(f"no stage can start: {names}. Train or fetch these weights first")
                live.update(_status(running))
                time.sleep(0.5)
                for stage in [s for s in running if not s.running]:
                    running.remove(stage)
                    _finish(stage, logs, console, time.monotonic() - start)
    finally:
        with INTERRUPTS.patiently():
            stop(stage.process for stage in running if stage.process is not None)


def is_finished(folder: Path) -> bool:
    """True if the last test that wrote into the folder came to its last row: its merged file, or archive, holds all."""
    whole = [folder / name for name in (MERGED, ARCHIVE) if (folder / name).is_file()]
    count = len(read_table(folder)[1]) if whole else 0
    return any(len(read_table(file)[1]) == count for file in whole)


def _finish(stage: Stage, logs: Path, console: Console, elapsed: float) -> None:
    if not stage.finished:
        log = stage.log(logs).read_text(errors="replace")
        raise StageError(
            f"{stage.name} failed: {logged_reason(log)}\nIts log is {stage.log(logs)}; the same command goes on."
        )
    console.print(f"[dim]{elapsed:4.0f} s[/]  finished  {escape(stage.name)}  [bold]{escape(stage.summary())}[/]")


def logged_reason(log: str) -> str:
    """The error that a log ends with: what follows ``error:``, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    start = next((i for i in reversed(range(len(lines))) if lines[i].startswith("error: ")), len(lines) - 1)
    return " ".join(lines[start:]).removeprefix("error: ") or "its log is empty"


def _shown(title: str, metric: str) -> str:
    """Title of an evaluation, of certificates with the radius."""
    return title if metric == "Avg" else f"{title} at {metric.partition('@')[2]}"


def _status(running: Sequence[Stage]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for stage in running:
        table.add_row(f"{time.monotonic() - stage.started:4.0f} s", stage.name, stage.summary())
    return table


def _strings(node: Any) -> Iterator[str]:
    """All strings in a configuration."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _strings(value)
