"""Files -> networks, denoisers and classifiers; nothing in a file is executed.

Our own format is safetensors with a JSON description in its metadata (`common.checkpoints.description`), so the path is
all that a file needs::

    save(denoiser, "denoiser.safetensors")
    denoiser = load_denoiser("denoiser.safetensors")
"""

import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.checkpoints import formats
from common.checkpoints.description import build_part
from common.checkpoints.files import require_file
from common.checkpoints.layouts import Format
from common.checkpoints.saving import FORMAT_VERSION, METADATA_KEY
from common.checkpoints.state import assign_state
from common.checks.bounds import check_bound
from common.diffusion.denoisers import Denoiser
from common.naming.parameters import name_arguments
from common.robustness.classifiers import Classifier

M = TypeVar("M", bound=nn.Module)


def load(path: str | Path) -> nn.Module:
    """The module that `save` wrote to ``path``, on the CPU in evaluation mode.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path = require_file(path)
    text, state = _read(path)
    try:
        check_bound("description", len(text), "its description")
        description = json.loads(text)
        if not isinstance(description, dict) or description.get("format") != FORMAT_VERSION:
            version = description.get("format") if isinstance(description, dict) else None
            raise ValueError(f"it must be in version {FORMAT_VERSION} of our format; it is in version {version}.")
        module = build_part(description, sum(value.numel() for value in state.values()))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its description is no JSON ({error}). Make it again.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be built: {error}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{path} cannot be built: it must describe a network; it describes a {type(module).__name__}.")
    return assign_state(module, state, str(path))


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The description in a file's metadata, and its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            check_bound("tensors", len(file.keys()), str(path))
            text = (file.metadata() or {}).get(METADATA_KEY)
            # Copies: a view of the mapped file would be unaligned, and would change with the file.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a safetensors file and is not a complete one ({error}). If it was cut short, make it "
            "again; if it is in a published format, name that format."
        ) from error
    if text is None:
        raise ValueError(
            f"{path} must hold this project's description of its network and does not: another program wrote it. "
            "Load it under the published format it follows, then save it with common.checkpoints.save."
        )
    return text, state


# Named in configurations: jsonargparse accepts a loader where a part of its return type is expected -------------------


@name_arguments
def load_network(
    path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None, ema: bool = True
) -> nn.Module:
    """The network in a file, called as its publishers call it, on the CPU in evaluation mode.

    Of a denoiser or classifier in our own format it is the network inside, with the outputs of the published file that
    was converted.

    Args:
        path: of the file.
        format: publisher of the layout and the tensor names; "safetensors" is our own.
        config: the publisher's options, with or without sections; files of our own contain theirs.
        ema: read the averaged weights (EMA) of a file that holds raw ones besides, with a warning that says so; False
            for the raw ones. A published file of one kind alone has no choice; files of our own hold one kind.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    if _is_published(format, config, ema):
        return formats.read_network(path, format, config, ema)
    return formats.as_network(load(path))


@name_arguments
def load_denoiser(
    path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None, ema: bool = True
) -> Denoiser:
    """The denoiser in a file; arguments and errors as for `load_network`.

    A published network keeps the noise levels and labels of its training: continuous times of Score-SDE, the nearest
    index of guided diffusion and SDEdit, sigma and classes of EDM.
    """
    if _is_published(format, config, ema):
        return formats.read_denoiser(path, format, config, ema)
    return _as(Denoiser, formats.as_denoiser(load(path)), path)


@name_arguments
def load_classifier(
    path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None, ema: bool = True
) -> Classifier:
    """The classifier in a file; arguments and errors as for `load_network`.

    A published one reads pixels, which it normalises if ``config`` has ``mean`` and ``std``.
    """
    if _is_published(format, config, ema):
        return formats.read_classifier(path, format, config, ema)
    return _as(Classifier, load(path), path)


def _is_published(format: str, config: dict[str, Any] | None, ema: bool) -> bool:
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}; got {format!r}.")
    if format in ("safetensors", "diffusers") and config is not None:
        raise ValueError("files of our own and pipelines carry their config; leave config out, or name another format.")
    if format in ("safetensors", "diffusers") and not ema:
        raise ValueError("files of our own and pipelines hold one kind of weights; leave ema out, or name a format.")
    return format != "safetensors"


def _as(kind: type[M], module: nn.Module, path: str | Path) -> M:
    if not isinstance(module, kind):
        raise ValueError(
            f"{path} must hold a {kind.__name__}; it holds a module of class {type(module).__qualname__}. "
            "Load it by another of load_denoiser, load_classifier and load_network."
        )
    return module
