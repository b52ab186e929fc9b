"""``report DIR … [--out PATH] [--figures]``: one HTML page from the records of tests."""

from collections.abc import Sequence

from common.commands.parsing import Arguments
from common.report.build import build


def run(arguments: Sequence[str]) -> None:
    """Build the report of some records directories."""
    parser = Arguments("report", "Write one page from test records.")
    parser.add_argument("records", nargs="+", help="records directories, one per defence, in the order of the tables")
    parser.add_argument("--out", default="runs/report", help="folder of the report, or a .html file")
    parser.add_argument("--figures", action="store_true", help="also write every figure as PNG and SVG")
    options = parser.read(arguments)
    build(options.records, options.out, figures=options.figures)
