"""Published files -> tensors under the names of their network, without executing anything in the file."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from common.checkpoints.files import check_unpacked
from common.checkpoints.formats import legacy_torch
from common.checkpoints.formats.averages import chosen_weights
from common.checkpoints.formats.unpickler import INERT_NAMES, InertObject, read_tensors, unreadable_error
from common.checkpoints.formats.wrapped_names import plain_names
from common.checkpoints.state import SMALL, list_names
from common.checks.bounds import BoundError, check_bound

ZIP = b"PK\x03\x04"
NESTED = ("robustbench_wrn", "torch")  # formats of files that may keep their tensors under a key

_scalar = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")),
]
"""Types of the accuracies and epochs that trainers store with the weights."""

INERT: list[Any] = [(InertObject, f"{module}.{name}") for module, name in INERT_NAMES]


def read_published(path: Path, format: str, ema: bool = True) -> Any:
    """Content of a published file, tensors on the CPU. Nothing in it is executed.

    EDM's pickles hold networks: the averaged one, or the raw one if not ``ema``.

    Three quarters of a Score-SDE file are optimiser state and raw weights. They are not read: tensors of this format
    are views of the file, to be copied before it changes.

    Raises ``ValueError`` for a file that is damaged, foreign, or holds code.
    """
    with path.open("rb") as file:
        start = file.read(16)
    is_safetensors, is_torch = path.suffix == ".safetensors", start.startswith((ZIP, legacy_torch.MAGIC))
    if format == "edm" and not is_safetensors and not is_torch:
        return read_tensors(path, "ema" if ema else "net")
    mapped = format == "score_sde"
    try:
        if is_safetensors:
            return load_file(path)
        if not is_torch:
            raise pickle.UnpicklingError("not written by torch.save")
        if mapped and not start.startswith(ZIP):
            return legacy_torch.read_mapped(path)
        return load_torch(path, mmap=mapped)
    except BoundError:
        raise
    except Exception as error:  # a damaged file may raise nearly anything
        raise unreadable_error(path, f"{format} checkpoint", error) from error


def load_torch(path: Path, **options: Any) -> Any:
    """Content of a file of torch.save: tensors and plain values, options of a training as inert objects.

    Raises `BoundError` for content that is far larger than the file, and any error of torch for another file.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
    if zipped:
        check_unpacked(path, str(path))
    with torch.serialization.safe_globals([*NUMPY_NUMBERS, *INERT]):
        content = torch.load(path, **{"map_location": "cpu", "weights_only": True, **options})
    _check_sizes(content, path)
    return content


def _check_sizes(content: Any, path: Path) -> None:
    """Raise `BoundError` for tensors of more numbers than the file can hold: expanded and sparse ones.

    Their shape alone says how much memory their copy takes. A container may contain itself.
    """
    numbers, seen, waiting = 0, set[int](), [content]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            numbers += part.numel()
            check_bound("weights", numbers, str(path), unit=path.stat().st_size, allowed=SMALL)
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, list | tuple | set):
            waiting += part


def read_training_checkpoint(path: Path, map_location: Any = "meta", weights_alone: bool = False) -> Any:
    """Content of a checkpoint of Lightning; on the device "meta" its tensors are not read.

    ``weights_alone``: of the file of weights that a process started by a trainer hands back to it.

    Raises ``ValueError`` for another file, and for one with code, of which nothing is executed.
    """
    try:
        content = load_torch(path, map_location=map_location)
    except BoundError:
        raise
    except Exception as error:
        raise unreadable_error(path, "checkpoint of a training", error) from error
    whole = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
    if not whole and not (weights_alone and isinstance(content, Mapping)):
        raise ValueError(
            f"{path} must be a checkpoint of a training, with a state_dict; it is not. Weights of other files are "
            "init_args, loaded by load_classifier, load_denoiser or load_weights."
        )
    return content


def select_tensors(content: Any, format: str, network: nn.Module, source: str, ema: bool = True) -> dict[str, Tensor]:
    """The tensors of ``network`` in the content of a file, by name: averaged ones if there are any and ``ema`` is true.

    Raises ``ValueError`` for content that is not a dictionary of tensors.
    """
    if format == "score_sde" and isinstance(content, Mapping) and "ema" in content:
        if ema:
            return _moving_average(content, network, source)
        content = _raw_score_sde(content, network)
    else:
        content = chosen_weights(content, network, ema, source, nested=format in NESTED)
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        came = (
            list_names([str(name) for name in content])
            if isinstance(content, Mapping)
            else f"a {type(content).__name__}"
        )
        average = "averaged weights under ema, or " if format == "score_sde" else ""
        raise ValueError(
            f"{source} must hold {average}tensors by name and nothing else, as {format} files do; it holds {came}. "
            "Check the format."
        )
    own = network.state_dict()
    state: dict[str, Tensor] = plain_names(content, own)
    for name, value in own.items():
        if name.endswith("num_batches_tracked") and name not in state:
            state[name] = torch.zeros((), dtype=value.dtype)  # files older than this counter
        differs = name.endswith("resample_filter") and name in state and state[name].shape == value.shape
        if differs and not torch.allclose(state[name].to(value), value):
            raise ValueError(f"{source}: {name} differs from the config's resample_filter. Correct the config.")
    return state


def _raw_score_sde(content: Mapping[str, Any], network: nn.Module) -> Any:
    """Raw weights of Score-SDE, without the noise levels that its networks keep besides."""
    model = content.get("model")
    own = network.state_dict()
    return (
        {name: value for name, value in model.items() if name != "module.sigmas" or "sigmas" in own}
        if isinstance(model, Mapping)
        else model
    )


def _moving_average(content: Mapping[str, Any], network: nn.Module, source: str) -> dict[str, Tensor]:
    """Averaged weights of Score-SDE, a list in the order of the trained parameters."""
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
    state = {name: value for (name, _), value in zip(trained, average, strict=True)}
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad]
    model = content.get("model")
    for name in fixed:  # random Fourier frequencies have no average
        value = model.get(f"module.{name}", model.get(name)) if isinstance(model, Mapping) else None
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{source} must hold {name}, the frequencies of the config's Fourier features, under model; it does "
                "not. Check embedding_type, or take the publishers' own file."
            )
        state[name] = value
    return state | {name: value for name, value in network.named_buffers() if name in network.state_dict()}
