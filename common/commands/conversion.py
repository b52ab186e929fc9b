"""Conversion of published checkpoints into safetensors files that load by their path alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from common.checkpoints.files import file_sha256, require_file
from common.checkpoints.formats import diffusers_pipelines
from common.checkpoints.layouts import PUBLISHED, Format
from common.checkpoints.loading import load_classifier, load_denoiser, load_network
from common.checkpoints.saving import save
from common.experiments.yaml_files import parse, read_text
from common.files.trial import try_file
from common.hub.cards import get_card
from common.naming.nearest import did_you_mean

LOADERS: dict[str, Callable[..., nn.Module]] = {
    "denoiser": load_denoiser,
    "classifier": load_classifier,
    "network": load_network,
}
CLASSIFIERS = ("robustbench_wrn",)  # formats of classifiers


def convert(
    source: str | Path,
    target: str | Path,
    format: str,
    config: dict[str, Any] | None = None,
    kind: str | None = None,
    ema: bool = True,
) -> Path:
    """Write the published checkpoint ``source`` to the safetensors file ``target``, and return ``target``.

    An existing ``target`` is replaced: see `check_target`.

    Parameters
    ----------
    source:
        The file, or the folder of a diffusers pipeline. Only its tensors are read; no code in it is executed.
    target:
        A path that ends in ``.safetensors``.
    format:
        The published layout, see ``common.checkpoints.Format``.
    config:
        The publishers' options.
    kind:
        "denoiser", "classifier" or "network" (called as published); by default the usual kind of the format.
    ema:
        Write the averaged weights of a file that holds raw ones besides; False for the raw ones.

    The file notes its origin: format, kind, config and sha256 of the weights.

    Raises ``FileNotFoundError`` for a missing source, and ``ValueError`` for other arguments that do not fit. The
    target is then unchanged.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if format != "diffusers":
        require_file(source)
    elif not source.is_dir():
        raise FileNotFoundError(f"format diffusers is the folder of a pipeline; there is no folder {source}.")
    kind = kind or ("classifier" if format in CLASSIFIERS else "denoiser")
    if format not in PUBLISHED:
        advice = did_you_mean(format, PUBLISHED)
        raise ValueError(f"format must be a published one, {', '.join(PUBLISHED)}; got {format!r}.{advice}")
    if kind not in LOADERS:
        raise ValueError(f"kind must be one of {', '.join(LOADERS)}; got {kind!r}")
    if target.suffix != ".safetensors":
        raise ValueError(f"target must end in .safetensors; got {target.name!r}. Use {target.stem}.safetensors")
    if target.exists() and target.samefile(source):
        raise ValueError(f"target must be another file than the source; both are {target}")
    try_file(target, "save the weights")
    module = LOADERS[kind](source, cast(Format, format), config, ema)
    weights = diffusers_pipelines.weight_files(source) if source.is_dir() else [source]
    origin = {
        "converted_from": format,
        "kind": kind,
        "file": source.name,
        "sha256": file_sha256(*weights),
        "config": config,
        **({} if ema else {"weights": "raw"}),
    }
    return save(module, target, origin)


def check_target(target: str | Path, force: bool) -> None:
    """Raise ``FileExistsError`` for an existing file, unless ``force`` is true, and for a folder."""
    path = Path(target).expanduser()
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{path} exists already. Name another file, or replace it with --force")


def read_options(text: str | None) -> dict[str, Any] | None:
    """The publishers' options from a YAML or JSON file, from the card of that name, or from JSON text.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` unless the options are a mapping.
    """
    if text is None:
        return None
    path = Path(text).expanduser()
    inline = text.lstrip().startswith("{")
    if not inline and path.suffix.lower() not in (".json", ".yaml", ".yml") and not path.is_file():
        return dict(get_card(text).config)
    if not inline and not path.is_file():
        raise FileNotFoundError(f"no file {path} with the publishers' options")
    written = text if inline else read_text(path)
    options = parse(written, "--config" if inline else str(path), "is neither YAML nor JSON")
    if not isinstance(options, dict):
        raise ValueError(f"the publishers' options must map names to values; {text} is a {type(options).__name__}")
    return options
