"""Published files -> tensors under the names of the network they belong to, without running anything in the file."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from common.unpickle import read_tensors

ZIP, OLD_TORCH = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_scalar = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")),
]
"""Harmless things beside the weights: accuracies and epochs that trainers leave there."""


def read(path: Path, format: str) -> Any:
    """What a file holds, tensors on the CPU. Nothing in it is run.

    Raises ``ValueError`` for a file that is damaged, foreign, or holds code.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if start.lstrip()[:1] == b"<":
        raise ValueError(
            f"{path} must be a {format} checkpoint and is a web page: its download failed. Fetch it again."
        )
    is_safetensors, is_torch = path.suffix == ".safetensors", start.startswith((ZIP, OLD_TORCH))
    if format == "edm" and not is_safetensors and not is_torch:
        return read_tensors(path, "ema")
    try:
        if is_safetensors:
            return load_file(path)
        if not is_torch:
            raise pickle.UnpicklingError("not written by torch.save")
        # Of Score-SDE's files three quarters are optimiser state, which mapping leaves on the disk.
        mapped = format == "score_sde" and start.startswith(ZIP)
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if format == "score_sde" and isinstance(content, dict):
            content.pop("optimizer", None)
        return content
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {named[1]}, which is not a tensor" if named else "it is not a file of tensors, or damaged"
        raise ValueError(f"{path} cannot be read as a {format} checkpoint: {reason}. Nothing in it was run.") from error
    except (RuntimeError, EOFError, SafetensorError, KeyError, ValueError, AttributeError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a {format} checkpoint: {reason}. If it was cut short, fetch it again."
        ) from error


def select(content: Any, format: str, network: nn.Module, source: str) -> dict[str, Tensor]:
    """The tensors of ``network`` among what a file holds."""
    if format == "score_sde" and isinstance(content, Mapping) and "ema" in content:
        return _moving_average(content, network, source)
    if format == "robustbench_wrn" and isinstance(content, Mapping):
        content = content.get("state_dict", content.get("model_state_dict", content))
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{source} must hold tensors by name; for format {format} that is all it may hold.")
    state = {str(name): value for name, value in content.items()}
    for prefix in ("module.", "model."):  # left by wrappers that spread a network over devices or precondition it
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    own = network.state_dict()
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = torch.zeros((), dtype=value.dtype)  # files older than this counter
        filter_differs = name.endswith("resample_filter") and name in state and state[name].shape == value.shape
        if filter_differs and not torch.allclose(state[name].to(value), value):
            raise ValueError(f"{source}: {name} is not that of the config's resample_filter; correct the config.")
    return state


def _moving_average(content: Mapping[str, Any], network: nn.Module, source: str) -> dict[str, Tensor]:
    """Score-SDE's averaged weights: a list in the order of the trained parameters. Copied, so that the file can go."""
    average = content["ema"].get("shadow_params") if isinstance(content["ema"], Mapping) else None
    if not isinstance(average, list) or not all(isinstance(value, Tensor) for value in average):
        raise ValueError(f"{source} must hold averaged weights as a list under ema.shadow_params; it does not.")
    trained = [(name, p.shape) for name, p in network.named_parameters() if p.requires_grad]
    if len(average) != len(trained):
        raise ValueError(
            f"{source} must hold the {len(trained)} averaged weights of the network that the config describes; "
            f"it holds {len(average)}. Check the config."
        )
    for position, ((name, shape), value) in enumerate(zip(trained, average, strict=True)):
        if value.shape != shape:
            raise ValueError(
                f"{source}: averaged weight {position} must be {name} with shape {tuple(shape)}; "
                f"it has shape {tuple(value.shape)}. Check the config."
            )
    state = {name: value.clone() for (name, _), value in zip(trained, average, strict=True)}
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad]
    model = content.get("model", {}) if fixed else {}
    for name in fixed:  # random Fourier frequencies are not averaged
        value = model.get(f"module.{name}", model.get(name))
        if not isinstance(value, Tensor):
            raise ValueError(f"{source} must hold {name} under model; it does not.")
        state[name] = value.clone()
    return state | {name: value for name, value in network.named_buffers() if name in network.state_dict()}
