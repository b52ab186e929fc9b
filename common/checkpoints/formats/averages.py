"""Averaged weights beside raw ones in a file: the average is read by default, and a warning says so."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from common.checkpoints.formats.second_weights import weight_places
from common.checkpoints.formats.wrapped_names import normalises, plain_names
from common.checkpoints.state import list_names

AVERAGES = (
    "ema",
    "model_ema",
    "ema_model",
    "net_ema",
    "ema_net",
    "ema_state_dict",
    "state_dict_ema",
    "ema_model_state_dict",
    "model_ema_state_dict",
    "model_state_dict_ema",
    "averaged_state_dict",
    "averaged_model_state_dict",
    "swa_state_dict",
    "swa_model",
)
"""Keys of averaged weights, by name or under one of `INNER`."""

INNER = ("state_dict", "model_state_dict", "model", "module", "net", "shadow")
RAW = ("state_dict", "model_state_dict", "model", "net", "network")
"""Keys under which trainers keep the tensors of a network."""

KEPT = (*RAW, *AVERAGES)
RAW_BESIDE = {"state_dict": "current_model_state", "model_state_dict": "unaveraged_model_state_dict"}
"""Keys of raw weights beside averaged ones under the usual key, as Lightning's WeightAveraging writes them."""


def chosen_weights(content: Any, network: nn.Module, ema: bool, source: str, nested: bool) -> Any:
    """Tensors by name among the content of a file: averaged where there are any, raw ones for ``ema=False``.

    Buffers that the average leaves out are those of the raw weights. Content without averaged weights is returned as it
    is, or with ``nested`` the part of it under a key of `RAW`. Warns where both kinds are there, and of further
    weights. Raises ``ValueError`` for an average that is not stored by name, and for raw weights that are not there.
    """
    if not isinstance(content, Mapping):
        return content
    raw_key = next((key for key in RAW if isinstance(content.get(key), Mapping)), None)
    raw = content if raw_key is None else content[raw_key]
    beside = RAW_BESIDE.get(raw_key or "", "")
    if isinstance(content.get(beside), Mapping):
        announce(source, str(raw_key), beside, ema)
        return raw if ema else content[beside]
    setting = Tensor | bool | int | float | str | None  # "ema" may also be an option of the training
    key = next((key for key in AVERAGES if not isinstance(content.get(key), setting)), None)
    if key is None and raw_key is not None and nested:
        _warn_of_others(content, raw_key, network, source)
    if key is None and raw_key is not None and nested and any(isinstance(raw.get(inner), Mapping) for inner in KEPT):
        return chosen_weights(raw, network, ema, source, nested)
    if key is None:
        return raw if nested else content
    if not ema:
        if raw_key is None:
            raise ValueError(f"{source} holds averaged weights alone, under {key}; ema=False reads raw ones.")
        announce(source, key, raw_key, ema)
        return raw
    if raw_key is not None:
        announce(source, key, raw_key, ema)
    average = _by_name(content[key])
    if average is None:
        raise ValueError(
            f"{source} holds averaged weights under {key} in a form that is not read: tensors by name are. ema=False "
            "reads the raw weights."
        )
    own = network.state_dict()
    average, rest = plain_names(average, own), plain_names(raw, own)
    buffers = [name for name, _ in network.named_buffers() if name not in average]
    buffers += [name for name in rest if normalises(name) and name not in average and name not in own]
    return {**{name: rest[name] for name in buffers if isinstance(rest.get(name), Tensor)}, **average}


def _warn_of_others(content: Mapping[str, Any], read: str, network: nn.Module, source: str) -> None:
    """Warn that a file holds further weights of the network, under a key that is not known to hold averaged ones."""
    others = [place for place in weight_places(content, network) if place.split(".")[0] != read]
    if others:
        warnings.warn(
            f"{source} holds weights of this network under {list_names([read, *others])}: those under {read} are "
            "read. If you want others, such as averaged ones (EMA), store them in a file of their own.",
            stacklevel=3,
        )


def announce(source: str, average: str, raw: str, ema: bool) -> None:
    """Warn that a file holds both kinds of weights, with the kind that is read."""
    read, other = ("averaged", "ema=False reads the raw ones") if ema else ("raw", "ema=True reads the averaged ones")
    warnings.warn(
        f"{source} holds averaged weights ({average}) and raw ones ({raw}): the {read} weights are read; {other}.",
        stacklevel=3,
    )


def _by_name(average: Any) -> Mapping[str, Tensor] | None:
    """Tensors by name of an average; None for another form, such as a list."""
    if isinstance(average, Mapping):
        inside = next((average[key] for key in INNER if isinstance(average.get(key), Mapping)), average)
        tensors = {name: value for name, value in inside.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(inside):
            return tensors
    return None
