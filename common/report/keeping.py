"""Archives of studies: their runs' records in compressed files, to be published beside a page."""

from collections.abc import Sequence
from pathlib import Path

from common.experiments.study_list import LIST, read_list, write_list
from common.records.archiving import archive
from common.records.record_files import holds_records, run_folders
from common.report.studies import study_folders


def keep(paths: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Archive runs, studies and folders of studies in ``folder``, and return the files of records.

    A study goes to ``folder/STUDY``, with the list of its runs, and a run to ``folder/RUN``. Raises ``ValueError`` for
    a path without records, and as `study_folders` and `archive`.
    """
    found = list[Path]()
    for path in map(Path, paths):
        parts = study_folders(path) or ([path] if holds_records(path) else [])
        if not parts:
            raise ValueError(f"no records in {path}. Name the folder of a run, of a study, or of several studies.")
        found += parts
    return [file for part in found for file in _keep(part, Path(folder) / part.resolve().name)]


def _keep(study: Path, folder: Path) -> list[Path]:
    """Archive a study, or a run."""
    runs = {run: folder if run == study else folder / run.name for run in run_folders(study)}
    files = [file for run, target in runs.items() for file in archive(run, target)]
    known = read_list(study)
    if known.combinations or (known.title and not (folder / LIST).is_file()):
        write_list(known, folder)
    return files
