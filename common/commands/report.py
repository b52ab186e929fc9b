"""``report DIR …``: a page from the records of tests, tables in a page of Markdown, or an archive of the records."""

from collections.abc import Sequence
from pathlib import Path

from common.commands.errors import UsageError
from common.commands.parsing import Arguments
from common.report.build import build
from common.report.into import write_into
from common.report.keeping import keep
from common.report.pairing import Pairing
from common.report.studies import read_studies


def run(arguments: Sequence[str]) -> None:
    """Build the report of some records directories, or do what ``--into`` or ``--keep`` ask for instead."""
    parser = Arguments("report", "Write one page from test records.")
    records = "records directories, one per defence, in the order of tables; or one folder of a study, or of studies"
    parser.add_argument("records", nargs="+", help=records)
    parser.add_argument("--out", default="runs/report", help="folder of the report, or a .html file")
    figures = "also write every figure as PNG and SVG; a page of more than 12 runs has figures only then"
    parser.add_argument("--figures", action="store_true", help=figures)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--reference", help="run that all others are compared with; of more than 6 runs the first")
    chosen.add_argument("--pairs", choices=["all"], help="compare every two runs; so it is for at most 6")
    into = "write no report, but the tables and figures between the markers of this page of Markdown"
    parser.add_argument("--into", metavar="PAGE", help=into)
    parser.add_argument("--check", action="store_true", help="with --into: write nothing, fail if anything differs")
    kept = "write no report, but the records of all runs to this folder, compressed and without images"
    parser.add_argument("--keep", metavar="FOLDER", help=kept)
    options = parser.read(arguments)
    if options.check and options.into is None:
        raise UsageError("--check needs --into PAGE, whose tables are checked")
    if options.keep is not None:
        files = keep(options.records, options.keep)
        size = sum(file.stat().st_size for file in files) / 1e6
        print(f"{len(files)} files of records, {size:.2f} MB: {options.keep}")
    if options.into is not None:
        _write_into(Path(options.into), options.records, options.check)
    if options.keep is None and options.into is None:
        pairing = Pairing(options.reference, options.pairs == "all")
        build(options.records, options.out, figures=options.figures, pairing=pairing)


def _write_into(page: Path, records: Sequence[str], check: bool) -> None:
    found = {folder: read_studies(folder) for folder in records}
    if without := [folder for folder, studies in found.items() if not studies]:
        raise UsageError(f"no study in {', '.join(without)}. Name folders whose folders hold the records of runs.")
    studies = [study for one in found.values() for study in one]
    changed = ", ".join(map(str, write_into(page, studies, check)))
    if check and changed:
        remedy = f"robust-diffusion report {' '.join(records)} --into {page}"
        raise UsageError(f"{changed} is not what the records give. Write it: {remedy}")
    print(f"written: {changed}" if changed else f"{page} is what the records give")
