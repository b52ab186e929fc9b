"""Networks, denoisers and classifiers -> ``.safetensors`` files with a JSON description in their metadata."""

import json
import os
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from common.checkpoints.description import build_part, describe
from common.checkpoints.state import check_finite, check_state, copy_shared
from common.files.replacing import replacing
from common.naming.parameters import name_arguments

FORMAT_VERSION = 1
METADATA_KEY = "robust_diffusion"


@name_arguments
def save(module: nn.Module, path: str | Path, notes: Mapping[str, Any] | None = None) -> Path:
    """Write a network, denoiser or classifier to a ``.safetensors`` file that `load` reads without further arguments.

    ``notes`` (plain JSON, e.g. the training data) is stored with the description. The file appears under its name only
    when it is complete. Returns the path.

    Raises ``ValueError`` for another suffix, for weights that are not finite, and for a module that its description
    does not build again; ``OSError`` if the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"our checkpoints are .safetensors files; got {path.name!r}. Use {path.stem}.safetensors.")
    description = {**description_of(module), "notes": dict(notes or {})}
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    check_finite(module, state, f"this {type(module).__qualname__}")
    make_folder(path)
    with replacing(path, "save the weights") as unfinished:
        try:
            save_file(copy_shared(state), unfinished, metadata={METADATA_KEY: json.dumps(description)})
        except SafetensorError as error:
            raise OSError(str(error).removeprefix("Error while serializing: I/O error: ")) from error
    return path


def make_folder(path: Path) -> None:
    """Make the folder of a file that is to be written. Raises ``ValueError`` if the file cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path.parent} cannot be a folder ({error.strerror}). Name another path") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"cannot be written into {path.parent}"
        raise ValueError(f"{path} {reason}. Name another path")


def description_of(module: nn.Module) -> dict[str, Any]:
    """The description that `save` stores with the weights of a module.

    Raises ``ValueError`` if it does not build the module again: another class, other tensors, other layers.
    """
    description, name = {"format": FORMAT_VERSION, **describe(module)}, type(module).__qualname__
    rebuilt = build_part(description)
    check_state(rebuilt.state_dict(), module.state_dict(), f"this {name}")
    for own, built in zip_longest(repr(module).splitlines(), repr(rebuilt).splitlines(), fillvalue="nothing"):
        if own != built:
            raise ValueError(
                f"this {name} must have the layers that its description builds; it has {own.strip()} where they have "
                f"{built.strip()}. Wrap a timm model made with other options in TimmNetwork(name, options=...)."
            )
    return description
