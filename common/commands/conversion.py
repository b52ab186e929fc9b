"""A published checkpoint becomes a file of our own, which later loads with nothing but its path."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml
from torch import nn

from common.checkpoints.files import file_sha256, require_file
from common.checkpoints.formats import diffusers_pipelines
from common.checkpoints.loading import Format, load_classifier, load_denoiser, load_network
from common.checkpoints.saving import save
from common.hub.cards import get_card

Kind = Literal["denoiser", "classifier", "network"]

PUBLISHED = tuple(name for name in get_args(Format) if name != "safetensors")
LOADERS: dict[str, Callable[..., nn.Module]] = {
    "denoiser": load_denoiser,
    "classifier": load_classifier,
    "network": load_network,
}
CLASSIFIERS = ("robustbench_wrn",)  # formats whose files hold classifiers


def convert(
    source: str | Path,
    target: str | Path,
    format: str,
    config: dict[str, Any] | None = None,
    kind: str | None = None,
    force: bool = False,
) -> Path:
    """Write what the published file ``source`` holds to ``target``, a safetensors file that needs nothing else.

    Args:
        source: the file, or the folder of a diffusers pipeline; only tensors are taken from it, and nothing in it is
            run.
        target: ends in ``.safetensors``.
        format: the published layout, see ``common.checkpoints.Format``.
        config: the publishers' options.
        kind: "denoiser", "classifier" or "network" (as its publishers call it); None for what the format is used for.
        force: replace ``target`` if it is there.

    Where it came from (format, kind, config and sha256 of the weights) is noted in the file. Returns ``target``.

    Raises ``FileNotFoundError`` for a missing file, ``FileExistsError`` for a target that is there already, and
    ``ValueError`` for all that does not fit; ``target`` is then left as it was.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if format != "diffusers":
        require_file(source)
    elif not source.is_dir():
        raise FileNotFoundError(f"format diffusers is read from a pipeline's folder; there is no folder {source}.")
    kind = kind or ("classifier" if format in CLASSIFIERS else "denoiser")
    if format not in PUBLISHED:
        raise ValueError(f"format must be a published one, {', '.join(PUBLISHED)}; got {format!r}")
    if kind not in LOADERS:
        raise ValueError(f"kind must be one of {', '.join(LOADERS)}; got {kind!r}")
    if target.suffix != ".safetensors":
        raise ValueError(f"our files end in .safetensors; got {target.name!r}. Use {target.stem}.safetensors")
    if target.exists() and (not force or target.is_dir() or target.samefile(source)):
        raise FileExistsError(f"{target} is there already. Name another file, or replace it with --force")
    module = LOADERS[kind](source, cast(Format, format), config)
    weights = diffusers_pipelines.weight_files(source) if source.is_dir() else [source]
    origin = {
        "converted_from": format,
        "kind": kind,
        "file": source.name,
        "sha256": file_sha256(*weights),
        "config": config,
    }
    return save(module, target, origin)


def read_options(text: str | None) -> dict[str, Any] | None:
    """The publishers' options: from a YAML or JSON file, from a card of that name, or from JSON itself.

    Raises ``FileNotFoundError`` or ``ValueError`` if it is none of these, or not a mapping.
    """
    if text is None:
        return None
    path = Path(text).expanduser()
    inline = text.lstrip().startswith("{")
    if not inline and path.suffix.lower() not in (".json", ".yaml", ".yml") and not path.is_file():
        return dict(get_card(text).config)
    if not inline and not path.is_file():
        raise FileNotFoundError(f"no file {path} with the publishers' options")
    try:
        options = yaml.safe_load(text if inline else path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{text} is neither YAML nor JSON: {error}") from error
    if not isinstance(options, dict):
        raise ValueError(f"the publishers' options map names to values; {text} is a {type(options).__name__}")
    return options
