"""Report of some runs: one HTML page, spreadsheets and figures, from records alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.checks.settings import is_file_name
from common.experiments.study import Study
from common.files.replacing import remove_leftovers, write_all
from common.files.trial import try_file
from common.report.contents import BY_NUMBER, PAGE, Contents, Options, contents
from common.report.ending import print_ending
from common.report.headline import headline
from common.report.own_files import check_own, list_own
from common.report.page.index import index
from common.report.pairing import Pairing
from common.report.runs import read_runs
from common.report.studies import RecordedStudy, read_studies, study_folders


def build(
    paths: Sequence[str | Path],
    out: str | Path = Path("runs/report"),
    study: Study | None = None,
    figures: bool = False,
    quiet: bool = False,
    pairing: Pairing = BY_NUMBER,
) -> Path:
    """Write ``report.html``, ``report.md``, ``report.csv`` and tables of comparisons; print the headline and the path.

    Args:
        paths: records directories, or folders that hold some; one defence each, in this order.
        out: folder for everything, or the page itself if it ends in ``.html``; tables get its name and go beside it.
        study: the runs are its combinations; its table and figures then come first.
        figures: also write every figure of the page as PNG and SVG. A page of more than 12 runs has figures, and images
            of other runs than the first, only then.
        quiet: print nothing.
        pairing: the runs that are compared.

    One folder of studies, each a folder of runs, gets a page ``STUDY.html`` of each with its tables as Markdown
    and its figures as SVG, and a page of their headlines. A run beside studies is a study of its own.

    Returns the path of the page. Raises ``ValueError`` when a path holds no records, when runs would be left out
    (`study_folders`), or when ``out`` cannot be written.
    """
    target, options = check_out(out), Options(figures, pairing=pairing)
    found = read_studies(paths[0]) if study is None and len(paths) == 1 and not isinstance(paths, str) else []
    if found and study_folders(Path(paths[0])) != [Path(paths[0])]:
        return _build_studies(found, target, replace(options, vectors=True), quiet)
    read = found[0] if found else RecordedStudy.of_runs(read_runs(paths), study)
    _write(target, contents(read, target, options))
    if not quiet:
        print_ending(headline(read.runs), f"All tables: {target.resolve()}")
    return target


def _build_studies(studies: Sequence[RecordedStudy], target: Path, options: Options, quiet: bool) -> Path:
    """A page of each study, and one with their headlines."""
    pages = {one.name: target.with_name(f"{one.name}.html") for one in studies}
    if target.name in {path.name for path in pages.values()}:
        raise ValueError(f"{target.name} would be the page of a study and of all of them. Name another page (--out)")
    for one in studies:
        _write(pages[one.name], contents(one, pages[one.name], options))
        if not quiet:
            print_ending(headline(one.runs), f"{one.title}: {pages[one.name].resolve()}")
    _write(target, {target: index(studies)})
    if not quiet:
        print_ending(None, f"All studies: {target.resolve()}")
    return target


def _write(target: Path, made: Contents) -> None:
    """Write the files of a report over its own earlier ones."""
    check_own(target, made)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        list_own(target, made)
        write_all(made, "write the report")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error


def check_out(out: str | Path) -> Path:
    """Path of the page in ``out``. Raises ``ValueError`` for a file of another kind, and if it cannot be written."""
    path = Path(out)
    if path.suffix != ".html" and is_file_name(path):
        raise ValueError(
            f"a report is a folder, or a page that ends in .html; got {path}. Write {path.with_suffix('.html')}"
        )
    target = path if path.suffix == ".html" else path / f"{PAGE}.html"
    try:
        try_file(target, "write the report")
    except OSError as error:
        raise ValueError(f"cannot write the report to {target.parent} ({error}). Name another folder.") from error
    return target
