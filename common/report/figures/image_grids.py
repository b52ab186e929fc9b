"""Images side by side: clean, adversarial, the perturbation magnified, and what the defence made of it."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.records.store import Record
from common.report.figures.drawing import Style, new_figure
from common.report.header import budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERTURBATION = "perturbation"
COARSE = 64  # pictures up to this width are shown with their pixels


@dataclass(frozen=True)
class Grid:
    """``views`` are rows of pictures by name, ``records`` the columns; the perturbation is shown times ``factor``."""

    records: list[Record]
    views: list[str]
    factor: float

    def title(self, view: str) -> str:
        """``"perturbation × 15.9"``; other pictures are called by their name."""
        return f"{view} × {self.factor:.3g}" if view == PERTURBATION else view

    def picture(self, record: Record, view: str) -> str | None:
        """PNG in base64, None where the record has none."""
        images: dict[str, str] = record.values["images"]
        if view != PERTURBATION:
            return images.get(view)
        change = _change(record)
        return None if change is None else _encoded(0.5 + self.factor * change)

    def below(self, record: Record, view: str) -> tuple[str, bool | None]:
        """What stands under a picture, and whether it was read right: prediction and label, or the distance."""
        if view == PERTURBATION:
            distance = record.values.get("distance")
            return budget(record.values.get("norm"), distance).replace("≤ ", ""), None
        key = "clean_predictions" if view == "clean" else "predictions"
        guesses = record.values.get(key)
        if not guesses:
            return f"class {record.label}", None
        right = guesses[0] == record.label
        return f"{guesses[0]} {'✓' if right else f'✗ not {record.label}'}", right


def grid(records: Sequence[Record]) -> Grid:
    """The pictures of some records of one evaluator, and how far their perturbations are magnified.

    For an L∞ threat eps is shown as half the range, so that grey is unchanged and black or white changed by eps. For
    all others the largest change of any pixel in the grid is.
    """
    names = {name for record in records for name in record.values.get("images", {})}
    first = [name for name in ("clean", "adversarial") if name in names]
    changes = [change for record in records if (change := _change(record)) is not None]
    between = [PERTURBATION] if changes else []
    values = records[0].values
    largest = max((float(np.abs(change).max()) for change in changes), default=0.0)
    half = float(values.get("eps") or 0.0) if values.get("norm") == "Linf" else largest
    return Grid(list(records), [*first, *between, *sorted(names - set(first))], 0.5 / half if half > 0 else 1.0)


def pictures(found: Grid, style: Style) -> "Figure":
    """The grid as a figure, one column per image."""
    figure, axes = new_figure(0.95 * len(found.records) + 1.3, 1.1 * len(found.views) + 0.3)
    for column, record in enumerate(found.records):
        axes.text(column + 0.47, -0.12, f"class {record.label}", color=style.soft, ha="center", va="center", size=8)
        for row, view in enumerate(found.views):
            png = found.picture(record, view)
            if png:
                _place(axes, png, column, 1.2 * row)
                text, right = found.below(record, view)
                colour = style.curves[1] if right is False else style.ink if right else style.soft
                axes.text(column + 0.47, 1.2 * row + 1.05, text, color=colour, ha="center", va="center", size=7)
    for row, view in enumerate(found.views):
        label = {"color": style.ink, "ha": "right", "va": "center", "size": 8, "parse_math": False}
        axes.text(-0.1, 1.2 * row + 0.47, found.title(view), **label)  # type: ignore[arg-type]
    axes.set(xlim=(-1.2, len(found.records)), ylim=(1.2 * len(found.views), -0.3), aspect="equal")
    axes.set_axis_off()
    return figure


def _place(axes: "Axes", png: str, column: float, row: float) -> None:
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
    coarse = "nearest" if len(image) <= COARSE else "antialiased"
    axes.imshow(
        image, cmap="gray", vmin=0, vmax=255, interpolation=coarse, extent=(column, column + 0.94, row + 0.94, row)
    )


def _change(record: Record) -> "np.ndarray | None":
    """adv - clean in pixels, as far as pictures with 8 bits per channel tell; None unless there are both."""
    images = record.values.get("images", {})
    if not images.get("clean") or not images.get("adversarial"):
        return None
    clean, adv = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(images[name])))).astype(np.float64) / 255
        for name in ("clean", "adversarial")
    )
    return adv - clean if adv.shape == clean.shape else None


def _encoded(pixels: "np.ndarray") -> str:
    file = io.BytesIO()
    Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
