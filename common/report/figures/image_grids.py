"""Grids of images: clean, adversarial, the magnified perturbation, and the defence's views."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.checks.image_files import open_image
from common.records.schema import AttackedRecord
from common.report.figures.drawing import Style, new_figure
from common.report.header import budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

PERTURBATION = "perturbation"
COARSE = 64  # images up to this width are shown with their pixels


@dataclass(frozen=True)
class ImageGrid:
    """``views`` are rows of images by name, ``records`` the columns; the perturbation is shown times ``factor``."""

    records: list[AttackedRecord]
    views: list[str]
    factor: float

    def title(self, view: str) -> str:
        """``"perturbation × 15.9"``; the name of other views."""
        return f"{view} × {self.factor:.3g}" if view == PERTURBATION else view

    def png(self, record: AttackedRecord, view: str) -> str | None:
        """PNG in base64; None where the record has none."""
        if view != PERTURBATION:
            return record.images.get(view)
        change = _change(record)
        return None if change is None else _encoded(0.5 + self.factor * change)

    def caption(self, record: AttackedRecord, view: str) -> tuple[str, bool | None]:
        """Words under an image and its correctness: prediction and label; of the perturbation its distance and None."""
        if view == PERTURBATION:
            return budget(record.norm, record.distance).replace("≤ ", ""), None
        predictions = record.clean_predictions if view == "clean" else record.predictions
        if not predictions:
            return f"class {record.label}", None
        correct = predictions[0] == record.label
        return f"{predictions[0]} {'✓' if correct else f'✗ not {record.label}'}", correct


def grid(records: Sequence[AttackedRecord]) -> ImageGrid:
    """ImageGrid of the images of some records of one evaluation.

    The perturbation is magnified until eps fills half the range for an L∞ threat, so that grey is unchanged and black
    or white changed by eps; for all others until the largest change of any pixel in the grid does.
    """
    names = {name for record in records for name in record.images}
    first = [name for name in ("clean", "adversarial") if name in names]
    changes = [change for record in records if (change := _change(record)) is not None]
    between = [PERTURBATION] if changes else []
    largest = max((float(np.abs(change).max()) for change in changes), default=0.0)
    half = records[0].eps if records[0].norm == "Linf" else largest
    return ImageGrid(list(records), [*first, *between, *sorted(names - set(first))], 0.5 / half if half > 0 else 1.0)


def grid_plot(shown: ImageGrid, style: Style) -> "Canvas":
    """The grid as a figure, one column per image."""
    figure, axes = new_figure(0.95 * len(shown.records) + 1.3, 1.1 * len(shown.views) + 0.3)
    for column, record in enumerate(shown.records):
        axes.text(column + 0.47, -0.12, f"class {record.label}", color=style.soft, ha="center", va="center", size=8)
        for row, view in enumerate(shown.views):
            png = shown.png(record, view)
            if png:
                _place(axes, png, column, 1.2 * row)
                text, correct = shown.caption(record, view)
                colour = style.curves[1] if correct is False else style.ink if correct else style.soft
                axes.text(column + 0.47, 1.2 * row + 1.05, text, color=colour, ha="center", va="center", size=7)
    for row, view in enumerate(shown.views):
        label = {"color": style.ink, "ha": "right", "va": "center", "size": 8, "parse_math": False}
        axes.text(-0.1, 1.2 * row + 0.47, shown.title(view), **label)  # type: ignore[arg-type]
    axes.set(xlim=(-1.2, len(shown.records)), ylim=(1.2 * len(shown.views), -0.3), aspect="equal")
    axes.set_axis_off()
    return figure


def _place(axes: "Axes", png: str, column: float, row: float) -> None:
    image = _decoded(png)
    coarse = "nearest" if len(image) <= COARSE else "antialiased"
    axes.imshow(
        image, cmap="gray", vmin=0, vmax=255, interpolation=coarse, extent=(column, column + 0.94, row + 0.94, row)
    )


def _change(record: AttackedRecord) -> "np.ndarray | None":
    """adv - clean in pixels, of images with 8 bits per channel; None unless there are both."""
    images = record.images
    if not images.get("clean") or not images.get("adversarial"):
        return None
    clean, adv = (_decoded(images[name]).astype(np.float64) / 255 for name in ("clean", "adversarial"))
    return adv - clean if adv.shape == clean.shape else None


def _decoded(png: str) -> "np.ndarray":
    """Values of a PNG in base64. Raises ``ValueError`` for anything else."""
    try:
        with open_image(io.BytesIO(base64.b64decode(png)), ("PNG",)) as file:
            return np.asarray(file)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise ValueError(f"the image of a record must be a PNG in base64; it is not ({error}).") from error


def _encoded(pixels: "np.ndarray") -> str:
    file = io.BytesIO()
    Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
