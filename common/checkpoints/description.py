"""Networks, denoisers and classifiers as JSON, and back: public class name and constructor arguments, nested.

Building calls constructors of this project's exported modules, of noise schedules, of timm's models and of diffusers'
U-Net, and nothing else: a description from an untrusted file can only choose among those. They open no file, and sizes
are bounded (`common.checks.bounds`).
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoints.state import bounded, without_weights
from common.checks.bounds import check_bound
from common.diffusion.schedules import DDPM, EDM, VP
from common.naming.public_names import PACKAGES, import_public, is_ours, public_name

ALLOWED = f"a checkpoint may name exported modules of {', '.join(PACKAGES)}, noise schedules and timm models"
SCHEDULES = (DDPM, EDM, VP)
NETWORK_ROOMS = ("common.diffusion.networks.", "common.networks.")
LOADING = ("LPIPS",)  # modules that load the weights of another package
TIMM_ARGUMENTS = {"model_name", "num_classes", "in_chans"}


def describe(part: Any) -> dict[str, Any]:
    """``{"class": public name, "config": constructor arguments}``; arguments that are parts are described in turn.

    The arguments come from the part's dictionary ``config`` or else from its attributes of the same names. Raises
    ``ValueError`` for a class that no room exports, and for arguments that the part does not keep or JSON cannot hold.
    """
    kind = type(part)
    name = public_name(kind)
    if kind.__module__.split(".")[0] == "timm":
        return {"class": "timm", "config": _timm_arguments(part)}
    if not is_ours(kind):
        raise ValueError(f"{ALLOWED}; got {name}.")
    _exported_class(name)
    config = getattr(part, "config", None)
    if not isinstance(config, Mapping):
        config = {argument: _attribute(part, argument) for argument in inspect.signature(kind).parameters}
    return {"class": name, "config": {key: _plain(value, f"{name}.{key}") for key, value in config.items()}}


def _attribute(part: Any, argument: str) -> Any:
    try:
        return getattr(part, argument)
    except AttributeError as error:
        raise ValueError(
            f"{type(part).__qualname__} must keep its argument {argument!r} as an attribute, or all arguments in a "
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
    if isinstance(value, nn.Module | DDPM | EDM | VP):
        return describe(value)
    raise ValueError(f"{where} is a {type(value).__qualname__}, which a checkpoint cannot describe; use plain values.")


def _timm_arguments(model: nn.Module) -> dict[str, Any]:
    pretrained_cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    first = pretrained_cfg.get("first_conv") or ()
    names = [first] if isinstance(first, str) else list(first)
    in_chans = model.get_parameter(f"{names[0]}.weight").shape[1] if names else 3
    classes = getattr(model, "num_classes", None)
    return {"model_name": pretrained_cfg.get("architecture"), "num_classes": classes, "in_chans": in_chans}


def build_part(description: Mapping[str, Any], weights: int | None = None, depth: int = 0) -> Any:
    """The part that `describe` described; networks are on the meta device and have no weights yet.

    ``weights`` is the number of numbers in the file, which bounds those of the part; ``depth`` counts parts in parts.

    Raises ``ValueError`` for a class that a checkpoint may not name, one that this version does not have, arguments
    that it does not take, and sizes beyond the bounds.
    """
    check_bound("depth", depth, "it")
    name, config = description.get("class"), description.get("config")
    if not isinstance(name, str) or not isinstance(config, Mapping):
        raise ValueError("a description needs a class and a config; this one is damaged.")
    arguments = {
        key: build_part(value, weights, depth + 1) if _is_part(value) else _bounded_value(key, value, depth)
        for key, value in config.items()
    }
    if "pretrained" in arguments:
        arguments["pretrained"] = False  # the weights come from the checkpoint, never from the network
    kind = _timm_model if name == "timm" else _exported_class(name)
    device = without_weights if name == "timm" or name.startswith(NETWORK_ROOMS) else bounded
    with device(weights), torch.random.fork_rng(devices=()):  # initial weights draw no numbers from the caller
        try:
            return kind(**arguments)
        except ValueError:
            raise
        except TypeError as error:
            reason = str(error).partition("() ")[2] or error
            raise ValueError(
                f"{name} does not take the arguments described: it {reason}. Convert or export again."
            ) from error
        except Exception as error:  # constructors are not made for arguments of any kind
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"{name} does not take the arguments described ({reason}). Export again.") from error


def _bounded_value(key: str, value: Any, depth: int) -> Any:
    """A plain value of a description. Raises `BoundError` for a deep one and for an integer beyond the bound."""
    check_bound("depth", depth, "it")
    if isinstance(value, int) and not key.endswith("seed"):
        check_bound("size", abs(value), f"its {key}")
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for item in inside:
        _bounded_value(key, item, depth + 1)
    return value


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"class", "config"}


def _timm_model(model_name: str, **arguments: Any) -> nn.Module:
    import timm

    if not isinstance(model_name, str) or not timm.is_model(model_name):
        raise ValueError(f"the installed timm has no model {model_name!r}.")
    if other := set(arguments) - TIMM_ARGUMENTS:
        raise ValueError(f"a timm model is described by {', '.join(sorted(TIMM_ARGUMENTS))}; got {sorted(other)}.")
    model: nn.Module = timm.create_model(model_name, **arguments)
    return model


def _exported_class(name: str) -> Any:
    """The class with this public name: a module of this project or a noise schedule."""
    if not is_ours(name):
        raise ValueError(f"{ALLOWED}; got {name!r}.")
    kind = import_public(name)
    part = isinstance(kind, type) and (issubclass(kind, nn.Module) or kind in SCHEDULES)
    if not part or hasattr(kind, "test_step") or kind.__name__ in LOADING:  # no tasks, and nothing that opens a file
        raise ValueError(f"{ALLOWED}; got {name!r}.")
    return kind
