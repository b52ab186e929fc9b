"""Drawing of figures: matplotlib's objects, never its global state; a palette for all kinds of colour vision."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

from common.naming.outside_text import plain
from common.report.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.text import Text

DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Style:
    """Colours and width of a figure. The palette is Okabe and Ito's."""

    ink: str = "#1f2328"
    soft: str = "#6a6f76"
    line: str = "#dcdcd7"
    neutral: str = "#b9bcbf"
    curves: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
    width: float = 8.4

    def colour(self, number: int) -> str:
        """Colour of the curve, bar or point with this number."""
        return self.curves[number % len(self.curves)]

    def dash(self, number: int) -> str:
        """Dashes of a curve; twelve curves in a row differ in colour or dashes."""
        return DASHES[number % len(DASHES)]


LIGHT = Style()
DARK = Style(
    "#e8e6e1", "#a2a6ab", "#3a3d42", "#73777c",
    ("#3f9fdc", "#f0894a", "#2fbf95", "#de9bc1", "#f0b840", "#9cd3f2"),
)  # fmt: skip

Draw = Callable[[Style], "Canvas"]


@dataclass(frozen=True)
class Figure:
    """A figure of the report: name of its files, caption, and the function that draws it."""

    name: str
    caption: str
    draw: Draw

    @cached_property
    def light(self) -> bytes:
        """SVG in the light palette."""
        return to_svg(self.draw, LIGHT)


def attack_numbers(runs: Sequence[Run]) -> dict[str, int]:
    """Number of every attack, by name: its colour in all figures, for all its seeds."""
    names = dict.fromkeys(attack.name for run in runs for attack in run.attacks)
    return {name: number for number, name in enumerate(names)}


def to_svg(draw: Draw, style: Style) -> bytes:
    """SVG on transparent ground; the same bytes for the same records and version of matplotlib, which it names."""
    import matplotlib

    metadata = {"Date": None, "Creator": f"matplotlib {matplotlib.__version__}"}
    return _save(draw, style, "svg", {"metadata": metadata, "transparent": True})


def drawn_by(svg: bytes) -> str:
    """Program that drew an SVG, with its version; empty if it is not named."""
    found = re.search(rb"<dc:title>(matplotlib [^<]{1,40})</dc:title>", svg)
    return found[1].decode(errors="replace") if found else ""


def to_png(draw: Draw, style: Style) -> bytes:
    """PNG on white, 200 dots per inch."""
    return _save(draw, style, "png", {"dpi": 200, "facecolor": "white"})


def darkened(svg: bytes) -> bytes:
    """A light figure in the dark palette, colour by colour."""
    pairs = {light.encode(): dark.encode() for light, dark in zip(_colours(LIGHT), _colours(DARK), strict=True)}
    return re.sub(rb"#[0-9a-f]{6}\b", lambda match: pairs.get(match[0], match[0]), svg)


def _colours(style: Style) -> list[str]:
    single = [getattr(style, field.name) for field in fields(style) if isinstance(getattr(style, field.name), str)]
    return [*single, *style.curves]


def _save(draw: Draw, style: Style, kind: str, options: dict[str, object]) -> bytes:
    import matplotlib
    from matplotlib.text import Text

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "robust-diffusion", "font.size": 9, "font.family": "DejaVu Sans"}):
        canvas = draw(style)
        for text in canvas.findobj(Text):
            _without_codes(text)
        canvas.savefig(file, format=kind, bbox_inches="tight", pad_inches=0.05, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _without_codes(text: "Text") -> None:
    """Write control characters, for which no font has a glyph, as escapes: names of runs come from outside."""
    shown = plain(text.get_text()).replace("\t", " ")
    if shown != text.get_text():
        text.set_text(shown)


def new_canvas(width: float, height: float) -> "Canvas":
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure as Canvas

    return Canvas(figsize=(width, height))


def new_figure(width: float, height: float) -> tuple["Canvas", "Axes"]:
    """A figure of this size in inches, with one pair of axes."""
    figure = new_canvas(width, height)
    return figure, figure.subplots()


def plot(style: Style, ratio: float = 0.42) -> tuple["Canvas", "Axes"]:
    """A figure for curves."""
    figure, axes = new_figure(style.width, ratio * style.width)
    plain_axes(axes, style)
    axes.grid(color=style.line, linewidth=0.6, zorder=0)
    return figure, axes


def plain_axes(axes: "Axes", style: Style) -> None:
    """Remove ticks, and the frame but for the bottom line."""
    axes.set_axisbelow(True)
    axes.tick_params(colors=style.soft, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(style.line)


def legend(axes: "Axes", names: Sequence[str], style: Style, lower: float = 0.0) -> None:
    """Add a legend below the figure, by ``lower`` heights of the axes lower than usual.

    Names are shown as they are, also with "$" or a leading "_".
    """
    columns = max(1, min(len(names), int(style.width / (0.75 + 0.075 * max(map(len, names))))))
    box = axes.legend(
        frameon=False, loc="upper left", bbox_to_anchor=(-0.02, -0.17 - lower), ncols=columns, labelcolor=style.ink,
        handlelength=2.6, borderaxespad=0, columnspacing=1.8,
    )  # fmt: skip
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)


def label_axes(axes: "Axes", x: str, y: str, style: Style) -> None:
    """Label the two axes."""
    axes.set_xlabel(x, color=style.soft)
    axes.set_ylabel(y, color=style.soft)
