"""``tour``: train, attack, certify and report on handwritten digits, by the configs in configs/tour."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from common.checks.settings import check_count
from common.commands.parsing import Arguments
from common.experiments.stages import Stage, run_stages
from common.naming.configs_folder import presets_root
from common.naming.terminal import Terminal
from common.report.build import build, check_out


def run(arguments: Sequence[str]) -> None:
    """Run the stages of the tour that are not finished, then build the report."""
    parser = Arguments(
        "tour",
        "Train, attack, certify and report on handwritten digits, in minutes on two cores. "
        "Finished stages are skipped; delete runs/tour to start over.",
    )
    parser.add_argument("--configs", default=str(presets_root() / "tour"), help="folder of the stages")
    parser.add_argument("--out", default="runs/tour/report", help="folder of the report")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="stages that run side by side")
    options = parser.read(arguments)
    check_count("--jobs", options.jobs)
    stages = [Stage(path) for path in sorted(Path(options.configs).glob("*.yaml"))]
    if not stages:
        raise ValueError(f"--configs must be a folder of stages (*.yaml); {options.configs} has none")
    check_out(options.out)
    console, start = Terminal(), time.monotonic()
    pending = [stage for stage in stages if stage.export is None or not stage.export.exists()]
    for stage in stages:
        console.print(
            f"[bold]{escape(stage.name)}[/]{'' if stage in pending else ' (finished)'}: {escape(stage.title)}"
        )
    run_stages(pending, Path(options.out).parent / "logs", options.jobs, console)
    console.print(f"The tour took {(time.monotonic() - start) / 60:.1f} minutes")
    build([stage.records for stage in stages if stage.records is not None and stage.on_test_images], options.out)
