"""Archives of studies: their runs' records in compressed files, to be published beside a page."""

from collections.abc import Sequence
from pathlib import Path

from common.experiments.study_list import LIST, read_list, write_list
from common.records.archiving import archive
from common.records.record_files import holds_records
from common.report.studies import run_folders, study_folders


def keep(paths: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Archive runs, studies and folders of studies in ``folder``, and return the files of records.

    A study goes to ``folder/STUDY``, with the list of its runs, and a run to ``folder/RUN``. Raises ``ValueError`` for
    a path without records, and as `archive`.
    """
    files = list[Path]()
    for path in map(Path, paths):
        studies = study_folders(path)
        if not studies and not holds_records(path):
            raise ValueError(f"no records in {path}. Name the folder of a run, of a study, or of several studies.")
        for study in studies:
            files += _keep_study(study, Path(folder) / study.resolve().name)
        if not studies:
            files += archive(path, Path(folder) / path.resolve().name)
    return files


def _keep_study(study: Path, folder: Path) -> list[Path]:
    files = [file for run in run_folders(study) for file in archive(run, folder / run.name)]
    known = read_list(study)
    if known.combinations or (known.title and not (folder / LIST).is_file()):
        write_list(known, folder)
    return files
