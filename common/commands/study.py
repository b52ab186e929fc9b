"""``study FILE``: one test for every combination of settings in a study, then a report of scores against settings."""

import time
from collections.abc import Sequence

from rich.markup import escape

from common.commands.parsing import Arguments
from common.commands.parts import parse_part
from common.experiments.preset_files import STUDY, find_config
from common.experiments.stages import Stage, is_finished, run_stages
from common.experiments.study import Study
from common.experiments.study_list import write_list
from common.naming.terminal import Terminal
from common.report.build import build, check_out


def run(arguments: Sequence[str]) -> None:
    """Run a study, or one share of it, and build its report."""
    parser = Arguments(
        "study",
        "Run a test config with every combination of settings that a study file names, and report each "
        "score against the settings. Finished tests are skipped.",
    )
    parser.add_argument("file", help="study file or preset, such as studies/ndc-nodes")
    parser.add_argument("--jobs", type=int, default=1, help="tests that run side by side")
    parser.add_argument("--part", type=str, default="1/1", help="K/N: only the K-th of N shares, for a job array")
    parser.add_argument("--report", action="store_true", help="only report on finished tests")
    parser.add_argument("--out", type=str, help="folder of the report; by default beside the records")
    options = parser.read(arguments)
    study, console, start = Study.read(find_config(options.file, STUDY)), Terminal(), time.monotonic()
    part, parts = parse_part(options.part)
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1; got {options.jobs}")
    out = options.out or study.records / "report"
    check_out(out)
    console.print(f"[bold]{escape(study.name)}[/]: {escape(study.title)}")
    write_list(study, study.records)
    if not options.report:
        stages = [Stage(path) for path in study.write()][part - 1 :: parts]
        run_stages(stages, study.records / "logs", options.jobs, console)
        console.print(f"{len(stages)} tests took {(time.monotonic() - start) / 60:.1f} minutes")
    if parts == 1 or options.report:
        folders = [study.records / one.name for one in study.combinations]
        done = [folder for folder in folders if is_finished(folder)]
        for folder in folders:
            if folder.is_dir() and folder not in done:
                console.print(f"left out of the report, not finished: {folder.name}", markup=False)
        build(done, out, study, figures=True)
