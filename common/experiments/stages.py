"""A story told by running its stages: configs named ``NN-what.SUBCOMMAND.yaml``, several at a time, each a process.

A stage starts when the weights that its config names are there. Small networks gain little from a second thread, so
as many stages as there are processors run side by side, each on its share of the threads.
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

import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.records.store import Records, summarise

WEIGHTS = ".safetensors"
FRESH = 5.0  # seconds for which figures are shown before they are read again


@dataclass
class Stage:
    """One config and what became of it. ``process`` is None before the start."""

    config: Path
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    settings: dict[str, Any] = field(init=False)
    _seen: tuple[float, str] = field(default=(-math.inf, ""), init=False, repr=False)

    def __post_init__(self) -> None:
        self.settings = yaml.safe_load(self.config.read_text())

    @property
    def name(self) -> str:
        """What the stage does, as the file's name says, without its number: ``fit denoiser``."""
        what, subcommand = self.config.stem.rsplit(".", 1)
        number, _, rest = what.partition("-")
        return f"{subcommand} {rest if number.isdigit() else what}"

    @property
    def purpose(self) -> str:
        """The first line of the config, which says what it is."""
        return self.config.read_text().splitlines()[0].lstrip("# ")

    @property
    def export(self) -> Path | None:
        """The weights that the stage writes, if it trains."""
        export = self.settings["model"]["init_args"].get("export")
        return None if export is None else Path(export)

    @property
    def records(self) -> Path | None:
        """The directory that the stage's rows go to, if it tests."""
        records = self.settings["model"]["init_args"].get("records")
        return None if records is None else Path(records)

    def missing(self) -> list[Path]:
        """Weights that the stage reads and that are not there yet."""
        named = {Path(text) for text in _strings(self.settings) if text.endswith(WEIGHTS)}
        return sorted(path for path in named - {self.export} if not path.exists())

    def start(self, cli: Path, logs: Path, threads: int) -> None:
        """Runs the stage's command in the background; what it prints goes into a file of ``logs``."""
        command = [sys.executable, str(cli), self.config.stem.rsplit(".", 1)[1], "-c", str(self.config)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "COLUMNS": "160"}
        self.started = time.monotonic()
        with self.log(logs).open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def log(self, logs: Path) -> Path:
        return logs / f"{self.config.stem}.log"

    def figures(self) -> str:
        """How far a test is: accuracies of the rows written so far, read every few seconds, since rows may be many."""
        if time.monotonic() < self._seen[0] + FRESH and self.process is not None and self.process.poll() is None:
            return self._seen[1]
        self._seen = time.monotonic(), self._figures()
        return self._seen[1]

    def _figures(self) -> str:
        try:
            rows = Records.read(self.records) if self.records is not None else []
        except ValueError:  # no row yet
            return ""
        first = ("Avg", "certified@0")
        pairs = [(s, m) for s in summarise(rows) for m in first if m in s.metrics]
        return " · ".join(f"{s.evaluator} {s.metrics[m][0]:.1%} of {s.n}" for s, m in pairs)


def run_stages(stages: Sequence[Stage], cli: Path, logs: Path, jobs: int, console: Console) -> None:
    """Runs all stages, at most ``jobs`` at a time, the first that can start first; returns when all are done.

    Raises ``RuntimeError`` with the end of its log when a stage fails or can never start; the others are stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running, start = list(stages), list[Stage](), time.monotonic()
    try:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            while waiting or running:
                for stage in [s for s in waiting if not s.missing()][: jobs - len(running)]:
                    stage.start(cli, logs, threads)
                    console.print(f"[dim]{time.monotonic() - start:4.0f} s[/]  started   {stage.name}")
                    waiting.remove(stage)
                    running.append(stage)
                if not running:
                    names = "; ".join(f"{s.name} needs {', '.join(map(str, s.missing()))}" for s in waiting)
                    raise RuntimeError(f"nothing can start: {names}")
                live.update(_status(running))
                time.sleep(0.5)
                for stage in [s for s in running if s.process is not None and s.process.poll() is not None]:
                    running.remove(stage)
                    _finish(stage, logs, console, time.monotonic() - start)
    finally:
        for stage in running:
            if stage.process is not None:
                stage.process.terminate()


def _finish(stage: Stage, logs: Path, console: Console, elapsed: float) -> None:
    log = stage.log(logs).read_text(errors="replace")
    if stage.process is not None and stage.process.returncode:
        raise RuntimeError(f"{stage.name} failed; {stage.log(logs)} ends with\n{log[-3000:]}")
    console.print(f"[dim]{elapsed:4.0f} s[/]  finished  {stage.name}  [bold]{stage.figures()}[/]")


def _status(running: Sequence[Stage]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for stage in running:
        table.add_row(f"{time.monotonic() - stage.started:4.0f} s", stage.name, stage.figures())
    return table


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _strings(value)
