"""Curves over a varied setting that a study has beside its scores, such as those of a theory: a CSV file."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.experiments.yaml_files import read_text
from common.files.replacing import write

DIGITS = 4  # significant ones of a number in the file
WANTED = 'must have a first row NAME,"PANEL: LINE",… and rows of numbers below it, the first of each ascending'


@dataclass(frozen=True)
class Curves:
    """Quantities over the setting ``axis``: ``panels[label][line]`` has a number, or None, for each of ``places``.

    ``places`` ascend. A panel's label is that of its vertical axis, with the unit, and has no ": ". Raises
    ``ValueError`` for anything else.
    """

    axis: str
    places: Sequence[float]
    panels: Mapping[str, Mapping[str, Sequence[float | None]]]

    def __post_init__(self) -> None:
        lines = [line for panel in self.panels.values() for line in panel.values()]
        known = [*self.places, *(number for line in lines for number in line if number is not None)]
        numbers = all_numbers(known) and all(map(math.isfinite, known))
        if not numbers or not self.places or list(self.places) != sorted(set(self.places)):
            raise ValueError(f"curves must be finite numbers at ascending places; got the places {self.places!r}")
        if not lines or any(len(line) != len(self.places) for line in lines) or any(": " in one for one in self.panels):
            raise ValueError(f"curves must have panels with a number or None for each of {len(self.places)} places")

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """Read a file of `write`. Raises ``ValueError`` for another one."""
        try:
            (axis, *titles), *rows = csv.reader(io.StringIO(read_text(path)))
            panels: dict[str, dict[str, Sequence[float | None]]] = {}
            for k, title in enumerate(titles, 1):
                label, line = title.split(": ", 1)
                panels.setdefault(label, {})[line] = [float(row[k]) if row[k] else None for row in rows]
            return cls(axis, [float(row[0]) for row in rows], panels)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path} {WANTED} ({error})") from error

    def write(self, path: str | Path) -> None:
        """Write the file: a column for each line, headed ``PANEL: LINE``; None is an empty cell."""
        columns = {f"{label}: {line}": values for label, panel in self.panels.items() for line, values in panel.items()}
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        table.writerow([self.axis, *columns])
        for row in zip(self.places, *columns.values(), strict=True):
            table.writerow(["" if value is None else f"{value:.{DIGITS}g}" for value in row])
        write(Path(path), file.getvalue(), "write the curves")

    def check_axis(self, name: str, values: Sequence[Any]) -> None:
        """Raise ``ValueError`` unless a study varies the curves' axis first; ``name`` is empty if it varies nothing."""
        if name != self.axis or not all_numbers(values):
            varied = f"{name} = {', '.join(map(str, values))} first" if name else "nothing"
            raise ValueError(f"the curves are over {self.axis!r}, a number; the study varies {varied}")


def all_numbers(values: Sequence[Any]) -> bool:
    """True if all values are numbers, which can be positions on an axis."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
