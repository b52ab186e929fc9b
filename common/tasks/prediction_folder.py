"""The folder that predictions are written to, by several processes at once: pictures, and a table in the end."""

import csv
import json
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from common.data.decoding import UnreadableImageError
from common.data.unlabelled import UnlabelledImages

TABLE, SKIPPED, PART = "predictions.csv", "skipped.csv", ".part-*.jsonl"
SHOWN = 5  # skipped pictures that are named on the screen


class ResultFolder:
    """``path`` with ``predictions.csv``, ``skipped.csv`` and whatever pictures are saved beside them.

    Each process appends rows to a part file of its own; `finish` makes the tables of them.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def prepare(self, pictures: UnlabelledImages | None) -> None:
        """Make the folder ready: nothing of the user's is in it, nor what an interrupted run left of its tables.

        Raises ``ValueError`` if it holds other things than results, or has to do with the folder of the pictures.
        """
        path, parts = self.path, list(self.path.glob(PART))
        if pictures is not None:
            self._keep_apart(pictures)
        if path.exists() and not path.is_dir():
            raise ValueError(f"predictions go to a folder, but {path} is a file. Name another one (--out).")
        if path.exists() and not parts and not (path / TABLE).exists() and any(path.iterdir()):
            raise ValueError(f"{path} holds other things, which could be overwritten. Name another folder (--out).")
        path.mkdir(parents=True, exist_ok=True)
        for part in parts:
            part.unlink()
        self._part(0).touch()  # from now on the folder is known as one of ours

    def append(self, rows: Iterable[dict[str, Any]], rank: int) -> None:
        """Add rows: each has an ``index`` and a ``file``, and a ``failure`` if it is no result."""
        with self._part(rank).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def finish(self, pictures: UnlabelledImages | None) -> None:
        """The tables, and a summary on the screen. Raises ``ValueError`` if there is not one result."""
        parts = sorted(self.path.glob(PART))
        rows = [json.loads(line) for part in parts for line in part.read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: int(row.pop("index")))
        done = [row for row in rows if "failure" not in row]
        skipped = {row["file"]: row["failure"] for row in rows if "failure" in row}
        if pictures is not None:
            skipped |= _unreadable(pictures, {row["file"] for row in rows})
        _write(self.path / TABLE, done)
        _write(self.path / SKIPPED, [{"file": name, "reason": skipped[name]} for name in sorted(skipped)])
        for part in parts:
            part.unlink()
        console = Console()
        for name in sorted(skipped)[:SHOWN]:
            console.print(f"skipped {name}: {skipped[name]}", markup=False, soft_wrap=True, style="yellow")
        if not done:
            raise ValueError(f"not one picture could be predicted; {self.path / SKIPPED} says why")
        left_out = f", {len(skipped)} skipped (all in {SKIPPED})" if skipped else ""
        console.print(
            f"{len(done)} predicted{left_out}; the table is {self.path / TABLE}", markup=False, soft_wrap=True
        )

    def _part(self, rank: int) -> Path:
        return self.path / PART.replace("*", f"{rank:05d}")

    def _keep_apart(self, pictures: UnlabelledImages) -> None:
        written, read = self.path.resolve(), pictures.root.resolve()
        nested = not pictures.single and (written in read.parents or read in written.parents)
        if written == read or nested:
            raise ValueError(
                f"results must not go to {self.path}: it holds, or lies in, the folder of the pictures, "
                f"{pictures.root}, of which nothing is ever overwritten. Name another folder (--out)."
            )


def target_names(names: list[str]) -> list[str]:
    """The relative names of PNG files for pictures of these names, all different: ``a/b.jpg`` -> ``a/b.png``.

    Where two would be alike, the one that was no ``.png`` file keeps its suffix: ``a/b.jpg.png``.
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
    """Pixels (C,H,W), clamped to [0,1], as a PNG with 8 bits per channel; C is 1 or 3."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"a picture is (C,H,W) with 1 or 3 channels; got shape {tuple(image.shape)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).save(path, "PNG")


def _unreadable(pictures: UnlabelledImages, known: set[str]) -> dict[str, str]:
    """Why the pictures that left no row could not be read: they are asked once more."""
    reasons: dict[str, str] = {}
    for position, name in enumerate(pictures.names):
        if name not in known:
            try:
                pictures.read(position)
                reasons[name] = "it could not be read when its turn came, but can be now: predict it again"
            except UnreadableImageError as error:
                reasons[name] = str(error)
    return reasons


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """CSV with the columns of all rows in the order of their first appearance; without rows there is no file."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path.unlink(missing_ok=True)
    if rows:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
