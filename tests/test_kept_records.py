"""Kept records: every table and figure of a page is what they give, and they are small, complete and without images."""

from pathlib import Path

from common.records.reading import read_table
from common.report.into import write_into
from common.report.markers import OPENING, without_code
from common.report.studies import read_studies

CONFIGS = Path(__file__).parent.parent / "configs"
LARGEST = 10e6  # bytes of all kept records
RECORDS = sorted(path for path in CONFIGS.rglob("records") if path.is_dir())
PAGES = sorted(path for path in CONFIGS.rglob("*.md") if OPENING.search(without_code(path.read_text(encoding="utf-8"))))


def test_pages_hold_what_the_records_give() -> None:
    assert {path.parent for path in RECORDS} == {page.parent for page in PAGES}
    differing = [path for page in PAGES for path in write_into(page, read_studies(page.parent / "records"), check=True)]
    command = "robust-diffusion report FOLDER/records --into FOLDER/PAGE"
    assert not differing, f"write them anew: {command}"


def test_no_figure_is_left_over() -> None:
    for folder in {page.parent for page in PAGES}:
        shown = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent == folder)
        for figure in (folder / "figures").glob("*"):
            assert f"figures/{figure.name}" in shown, figure


def test_kept_records_are_archives_of_at_most_ten_megabytes() -> None:
    files = [path for folder in RECORDS for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {"records.jsonl.gz", "study.json"}
    assert sum(path.stat().st_size for path in files) <= LARGEST
    for path in files:
        if path.suffix == ".gz":
            table = read_table(path)[1]
            assert not any(any(rows.array("images")) for rows in table.parts if "images" in rows.columns), path
