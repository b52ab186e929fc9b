"""The folder of predictions, written by several processes: images, and in the end a table."""

import io
import json
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from common.data.decoding import UnreadableImageError
from common.data.unlabelled import UnlabelledImages
from common.files.replacing import write
from common.files.spreadsheets import as_csv
from common.robustness.evaluation.stored_images import to_pil

TABLE, SKIPPED, PART = "predictions.csv", "skipped.csv", ".part-*.jsonl"
SHOWN = 5  # skipped files that are named on the screen


class PredictionFolder:
    """``path`` with ``predictions.csv``, ``skipped.csv`` and the images saved beside them.

    Each process appends rows to its own part file; `finish` makes the tables from them.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def prepare(self, files: UnlabelledImages | None) -> None:
        """Create the folder, and remove the part files of an interrupted run.

        Raises ``ValueError`` if it holds anything but predictions, or overlaps with the folder of the images.
        """
        path, parts = self.path, list(self.path.glob(PART))
        if files is not None:
            self._check_apart(files)
        if path.exists() and not path.is_dir():
            raise ValueError(f"predictions go to a folder, but {path} is a file. Name another one (--out).")
        if path.exists() and not parts and not (path / TABLE).exists() and any(path.iterdir()):
            raise ValueError(f"{path} holds other files, which could be overwritten. Name another folder (--out).")
        path.mkdir(parents=True, exist_ok=True)
        for part in parts:
            part.unlink()
        self._part(0).touch()  # marks the folder as one of predictions

    def append(self, rows: Iterable[dict[str, Any]], rank: int) -> None:
        """Append rows, each with an ``index``, a ``file``, and a ``failure`` if there is no prediction."""
        with self._part(rank).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def count(self) -> int:
        """Number of images that any process has a row of so far."""
        return sum(part.read_bytes().count(b"\n") for part in self.path.glob(PART))

    def finish(self, files: UnlabelledImages | None) -> None:
        """Write the tables and print a summary. Raises ``ValueError`` if there is no prediction."""
        parts = sorted(self.path.glob(PART))
        rows = [json.loads(line) for part in parts for line in part.read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: int(row.pop("index")))
        done = [row for row in rows if "failure" not in row]
        skipped = {row["file"]: row["failure"] for row in rows if "failure" in row}
        if files is not None:
            skipped |= _unread(files, {row["file"] for row in rows})
        _write(self.path / TABLE, done)
        _write(self.path / SKIPPED, [{"file": name, "reason": skipped[name]} for name in sorted(skipped)])
        for part in parts:
            part.unlink()
        console = Console()
        for name in sorted(skipped)[:SHOWN]:
            console.print(f"skipped {name}: {skipped[name]}", markup=False, soft_wrap=True, style="yellow")
        if not done:
            raise ValueError(f"no image could be predicted; {self.path / SKIPPED} lists the reasons")
        left_out = f", {len(skipped)} skipped (all in {SKIPPED})" if skipped else ""
        console.print(
            f"{len(done)} predicted{left_out}; the table is {self.path / TABLE}", markup=False, soft_wrap=True
        )

    def _part(self, rank: int) -> Path:
        return self.path / PART.replace("*", f"{rank:05d}")

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


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write CSV with the columns of all rows in order of appearance; without rows, remove the file."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        write(
            path, as_csv([columns, *([row.get(column, "") for column in columns] for row in rows)]), "write the table"
        )
    else:
        path.unlink(missing_ok=True)
