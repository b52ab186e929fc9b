"""A network, denoiser or classifier as JSON, and back: the class and the arguments of its constructor, nested.

Building runs the constructors of this project's modules, of noise schedules, of timm's models and of diffusers' U-Net,
and nothing else, so a description from an untrusted file is no more than a choice among those.
"""

import importlib
import inspect
import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from common.records.public_names import public_name

PACKAGES = ("agdm", "common", "diffpure", "ndc")
SCHEDULES = "common.diffusion.schedules"


def describe(part: Any) -> dict[str, Any]:
    """``{"class": name, "config": arguments}`` of a part; arguments that are parts themselves are described in turn.

    The arguments come from the part's dictionary ``config`` or else from its attributes of the same names. Raises
    ``ValueError`` for a part that could not be built again.
    """
    kind = type(part)
    name = public_name(kind)
    package = kind.__module__.split(".")[0]
    if package == "timm":
        return {"class": "timm", "config": _timm_arguments(part)}
    if package not in PACKAGES:
        raise ValueError(f"a checkpoint can hold modules of {', '.join(PACKAGES)} and timm models; got {name}.")
    config = getattr(part, "config", None)
    if not isinstance(config, Mapping):
        config = {argument: _attribute(part, argument) for argument in inspect.signature(kind).parameters}
    return {"class": name, "config": {key: _plain(value, f"{name}.{key}") for key, value in config.items()}}


def _attribute(part: Any, argument: str) -> Any:
    try:
        return getattr(part, argument)
    except AttributeError as error:
        raise ValueError(
            f"{type(part).__qualname__} must keep its argument {argument!r} as an attribute, or all of them in a "
            "dictionary `config`, to be described in a checkpoint; it does neither."
        ) from error


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.flatten().tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, nn.Module) or type(value).__module__ == SCHEDULES:
        return describe(value)
    raise ValueError(f"{where} is a {type(value).__qualname__}, which a checkpoint cannot describe; use plain values.")


def _timm_arguments(model: nn.Module) -> dict[str, Any]:
    stated: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    first = stated.get("first_conv") or ()
    names = [first] if isinstance(first, str) else list(first)
    in_chans = model.get_parameter(f"{names[0]}.weight").shape[1] if names else 3
    classes = getattr(model, "num_classes", None)
    return {"model_name": stated.get("architecture"), "num_classes": classes, "in_chans": in_chans}


def build(description: Mapping[str, Any]) -> Any:
    """The part that `describe` described. Networks are on the meta device: their weights are yet to come.

    Raises ``ValueError`` for a class that a checkpoint may not name, one that this version does not have, and arguments
    that it does not take.
    """
    name, config = description.get("class"), description.get("config")
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise ValueError("a description needs a class and a config; this one is damaged.")
    arguments = {key: build(value) if _is_part(value) else value for key, value in config.items()}
    if "pretrained" in arguments:
        arguments["pretrained"] = False  # the weights come from the checkpoint, never from the network
    kind = _timm_model if name == "timm" else _allowed(name)
    bare = name == "timm" or ".networks" in kind.__module__
    with torch.device("meta") if bare else nullcontext():
        try:
            return kind(**arguments)
        except TypeError as error:
            reason = str(error).partition("() ")[2] or error
            raise ValueError(
                f"{name} does not take the arguments described: it {reason}. Convert or export again."
            ) from error


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"class", "config"}


def _timm_model(model_name: str, **arguments: Any) -> nn.Module:
    import timm

    if not isinstance(model_name, str) or not timm.is_model(model_name):
        raise ValueError(f"the installed timm has no model {model_name!r}.")
    model: nn.Module = timm.create_model(model_name, **arguments)
    return model


def _allowed(name: str) -> Any:
    """The class of that name: a module of our packages or a noise schedule."""
    refusal = f"a checkpoint may name modules of {', '.join(PACKAGES)}, noise schedules and timm; got {name!r}."
    if not re.fullmatch(rf"({'|'.join(PACKAGES)})(\.\w+)+", name):
        raise ValueError(refusal)
    module, _, attribute = name.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"this version of the project has no {name}; another one wrote the description.") from error
    ours = isinstance(kind, type) and public_name(kind) == name  # a name that a room exports
    if not ours or not (issubclass(kind, nn.Module) or kind.__module__ == SCHEDULES):
        raise ValueError(refusal)
    return kind
