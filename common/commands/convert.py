"""``convert IN OUT --format F``: write a published checkpoint as a safetensors file that loads by its path alone."""

from collections.abc import Sequence

from common.checkpoints.layouts import PUBLISHED
from common.commands.parsing import Arguments
from common.naming.terminal import Terminal


def run(arguments: Sequence[str]) -> None:
    """Convert one published checkpoint."""
    parser = Arguments(
        "convert",
        "Write a published checkpoint as a safetensors file, which loads without a format or options.",
    )
    parser.add_argument("source", metavar="IN", help="published file, or the folder of a diffusers pipeline")
    parser.add_argument("target", metavar="OUT", help="file to write, .safetensors")
    parser.add_argument("--format", required=True, help=f"layout of IN: {', '.join(PUBLISHED)}")
    parser.add_argument("--config", type=str, help="publishers' options: a YAML or JSON file, JSON, or a card's name")
    parser.add_argument("--kind", type=str, help="denoiser, classifier or network; by default the format's usual kind")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--raw", action="store_true", help="of raw and averaged weights (EMA) in IN, write the raw ones"
    )
    options = parser.read(arguments)
    from common.commands import conversion  # imports torch

    config = conversion.read_options(options.config)
    conversion.check_target(options.target, options.force)
    path = conversion.convert(options.source, options.target, options.format, config, options.kind, ema=not options.raw)
    Terminal().print(f"Wrote {path}; it loads without a format or options", markup=False, soft_wrap=True)
