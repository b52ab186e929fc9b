"""``report DIR … [--out PATH]``: tables, figures and one HTML page from the records of tests."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from common.report.build import build


def run(arguments: Sequence[str]) -> None:
    """Build the report of some records directories."""
    parser = ArgumentParser(prog="robust-diffusion report", description="Tables, figures and a page from test records.")
    parser.add_argument("records", nargs="+", help="records directories, one per defence, in the order of the tables")
    parser.add_argument("--out", default="runs/report", help="folder of the report, or a .html file")
    options = parser.parse_args(list(arguments))
    Console().print(f"The report is {build(options.records, options.out).resolve()}")
