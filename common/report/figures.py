"""Figures from records, drawn with matplotlib's objects, never its global state; colours that all eyes can tell."""

import base64
import io
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.report.runs import Run
from common.report.tables import Triple, percent
from common.robustness.records import Record, interval, is_certified

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH = 0.27  # height of a bar with the air around it
FINEST = 400  # steps of a curve; beyond them its values are taken at evenly spaced radii


@dataclass(frozen=True)
class Style:
    """Colours and width of a figure. The palette is Okabe and Ito's."""

    ink: str = "#1f2328"
    soft: str = "#6a6f76"
    line: str = "#dcdcd7"
    neutral: str = "#b9bcbf"
    accent: str = "#0072B2"
    faint: str = "#7fb8d8"
    curves: tuple[str, ...] = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    width: float = 7.2


LIGHT = Style()
DARK = Style(
    "#e8e6e1", "#a2a6ab", "#3a3d42", "#73777c", "#56B4E9", "#2f6f96",
    ("#56B4E9", "#F0894A", "#2FBF95", "#DE9BC1", "#F0B840", "#9CD3F2"),
)  # fmt: skip

Draw = Callable[[Style], "Figure"]


def to_svg(draw: Draw, style: Style) -> bytes:
    """A figure on transparent ground; the same bytes for the same records."""
    return _save(draw, style, "svg", {"metadata": {"Date": None, "Creator": None}, "transparent": True})


def to_png(draw: Draw, style: Style) -> bytes:
    """A figure on white, 200 dots per inch."""
    return _save(draw, style, "png", {"dpi": 200, "facecolor": "white"})


def _save(draw: Draw, style: Style, kind: str, options: dict[str, object]) -> bytes:
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "robust-diffusion", "font.size": 9, "font.family": "DejaVu Sans"}):
        draw(style).savefig(file, format=kind, bbox_inches="tight", pad_inches=0.05, **options)  # type: ignore[arg-type]
    return file.getvalue()


def accuracy_bars(runs: Sequence[Run], style: Style) -> "Figure":
    """Clean and attacked accuracy per defence, each with its interval."""
    groups = [(run.name, _bars(run, style)) for run in runs]
    groups = [(name, bars) for name, bars in groups if bars]
    count = sum(len(bars) + 1.4 for _, bars in groups)
    figure, axes = _figure(style.width, 0.45 + INCH * count)
    position = 0.0
    for name, bars in groups:
        axes.text(0, position, name, color=style.ink, weight="bold", va="center", size=9.5, parse_math=False)
        for label, triple, colour in bars:
            position += 1
            _bar(axes, position, label, triple, colour, style)
        position += 1.4
    axes.set_ylim(position - 0.4, -0.7)
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_yticks([])
    axes.set_xlabel("accuracy, % (whiskers: exact 95 % interval)", color=style.soft)
    _clean_axes(axes, style)
    axes.grid(axis="x", color=style.line, linewidth=0.6, zorder=0)
    return figure


def _bars(run: Run, style: Style) -> list[tuple[str, Triple, str]]:
    clean = [(s.evaluator, s.metrics["Avg"], style.neutral) for s in run.of_kind(0)]
    bars = []
    for summary in run.of_kind(1):
        if not clean and "clean Avg" in summary.metrics:
            clean = [("clean", summary.metrics["clean Avg"], style.neutral)]
        bars.append((summary.evaluator, summary.metrics["Avg"], style.accent))
        worst = [name for name in summary.metrics if name.startswith("Wor@")]
        bars += [(f"{summary.evaluator}, worst of {n[4:]}", summary.metrics[n], style.faint) for n in worst]
    return clean + bars


def _bar(axes: "Axes", position: float, label: str, triple: Triple, colour: str, style: Style) -> None:
    value, low, high = (100 * number for number in triple)
    axes.barh(position, value, height=0.62, color=colour, zorder=2)
    axes.plot([low, high], [position, position], color=style.ink, linewidth=1.1, solid_capstyle="butt", zorder=3)
    axes.text(-1.5, position, label, color=style.ink, va="center", ha="right", size=8.5, parse_math=False)
    axes.text(max(value, high) + 1.2, position, percent(triple[0]), color=style.ink, va="center", ha="left", size=8.5)


def certified_curves(runs: Sequence[Run], style: Style) -> "Figure":
    """Certified accuracy against the radius: steps down at every image's radius, in a band of exact intervals."""
    curves = [(run, summary.evaluator) for run in runs for summary in run.of_kind(2)]
    names = [run.name if len(run.of_kind(2)) == 1 else f"{run.name}, {evaluator}" for run, evaluator in curves]
    figure, axes = _figure(style.width, 0.5 * style.width if style.width > 5 else 0.8 * style.width)
    furthest = max((row.values["radius"] for run, name in curves for row in run.rows(name)), default=0.0) or 1.0
    for position, (run, evaluator) in enumerate(curves):
        colour = style.curves[position % len(style.curves)]
        dashes = ("-", "--", "-.", ":")[position % 4]
        _curve(axes, run.rows(evaluator), furthest * 1.04, colour, dashes)
    axes.set_xlim(0, furthest * 1.04)
    axes.set_ylim(0, 101)
    axes.set_xlabel("L2 radius in pixel units", color=style.soft)
    axes.set_ylabel("certified accuracy, %", color=style.soft)
    legend = axes.legend(frameon=False, loc="upper right", labelcolor=style.ink, handlelength=2.6)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)  # a name is a name: no meaning in "$" or a first "_"
    _clean_axes(axes, style)
    axes.grid(color=style.line, linewidth=0.6, zorder=0)
    return figure


def _curve(axes: "Axes", rows: list[Record], end: float, colour: str, dashes: str) -> None:
    certified = sorted(row.values["radius"] for row in rows if is_certified(row, 0))
    jumps = sorted(set(certified))
    if len(jumps) > FINEST:
        jumps = [end * step / FINEST for step in range(1, FINEST)]
    counts = [len(certified) - bisect_left(certified, radius) for radius in [*jumps, end]]
    bounds = {count: interval(count, len(rows)) for count in counts}
    value, low, high = ([100 * number for number in numbers] for numbers in zip(
        *((count / len(rows), *bounds[count]) for count in [*counts, counts[-1]]), strict=True
    ))  # fmt: skip
    starts = [0.0, *jumps, end]  # a radius itself is still certified: the step follows it
    axes.step(starts, value, where="post", color=colour, linestyle=dashes, linewidth=1.7, label=colour, zorder=3)
    axes.fill_between(starts, low, high, step="post", color=colour, alpha=0.14, linewidth=0, zorder=2)


def view_names(records: Sequence[Record]) -> list[str]:
    """Names of the pictures that any record holds: clean, adversarial, then the defence's own in order."""
    names = {name for record in records for name in record.values.get("images", {})}
    first = [name for name in ("clean", "adversarial") if name in names]
    return first + sorted(names - set(first))


def pictures(records: Sequence[Record], style: Style) -> "Figure":
    """Images side by side, one column each: clean, adversarial, and what the defence made of it."""
    names = view_names(records)
    figure, axes = _figure(0.85 * len(records) + 1.1, 0.85 * len(names) + 0.5)
    for column, record in enumerate(records):
        _write(axes, column + 0.47, -0.14, f"class {record.label}", style.soft)
        for row, name in enumerate(names):
            if name in record.values["images"]:
                _place(axes, record.values["images"][name], column, row)
        guess = record.values["predictions"][0]
        colour = style.ink if guess == record.label else style.curves[1]
        _write(axes, column + 0.47, len(names) + 0.14, f"read as {guess}", colour)
    for row, name in enumerate(names):
        _write(axes, -0.1, row + 0.47, name, style.ink, "right")
    axes.set(xlim=(-1, len(records)), ylim=(len(names) + 0.3, -0.3), aspect="equal")
    axes.set_axis_off()
    return figure


def _place(axes: "Axes", png: str, column: int, row: int) -> None:
    from matplotlib.image import imread

    image = imread(io.BytesIO(base64.b64decode(png)), format="png")
    extent = (column, column + 0.94, row + 0.94, row)
    coarse = "nearest" if len(image) <= 64 else "antialiased"
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation=coarse, extent=extent)


def _write(axes: "Axes", x: float, y: float, text: str, colour: str, align: str = "center") -> None:
    axes.text(x, y, text, color=colour, ha=align, va="center", size=8, parse_math=False)


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _clean_axes(axes: "Axes", style: Style) -> None:
    axes.set_axisbelow(True)
    axes.tick_params(colors=style.soft, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(style.line)
