"""Lightning's ``metrics.csv``, of which a full disk, a kill or another start loses nothing."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from common.files.appending import append
from common.files.replacing import remove_leftovers, replacing

SAVE = "save the metrics"


class MetricsFile(CSVLogger):
    """``CSVLogger`` whose file is appended to, or replaced as a whole where a new metric needs another first line.

    The file of an earlier start in the same folder is kept as ``metrics-1.csv``, ``metrics-2.csv``, ….
    """

    @classmethod
    def in_place_of(cls, logger: Any) -> Any:
        """A logger of this class for one of Lightning's that writes to a local folder; any other as it is."""
        if type(logger) is not CSVLogger or "://" in logger.save_dir:
            return logger
        every = logger._flush_logs_every_n_steps
        return cls(logger.save_dir, logger.name, logger._version, logger._prefix, every)

    @property
    def experiment(self) -> Any:
        """The writer of the file."""
        if self._experiment is None:
            os.makedirs(self.root_dir, exist_ok=True)
            self._experiment = _Writer(self.log_dir)
        return self._experiment


class _Writer(ExperimentWriter):
    """Writer of a folder's metrics; those that could not be written are kept for the next attempt."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        remove_leftovers(file.parent)
        if file.exists():
            kept = (file.with_name(f"{file.stem}-{number}{file.suffix}") for number in count(1))
            file.rename(next(place for place in kept if not place.exists()))

    def save(self) -> None:
        """Write the metrics since the last call. Raises `FileError`; the file is then as it was."""
        rows, file = self.metrics, Path(self.metrics_file_path)
        if not rows:
            return
        keys = sorted({*self.metrics_keys, *(key for row in rows for key in row)})
        if keys == self.metrics_keys and file.is_file():
            append(file, _csv(keys, rows), SAVE)
        else:
            earlier = _read(file) if file.is_file() else []
            with replacing(file, SAVE) as unfinished:
                unfinished.write_bytes(_csv(keys, [*earlier, *rows], first=True))
        self.metrics, self.metrics_keys = [], keys


def _read(file: Path) -> list[dict[str, Any]]:
    with file.open(newline="", encoding="utf-8") as content:
        return list(csv.DictReader(content))


def _csv(keys: Sequence[str], rows: Iterable[Mapping[str, Any]], first: bool = False) -> bytes:
    """Lines of ``keys``, and a ``first`` one with their names if asked for."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=keys)
    if first:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
