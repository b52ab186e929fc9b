"""The commands beside Lightning's own: ``report``, ``fetch``, ``convert`` and ``tour``.

Each takes the words behind its name.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console

from common import conversion, weights
from common.report import build
from common.tour import Stage, run_stages

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
        weights.card(name)  # before the first of them is fetched
    for name in options.names:
        path = weights.fetch(name, force=options.force)
        console.print(f"{name} is {path}", markup=False, soft_wrap=True, highlight=False)
    for name in () if options.names else weights.CARDS:
        console.print(f"[bold]{name}[/]: {_on_card(name)}", soft_wrap=True, highlight=False)


def _on_card(name: str) -> str:
    """What a card says, and whether its file is here."""
    card, path, (size, stated) = weights.card(name), weights.place(name), weights.file_size(name)
    known = "stated" if card.sha256 else "not stated, the first file is trusted"
    part, here = weights.unfinished(path), f"not here yet: {path}"
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


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "report": report,
    "fetch": fetch,
    "convert": convert,
    "tour": tour,
}
