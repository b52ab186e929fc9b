"""What a run is, as plain JSON: the objects that decide its numbers, and a hash over them.

Records of different runs must not be mixed. A run is identified by its parts themselves (class, settings, weights),
not by the file that configured them, so that a script and a YAML which build the same thing continue each other.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

SPEED_ONLY = {"batch_size", "chunk", "workers", "keep_images", "training", "test_images", "compile"}
"""Settings that change how fast a number is computed, or how many, but never the number."""


def weights_hash(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of a module's parameters and buffers, in name order."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def settings(part: Any) -> Any:
    """A part and its settings as JSON: class names, public attributes, nested parts; speed-only settings left out.

    A module with a ``config`` dictionary (every network of ours) is described by it, other networks by their class;
    their weights enter through `identify`.
    """
    if isinstance(part, float):
        return part if math.isfinite(part) else str(part)
    if part is None or isinstance(part, bool | int | str):
        return part
    if isinstance(part, PurePath | torch.dtype | torch.device):
        return str(part)
    if isinstance(part, Tensor):
        return {"shape": list(part.shape), "sha256": hashlib.sha256(part.detach().cpu().numpy().tobytes()).hexdigest()}
    if isinstance(part, Mapping):
        return {str(key): settings(value) for key, value in part.items() if key not in SPEED_ONLY}
    if isinstance(part, list | tuple | set | frozenset | range):
        return [settings(value) for value in (sorted(part) if isinstance(part, set | frozenset) else part)]
    if callable(part) and hasattr(part, "__qualname__"):
        return f"{part.__module__}.{part.__qualname__}"
    kind = type(part)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(part, nn.Module):
        config = getattr(part, "config", None)
        own = dict(config) if isinstance(config, Mapping) else {**vars(part), **part._modules}
    else:
        own = dict(getattr(part, "__dict__", {}))
    if isinstance(part, nn.Module) and not name.startswith(("agdm.", "common.", "diffpure.", "ndc.")):
        return {"class": name}  # a third party's network: its weights identify it
    public = {key: value for key, value in own.items() if not key.startswith("_") and key not in SPEED_ONLY}
    return {"class": name, **{key: settings(value) for key, value in sorted(public.items())}}


def identify(parts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(fingerprint, description) of a run made of ``parts``; modules contribute a hash of their weights as well."""
    description: dict[str, Any] = {}
    for name, part in parts.items():
        description[name] = settings(part)
        if isinstance(part, nn.Module):
            description[f"{name} weights"] = weights_hash(part)
    text = json.dumps(description, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], description
