"""Fingerprint of a run: the parts that decide its numbers, as plain JSON, and a hash of it.

Records of different runs must not be mixed. A run is identified by its parts (class, settings, weights) and not by the
file that configured them, so a script and a YAML file that build the same parts continue each other's records.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.naming.public_names import is_ours, public_name

NOT_IDENTIFYING = {
    *("batch_size", "chunk", "workers", "compile", "channels_last"),
    *("keep_images", "training", "test_images"),
}
"""Settings of speed and quantity, which change no recorded number."""


class PartlyIdentified:
    """Base of parts with settings that change no number of a record: ``not_identifying``, left out of fingerprints."""

    not_identifying: ClassVar[frozenset[str]] = frozenset()


def weights_hash(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of a module's parameters and buffers, in name order."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_values(value))
    return digest.hexdigest()


def _values(tensor: Tensor) -> bytes:
    """The values of a tensor of any type, layout and strides, in row-major order."""
    dense = (tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()).cpu()
    flat = dense.resolve_conj().resolve_neg().reshape(-1)
    if flat.stride() != (1,):  # a single value that was expanded keeps its stride 0
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().tobytes()


def settings(part: Any, inside: bool = False) -> Any:
    """A part and its settings as JSON: class names, public attributes, nested parts.

    Settings in `NOT_IDENTIFYING` are left out. A module with a ``config`` dictionary is described by it, a module of
    another package by its class and the plain values among its attributes and those of its parts (`_foreign`). The
    outermost module also gets the hash of all its weights; ``inside`` marks the parts of a module that has it.
    """
    if isinstance(part, float):
        return part if math.isfinite(part) else str(part)
    if part is None or isinstance(part, bool | int | str):
        return part
    if isinstance(part, PurePath | torch.dtype | torch.device):
        return str(part)
    if isinstance(part, Tensor):
        return {"shape": list(part.shape), "sha256": hashlib.sha256(_values(part)).hexdigest()}
    if isinstance(part, Mapping):
        return {str(key): settings(value, inside) for key, value in part.items() if key not in NOT_IDENTIFYING}
    if isinstance(part, list | tuple | set | frozenset | range):
        return [settings(value, inside) for value in (sorted(part) if isinstance(part, set | frozenset) else part)]
    if callable(part) and hasattr(part, "__qualname__"):
        return public_name(part)
    name = public_name(type(part))
    if not isinstance(part, nn.Module):
        hidden = part.not_identifying if isinstance(part, PartlyIdentified) else frozenset()
        shown = {key: value for key, value in getattr(part, "__dict__", {}).items() if key not in hidden}
        return {"class": name, **_public(shown, inside)}
    weights = {} if inside else {"weights": weights_hash(part)}
    if not is_ours(name):
        return {"class": name, **_foreign(part), **weights}
    config = getattr(part, "config", None)
    own = config if isinstance(config, Mapping) else {**vars(part), **part._modules}
    return {"class": name, **_public(own, inside=True), **weights}


def _public(attributes: Mapping[str, Any], inside: bool) -> dict[str, Any]:
    names = sorted(name for name in attributes if not name.startswith("_") and name not in NOT_IDENTIFYING)
    return {name: settings(attributes[name], inside) for name in names}


def _foreign(module: nn.Module) -> dict[str, Any]:
    """``settings``: public attributes of a module of another package that are numbers, texts or lists of them; and
    ``parts``: a hash of those of its parts. Layers of torch have none: a new version may add some."""
    parts = [(path, public_name(type(part)), _plain(part)) for path, part in module.named_modules() if path]
    text = json.dumps([part for part in parts if part[2]])
    hashed = {"parts": hashlib.sha256(text.encode()).hexdigest()} if text != "[]" else {}
    return ({"settings": own} if (own := _plain(module)) else {}) | hashed


def _plain(module: nn.Module) -> dict[str, Any]:
    if type(module).__module__.startswith("torch."):
        return {}
    shown = {name: value for name, value in sorted(vars(module).items()) if not name.startswith("_")}
    return {name: settings(value) for name, value in shown.items() if name not in NOT_IDENTIFYING and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def identify(parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(fingerprint, description) of a run made of ``parts``."""
    description = {name: settings(part) for name, part in parts.items()}
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], description
