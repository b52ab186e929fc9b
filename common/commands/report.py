"""``report DIR … [--out PATH] [--figures] [--reference RUN]``: one HTML page from the records of tests."""

from collections.abc import Sequence

from common.commands.parsing import Arguments
from common.report.build import build
from common.report.pairing import Pairing


def run(arguments: Sequence[str]) -> None:
    """Build the report of some records directories."""
    parser = Arguments("report", "Write one page from test records.")
    parser.add_argument("records", nargs="+", help="records directories, one per defence, in the order of the tables")
    parser.add_argument("--out", default="runs/report", help="folder of the report, or a .html file")
    figures = "also write every figure as PNG and SVG; a page of more than 12 runs has figures only then"
    parser.add_argument("--figures", action="store_true", help=figures)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--reference", help="run that all others are compared with; of more than 6 runs the first")
    chosen.add_argument("--pairs", choices=["all"], help="compare every two runs; so it is for at most 6")
    options = parser.read(arguments)
    pairing = Pairing(options.reference, options.pairs == "all")
    build(options.records, options.out, figures=options.figures, pairing=pairing)
