"""The folder of predictions: images and tables, which appear when all images are predicted."""

import csv
import io
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from common.checks.settings import check_folder
from common.data.decoding import UnreadableImageError
from common.data.unlabelled import UnlabelledImages
from common.files.errors import naming
from common.files.links import inside
from common.files.locking import LOCK, lock, unlock
from common.files.replacing import UNFINISHED, remove_leftovers, write
from common.files.spreadsheets import as_csv
from common.naming.terminal import Terminal
from common.records.rows import Header
from common.robustness.evaluation.stored_images import to_pil
from common.tasks.unfinished_predictions import STAGING, Row, UnfinishedPredictions

TABLE, SKIPPED, REPLACED = "predictions.csv", "skipped.csv", "replaced.csv"
SHOWN = 5  # skipped files that are named on the screen
PART = ".part-"  # of parts that earlier versions left
NO_COLUMNS = ("index", "stamp")  # of a row, that are not in the table


class PredictionFolder:
    """``path`` with ``predictions.csv``, ``skipped.csv`` and the images saved beside them.

    Each process appends rows and saves images under ``.unfinished``; `finish` moves the images into place and makes the
    tables. Until then earlier results stay as they are, and an interrupted prediction continues. ``header`` identifies
    what the predictions depend on.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = check_folder("--out", path)
        self.unfinished = UnfinishedPredictions(self.path)
        self.header = Header("", {})

    def prepare(self, files: UnlabelledImages | None, targets: list[str]) -> set[int]:
        """Create and lock the folder. Returns the indices of the images that an interrupted run has predicted.

        Raises ``ValueError`` if another process writes to it, if it holds anything but predictions or an interrupted
        run with another ``header``, if links lead out of it, or if it overlaps with the folder of the images.
        """
        path, ours = self.path, (STAGING, LOCK)
        if files is not None:
            self._check_apart(files)
        if path.exists() and not path.is_dir():
            raise ValueError(f"predictions go to a folder, but {path} is a file. Name another one (--out).")
        for target in targets:
            inside(path, target)
            inside(path, self.unfinished.image(target).relative_to(path).as_posix())
        names = {entry.name for entry in path.iterdir()} if path.exists() else set()
        others = {name for name in names if name not in ours and not name.startswith((UNFINISHED, PART))}
        if others and STAGING not in names and TABLE not in names:
            raise ValueError(f"{path} holds other files, which could be overwritten. Name another folder (--out).")
        with naming("make the folder", path):
            path.mkdir(parents=True, exist_ok=True)
        lock(path)
        remove_leftovers(path)
        for left in path.glob(f"{PART}*"):
            left.unlink()
        with naming("make the folder", self.unfinished.path):
            self.unfinished.prepare(self.header)
        done = {row["index"]: row for row in self.unfinished.rows() if self._is_done(row, files, targets)}
        self.unfinished.keep(done.values(), self.header)
        return set(done)

    def append(self, rows: Iterable[Row], rank: int) -> None:
        """Append rows, each with an ``index``, a ``file``, and a ``failure`` if there is no prediction."""
        self.unfinished.append(rows, self.header, rank)

    def count(self) -> int:
        """Number of images that any process has a row of so far."""
        return len({row["index"] for row in self.unfinished.rows()})

    def finish(self, files: UnlabelledImages | None) -> None:
        """Move the images into place, write the tables and print a summary. ``ValueError`` if nothing was predicted."""
        rows = self.unfinished.rows()
        if files is not None:
            rows = [row for row in rows if row["index"] in files.positions]
            rows.sort(key=lambda row: files.positions[row["index"]])
        else:
            rows.sort(key=lambda row: int(row["index"]))
        done = [row for row in rows if "failure" not in row]
        skipped = {row["file"]: row["failure"] for row in rows if "failure" in row}
        if files is not None:
            skipped |= _unread(files, {row["file"] for row in rows})
        staged = self.unfinished.path
        _write(staged / TABLE, [{k: v for k, v in row.items() if k not in NO_COLUMNS} for row in done])
        _write(staged / SKIPPED, [{"file": name, "reason": skipped[name]} for name in sorted(skipped)])
        with naming("move the predictions into", self.path):  # from here on nothing needs space
            self._replace_images([row["purified"] for row in done if "purified" in row])
            for name in (TABLE, SKIPPED):
                if (staged / name).exists():
                    os.replace(staged / name, self.path / name)
                else:
                    (self.path / name).unlink(missing_ok=True)
        self.unfinished.remove()
        unlock(self.path)
        console = Terminal()
        for name in sorted(skipped)[:SHOWN]:
            console.print(f"skipped {name}: {skipped[name]}", markup=False, soft_wrap=True, style="yellow")
        if not done:
            raise ValueError(f"no image could be predicted; {self.path / SKIPPED} lists the reasons")
        left_out = f", {len(skipped)} skipped (all in {SKIPPED})" if skipped else ""
        console.print(
            f"{len(done)} predicted{left_out}; the table is {self.path / TABLE}", markup=False, soft_wrap=True
        )

    def _is_done(self, row: Row, files: UnlabelledImages | None, targets: list[str]) -> bool:
        """True if a row is a prediction of the file as it is now, with its image."""
        if "failure" in row:
            return False
        if files is not None:
            position = files.positions.get(row["index"])
            if position is None or files.names[position] != row["file"] or stamp(files, position) != row["stamp"]:
                return False
            if row.get("purified", targets[position]) != targets[position]:
                return False
        name = row.get("purified")
        return name is None or self.unfinished.image(name).is_file() or self._is_replaced

    @property
    def _is_replaced(self) -> bool:
        """True if an interrupted run had begun to move its images into place."""
        return (self.unfinished.path / REPLACED).exists()

    def _replace_images(self, names: list[str]) -> None:
        """Move the images of this run into place; those that the earlier table lists besides are removed.

        The earlier table goes first, so that no table names images that are not those of its run.
        """
        replaced = self.unfinished.path / REPLACED
        if (self.path / TABLE).exists():
            os.replace(self.path / TABLE, replaced)
        else:
            replaced.touch()
        for name in _listed_images(replaced) - set(names):
            with suppress(ValueError):  # of another table, or behind a link
                inside(self.path, name).unlink(missing_ok=True)
        for name in names:
            image, place = self.unfinished.image(name), inside(self.path, name)
            if image.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(image, place)

    def _check_apart(self, files: UnlabelledImages) -> None:
        written, read = self.path.resolve(), files.root.resolve()
        nested = not files.single and (written in read.parents or read in written.parents)
        if written == read or nested:
            raise ValueError(
                f"predictions must not overlap with the images: {self.path} and {files.root} are the same folder, or "
                "one lies in the other. Name another folder (--out)."
            )


def target_names(names: list[str]) -> list[str]:
    """Distinct relative names of PNG files for images of these names: ``a/b.jpg`` -> ``a/b.png``.

    Where two would be equal, the one that was no ``.png`` file keeps its suffix: ``a/b.jpg.png``.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: not name.endswith(".png")):
        longer = (f"{name}{'.' * dots}.png" for dots in count())
        choices = chain([Path(name).with_suffix(".png").as_posix()], longer)
        chosen[name] = next(choice for choice in choices if choice not in taken)
        taken.add(chosen[name])
    return [chosen[name] for name in names]


def stamp(files: UnlabelledImages, position: int) -> list[int]:
    """Size and time of change of a file: another content has another stamp."""
    with suppress(OSError):
        found = (files.root / files.names[position]).stat()
        return [found.st_size, found.st_mtime_ns]
    return []


def save_png(image: Tensor, path: Path) -> None:
    """Write pixels (C,H,W), clamped to [0,1], as a PNG with 8 bits per channel; C is 1 or 3."""
    encoded = to_pil(image)
    file = io.BytesIO()
    encoded.save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, file.getvalue(), "save the purified image")


def _unread(files: UnlabelledImages, known: set[str]) -> dict[str, str]:
    """The files without a row, by reading them again: name -> reason."""
    reasons: dict[str, str] = {}
    for position, name in enumerate(files.names):
        if name not in known:
            try:
                files.read(position)
                reasons[name] = "it could not be read during the run, but can be read now. Predict it again"
            except UnreadableImageError as error:
                reasons[name] = str(error)
    return reasons


def _listed_images(table: Path) -> set[str]:
    """Names of the purified images that a table lists."""
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        names = {row.get("purified") or "" for row in csv.DictReader(file)}
    return {name for name in names if name.endswith(".png") and ".." not in PurePosixPath(name).parts}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write CSV with the columns of all rows in order of appearance; without rows, remove the file."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        write(
            path, as_csv([columns, *([row.get(column, "") for column in columns] for row in rows)]), "write the table"
        )
    else:
        path.unlink(missing_ok=True)
