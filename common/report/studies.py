"""Studies by the folders of their records: each one's runs in its own order."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from common.experiments.study import Study
from common.experiments.study_list import read_list
from common.naming.outside_text import plain
from common.records.record_files import holds_records
from common.report.figures.drawing import Figure
from common.report.figures.study_curves import curve_figures
from common.report.figures.study_figures import study_figures
from common.report.runs import Run, read_runs
from common.report.tables.study_table import Outcome, outcomes, run_outcomes


@dataclass(frozen=True)
class RecordedStudy:
    """The runs of a ``study``, which ``load`` reads on first use; ``name`` is that of their folder.

    The title and the combinations of the study are empty where they are not known, as for runs of no study.
    """

    name: str
    study: Study
    load: Callable[[], list[Run]]

    @classmethod
    def of_runs(cls, runs: Sequence[Run], study: Study | None = None) -> "RecordedStudy":
        """Runs that were read before."""
        return cls("", study or Study("", "", Path(), []), lambda: list(runs))

    @property
    def title(self) -> str:
        """Title of the study, else the name of its folder."""
        return " ".join(plain(self.study.title).split()) or self.name

    @cached_property
    def runs(self) -> list[Run]:
        """The runs: combinations in the order of the study, with their titles for names, then others by name."""
        titles = {one.name: one.title for one in self.study.combinations if one.title}
        runs = self.load()
        named = [replace(run, name=plain(titles.get(run.name, run.name))) for run in runs]
        for name, times in Counter(run.name for run in named).items():
            if times > 1:
                folders = [one.name for one, shown in zip(runs, named, strict=True) if shown.name == name]
                raise ValueError(
                    f"the runs of {self.name or 'a study'} must have names of their own; {' and '.join(folders)} are "
                    f"both {name}. Remove one of the folders"
                )
        return named

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Scores of every combination; of every run where the combinations are not known."""
        return outcomes(self.study, self.runs) if self.study.combinations else run_outcomes(self.runs)

    @cached_property
    def figures(self) -> list[Figure]:
        """Figures of the scores against the settings, and of the study's curves below them."""
        if not self.study.combinations:
            return []
        return [*study_figures(self.study, self.outcomes), *curve_figures(self.study, self.outcomes)]


def read_studies(folder: str | Path) -> list[RecordedStudy]:
    """The study in a folder of runs, or the studies in a folder of such folders, by name; none in any other folder."""
    return [_recorded(path) for path in study_folders(Path(folder))]


def study_folders(folder: Path) -> list[Path]:
    """``folder`` itself if folders in it hold records, else those of its folders of which that is true."""
    if not folder.is_dir() or holds_records(folder):
        return []
    return [folder] if run_folders(folder) else [path for path in sorted(folder.iterdir()) if run_folders(path)]


def run_folders(folder: Path) -> list[Path]:
    """Folders of runs in the folder of a study, by name; none in any other folder."""
    is_run = not folder.is_dir() or holds_records(folder)
    return [] if is_run else [path for path in sorted(folder.iterdir()) if holds_records(path)]


def _recorded(folder: Path) -> RecordedStudy:
    study, found = read_list(folder), {path.name: path for path in run_folders(folder)}
    listed = [one.name for one in study.combinations if one.name in found]
    paths = [found[name] for name in dict.fromkeys([*listed, *found])]
    return RecordedStudy(plain(folder.resolve().name), study, partial(read_runs, paths))
