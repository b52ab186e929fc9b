"""``bench``: what the project's work costs beside the bare networks that it runs."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from common.checks.settings import check_count, check_one_of
from common.commands.errors import UsageError
from common.commands.parsing import Arguments
from common.naming.terminal import Terminal

if TYPE_CHECKING:
    import torch

DESCRIPTION = (
    "Time purification, its gradient, an attack step, certification, guidance and training beside the bare networks "
    "inside them, interleaved in one run. On a GPU also the share of its peak."
)
PRECISIONS = ("32", "tf32", "bf16", "16", "auto")


def run(arguments: Sequence[str]) -> None:
    """Print the table of a benchmark."""
    parser = Arguments("bench", DESCRIPTION)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--network", default="small", help="small (0.19 million parameters) or medium (5.0 million)")
    parser.add_argument("--precision", default="32", help="of the denoiser: 32, tf32, bf16, 16 or auto")
    parser.add_argument("--compile", action="store_true", help="run the denoiser through torch.compile")
    parser.add_argument("--channels-last", action="store_true", help="memory order of images and weights")
    parser.add_argument("--batch", type=int, help="images; 64 on a GPU, 16 on a CPU")
    parser.add_argument("--steps", type=int, help="steps of a purification; 10 on a GPU, 4 on a CPU")
    parser.add_argument("--repeat", type=int, default=7, help="rounds, of which medians are taken")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.read(arguments)
    check_one_of("--precision", options.precision, PRECISIONS)
    check_count("--repeat", options.repeat)
    device = _device(options.device)
    batch = options.batch or (16 if device.type == "cpu" else 64)
    steps = options.steps or (4 if device.type == "cpu" else 10)
    check_count("--batch", batch)
    check_count("--steps", steps, 2)
    from common.experiments.benchmarks.report import benchmark
    from common.experiments.benchmarks.subject import part

    engine = part("Engine", precision=options.precision, channels_last=options.channels_last, compile=options.compile)
    table = benchmark(options.network, batch, steps, engine, device, options.repeat)
    if options.json:
        print(json.dumps(table, indent=1))
    else:
        show(table)


def show(table: dict[str, Any]) -> None:
    """Print a benchmark."""
    console = Terminal()
    console.print(escape(table["setup"]), highlight=False)
    shown = Table(box=None, pad_edge=False)
    shares = table["peak"] is not None
    for title in ("piece", "ms", "of its networks", "of one evaluation", *(["of the peak"] if shares else [])):
        shown.add_column(title, justify="left" if title == "piece" else "right")
    for row in table["pieces"]:
        limit = "" if row["to_limit"] is None else f"{row['to_limit']:.3f}"
        share = [f"{row['share']:.1%}" if row["share"] else ""] if shares else []
        shown.add_row(escape(row["name"]), f"{1e3 * row['seconds']:.2f}", limit, f"{row['to_network']:.2f}", *share)
    console.print(shown, highlight=False)
    if shares:
        console.print(f"peak: {table['peak'] / 1e12:.0f} * 10^12 operations a second, {table['peak_from']}")


def _device(name: str) -> "torch.device":
    import torch

    check_one_of("--device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no such device here. Use cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
