"""The commands beside Lightning's own: ``report``, ``fetch``, ``convert``, ``tour`` and ``study``.

Each takes the words behind its name.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from common.commands import conversion
from common.experiments.stages import Stage, run_stages
from common.experiments.study import Study
from common.hub import published
from common.report.build import build

CLI = Path(__file__).parent.parent / "cli.py"


def report(words: Sequence[str]) -> None:
    """``report DIR … [--out PATH]``: tables, figures and one HTML page from the records of test runs."""
    parser = ArgumentParser(prog="robust-diffusion report", description="Tables, figures and a page from test records.")
    parser.add_argument("records", nargs="+", help="records directories, one defence each, in the order of the tables")
    parser.add_argument("--out", default="runs/report", help="folder for everything, or a .html file")
    options = parser.parse_args(list(words))
    Console().print(f"The report is {build(options.records, options.out).resolve()}")


def fetch(words: Sequence[str]) -> None:
    """``fetch NAME …``: published weights into the cache, continued and verified; alone it lists what there is."""
    parser = ArgumentParser(
        prog="robust-diffusion fetch",
        description="Published weights into the cache (ROBUST_DIFFUSION_CACHE says where): downloaded with a progress "
        "bar unless they are there, continued after an interruption, verified. Without a name: what there is.",
    )
    names = parser.add_argument("names", nargs="*", default=[], metavar="NAME", help="of a card; none lists them all")
    names.required = False
    parser.add_argument("--force", action="store_true", help="fetch again what is there, and trust what comes")
    options = parser.parse_args(list(words))
    console = Console()
    for name in options.names:
        published.card(name)  # before the first of them is fetched
    for name in options.names:
        path = published.fetch(name, force=options.force)
        console.print(f"{name} is {path}", markup=False, soft_wrap=True, highlight=False)
    for name in () if options.names else published.CARDS:
        console.print(f"[bold]{name}[/]: {_on_card(name)}", soft_wrap=True, highlight=False)


def _on_card(name: str) -> str:
    """What a card says, and whether its file is here."""
    card, path, (size, stated) = published.card(name), published.place(name), published.file_size(name)
    known = "stated" if card.sha256 else "not stated, the first file is trusted"
    part, here = published.unfinished(path), f"not here yet: {path}"
    if path.exists():
        right = not stated or path.stat().st_size == size
        here = f"[green]fetched[/]: {path}" if right else f"[red]another file[/]: {path}"
    elif part.exists():
        here = f"{part.stat().st_size / size:.0%} fetched: {part}"
    about = "" if stated else "about "
    return f"{card.use}\n  {about}{size / 1e9:.2f} GB; sha256 {known}; licence {card.licence}\n  {here}"


def convert(words: Sequence[str]) -> None:
    """``convert IN OUT --format F``: a published checkpoint as a file of ours, which later needs only its path."""
    formats, given = ", ".join(conversion.PUBLISHED), "a YAML or JSON file, JSON itself, or a card's name"
    parser = ArgumentParser(prog="robust-diffusion convert", description=conversion.__doc__)
    parser.add_argument("source", metavar="IN", help="the published file")
    parser.add_argument("target", metavar="OUT", help="the file to write, .safetensors")
    parser.add_argument("--format", required=True, help=f"whose layout IN has: {formats}")
    parser.add_argument("--config", type=str, help=f"the publishers' options: {given}")
    parser.add_argument("--kind", type=str, help="denoiser, classifier or network; else the format's usual one")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is there")
    options = parser.parse_args(list(words))
    config = conversion.read_options(options.config)
    path = conversion.convert(options.source, options.target, options.format, config, options.kind, options.force)
    Console().print(f"{path} is written; it loads without a format or a config", markup=False, soft_wrap=True)


def tour(words: Sequence[str]) -> None:
    """``tour``: the stages in configs/tour, then their report. What was finished before is not done again."""
    parser = ArgumentParser(
        prog="robust-diffusion tour",
        description="The whole story on real digits, in minutes on two cores: train, attack, certify, report. "
        "What was finished before is not done again; delete runs/tour to start over.",
    )
    parser.add_argument("--configs", default=str(CLI.parent / "configs" / "tour"), help="the stages' folder")
    parser.add_argument("--out", default="runs/tour/report", help="where the report goes")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="stages that run side by side")
    options = parser.parse_args(list(words))
    stages = [Stage(path) for path in sorted(Path(options.configs).glob("*.yaml"))]
    if not stages or options.jobs < 1:
        raise ValueError(f"the tour needs --jobs >= 1 and the configs of a clone; found none in {options.configs}")
    console, start = Console(), time.monotonic()
    todo = [stage for stage in stages if stage.export is None or not stage.export.exists()]
    for stage in stages:
        console.print(f"[bold]{stage.name}[/]{'' if stage in todo else ' (done before)'}: {stage.purpose}")
    run_stages(todo, CLI, Path(options.out).parent / "logs", options.jobs, console)
    page = build([stage.records for stage in stages if stage.records is not None], options.out)
    console.print(f"The tour took {(time.monotonic() - start) / 60:.1f} minutes. Open {page.resolve()}")


def study(words: Sequence[str]) -> None:
    """``study FILE``: one test for every combination of settings in FILE, then a report with a table and figures."""
    parser = ArgumentParser(
        prog="robust-diffusion study",
        description="Tests one config with every combination of settings that a study file names, several side by "
        "side, and reports each score against what was varied. What was finished before is not done again.",
    )
    parser.add_argument("file", help="a study, see configs/studies/*.study.yaml")
    parser.add_argument("--jobs", type=int, default=1, help="tests that run side by side")
    parser.add_argument("--part", type=str, default="1/1", help="K/N: only the K-th of N shares, for a job array")
    parser.add_argument("--report", action="store_true", help="only report on what was run")
    parser.add_argument("--out", type=str, help="where the report goes; else beside the records")
    options = parser.parse_args(list(words))
    found, console, start = Study.read(options.file), Console(), time.monotonic()
    first, shares = part(options.part)
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1; got {options.jobs}")
    console.print(f"[bold]{found.name}[/]: {found.purpose}")
    if not options.report:
        stages = [Stage(path) for path in found.write()][first - 1 :: shares]
        run_stages(stages, CLI, found.records / "logs", options.jobs, console)
        console.print(f"{len(stages)} tests took {(time.monotonic() - start) / 60:.1f} minutes")
    places = [found.records / one.name for one in found.combinations if (found.records / one.name).is_dir()]
    if shares == 1 or options.report:
        console.print(f"The report is {build(places, options.out or found.records / 'report', found).resolve()}")


def part(text: str) -> tuple[int, int]:
    """``"2/8"`` -> (2, 8)."""
    words = text.split("/")
    if len(words) != 2 or not all(word.isdigit() for word in words) or not 1 <= int(words[0]) <= int(words[1]):
        raise ValueError(f"--part must be K/N with 1 <= K <= N, such as 2/8; got {text}")
    return int(words[0]), int(words[1])


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "report": report,
    "fetch": fetch,
    "convert": convert,
    "tour": tour,
    "study": study,
}
