"""Attributes of a part by name, without the runtime state of PyTorch, Lightning and this project."""

import hashlib
import inspect
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from common.naming.public_names import is_ours, public_name
from common.records.methods import methods_of, of_library
from common.records.pickling import is_installed, object_data

METHODS = "methods of the class"
_MODULE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_CLASSES = {"not_identifying", "identifies_nothing", "_is_protocol", "_is_runtime_protocol", "_abc_impl"}
_LOADING = {"batch_size", "workers", "num_workers", "pin_memory", "persistent_workers", "prefetch_factor"}
_LEFT_OUT: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()
_DEBUG = re.compile(r"\.debug_pkl$|serialization_id$|traced_inputs|/version$")  # entries of TorchScript archives
_NUMBER = re.compile(rb"[./]___torch_mangle_\d+")


def class_name(part: Any) -> str:
    """Public name of a part's class."""
    return public_name(type(part))


def identity_of(part: Any) -> Mapping[str, Any] | None:
    """Result of the part's method ``identity()``; for a TorchScript module a hash of its archive; else None."""
    if isinstance(part, torch.jit.ScriptModule):
        return {"archive": _archive_hash(part)}
    method = getattr(type(part), "identity", None)
    if not isinstance(method, FunctionType) or len(inspect.signature(method).parameters) != 1:
        return None
    identity = part.identity()
    return identity if isinstance(identity, Mapping) else {"identity": identity}


def unwrapped(module: Any) -> Any:
    """The module that ``torch.compile`` compiled; any other part as it is."""
    inner = vars(module).get("_modules", {}).get("_orig_mod") if isinstance(module, nn.Module) else None
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def parts_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Parts at any depth by name, in their order, without those inside a part that has an ``identity``."""
    hidden = left_out(type(module))
    for name, part in module._modules.items():
        if part is not None and name not in hidden:
            yield name, unwrapped(part)
            if identity_of(part) is None:
                yield from ((f"{name}.{inner}", one) for inner, one in parts_of(unwrapped(part)))


def attributes_of(part: Any) -> list[tuple[str, Any]]:
    """(name, value) of all that a part holds and that may decide its numbers, in name order.

    Raises what the part's own methods of pickling raise, and ``TypeError`` for an object that has none.
    """
    if isinstance(part, nn.Module):
        held = _class_data(type(part)) | _module_data(part)
    elif is_ours(type(part)):
        held = dict(getattr(part, "__dict__", {}))
    else:
        held = _class_data(type(part)) | object_data(part)
    if methods := methods_of(type(part)):
        held[METHODS] = methods
    hidden = left_out(type(part))
    if "_hparams" in held and _lightning_base(type(part)) == "LightningDataModule":
        held["_hparams"] = {name: value for name, value in held["_hparams"].items() if name not in hidden}
    kept = {name: value for name, value in held.items() if name not in hidden}
    return sorted((name, value) for name, value in kept.items() if not _identifies_nothing(value))


def attributes_of_class(cls: type) -> list[tuple[str, Any]]:
    """(name, value) of what a class holds that may decide numbers: data, and values that its methods hold."""
    methods = methods_of(cls)
    return sorted((_class_data(cls) | ({METHODS: methods} if methods else {})).items())


def unsaved_arguments(part: Any) -> list[str]:
    """Constructor arguments of a Lightning data module that neither an attribute nor its hyper-parameters hold."""
    kind = type(part)
    if _lightning_base(kind) != "LightningDataModule":
        return []
    held = {name.removeprefix("_") for name in vars(part)} | set(part.hparams) | left_out(kind)
    parameters = inspect.signature(kind).parameters.values()
    names = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return [name for name in names if name.removeprefix("_") not in held]


def left_out(cls: type) -> frozenset[str]:
    """Names that do not identify an instance: those its classes list, and of values that follow from others."""
    if cls not in _LEFT_OUT:
        names: set[str] = set(_lightning_names(cls))
        for base in cls.__mro__:
            names |= set(vars(base).get("not_identifying", ()))
            names |= {name for name, value in vars(base).items() if isinstance(value, cached_property)}
        _LEFT_OUT[cls] = frozenset(names)
    return _LEFT_OUT[cls]


def _identifies_nothing(value: Any) -> bool:
    return bool(getattr(type(value), "identifies_nothing", False))


def _class_data(cls: type) -> dict[str, Any]:
    """Data among the class attributes of classes from elsewhere; methods, properties and nested names are code."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if of_library(base) or is_ours(base):
            continue
        for name, value in vars(base).items():
            if name.startswith("__") or name in _OF_CLASSES or _is_code(value, base):
                found.pop(name, None)
            elif not hasattr(type(value), "__get__") or isinstance(value, staticmethod):
                found[name] = value.__func__ if isinstance(value, staticmethod) else value
            elif held := {key: one for key, one in vars(value).items() if key[:2] != "__" and not _is_code(one, base)}:
                found[name] = held
    return found


def _is_code(value: Any, owner: type) -> bool:
    if isinstance(value, staticmethod | type):
        inner: Any = value.__func__ if isinstance(value, staticmethod) else value
        return bool(getattr(inner, "__qualname__", "").startswith(f"{owner.__qualname__}."))
    kind = type(value)
    plain = of_library(kind) or is_ours(kind) or is_installed(kind) or not hasattr(value, "__dict__")
    return hasattr(kind, "__get__") and plain  # functions, properties and other descriptors without settings


def _module_data(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, fx.GraphModule):
        own: dict[str, Any] = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
        own["code"] = module.code
    else:
        own = {name: value for name, value in vars(module).items() if name not in _MODULE}
    buffers = {name: module._buffers.get(name) for name in module._non_persistent_buffers_set}
    hooks = [hook for name in _HOOKS for hook in getattr(module, name, {}).values() if not _of_project(hook)]
    parts = {name: part for name, part in module._modules.items() if part is not None}
    return {**own, **buffers, **parts, **({"hooks": hooks} if hooks else {})}


def _of_project(hook: Any) -> bool:
    return is_ours(getattr(hook, "__module__", None) or "")  # every classifier's check of its input, counters


def of_lightning(cls: type) -> bool:
    """True for a class of Lightning."""
    return cls.__module__.startswith(("lightning.", "pytorch_lightning."))


def _lightning_base(cls: type) -> str:
    """Name of the base class of Lightning that a class derives from; "" if there is none."""
    names = (base.__name__ for base in cls.__mro__ if of_lightning(base))
    return next((name for name in names if name in ("LightningModule", "LightningDataModule")), "")


def _lightning_names(cls: type) -> frozenset[str]:
    """Attributes that Lightning's base classes keep in every module, but the hyper-parameters; settings of loading."""
    if not (name := _lightning_base(cls)):
        return frozenset()
    base = next(base for base in cls.__mro__ if base.__name__ == name)
    own = frozenset(vars(base())) - _MODULE | {"_hparams_initial", "_hparams_name"}
    return own | _LOADING if name == "LightningDataModule" else own


def _archive_hash(module: torch.jit.ScriptModule) -> str:
    """sha256 of a TorchScript archive: without debugging information, and with unnumbered names of its classes."""
    saved: bytes = module.save_to_buffer()
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        names = [name for name in archive.namelist() if not _DEBUG.search(name)]
        entries = sorted(_NUMBER.sub(b"", name.encode() + archive.read(name)) for name in names)
    return hashlib.sha256(b"\n".join(entries)).hexdigest()
