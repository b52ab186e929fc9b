"""Restricted unpickler: the tensors of a pickled network, without executing anything.

EDM publishes pickles of whole Python objects, source code included, which `pickle.load` would execute. Here a pickle
may build containers and tensors; objects of known libraries become an `InertObject` that only keeps its state, and
every other name (``os.system``, ``eval``, ...) is refused before it is called. Only inert objects take a state, so
that a file cannot alter the functions that read it.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.checkpoints.files import check_unpacked
from common.checks.bounds import BoundError, check_bound

INERT_PACKAGES = ("dnnlib", "numpy", "torch", "torch_utils", "training")


INERT_NAMES = (
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("easydict", "EasyDict"),
    ("yacs.config", "CfgNode"),
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
)
"""Objects in which trainers keep their options beside the weights."""


class InertObject:
    """Stand-in for an object of another library: the state it was pickled with, and none of its code."""

    state: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> "InertObject":  # a pickle may skip __init__
        inert = super().__new__(cls)
        inert.state = {}
        return inert

    def __init__(self, *_: Any, **__: Any) -> None:
        """Ignore all arguments."""

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            self.state.update(part if isinstance(part, Mapping) else {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[key] = value

    def append(self, _: Any) -> None:
        """Drop items of a list-like object."""

    def extend(self, _: Any) -> None:
        """Drop items of a list-like object."""


def _persistent(meta: Any, *_: Any) -> InertObject:
    """Object pickled with its source code: keep its state, ignore the source."""
    inert = InertObject()
    kept = meta.state if isinstance(meta, InertObject) else meta
    inert.__setstate__(kept.get("state") if isinstance(kept, Mapping) else None)
    return inert


def _storage(data: bytes) -> Any:
    if data[:2] == b"PK":
        check_unpacked(io.BytesIO(data), "a tensor of the file")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without its data")
    data = torch.empty(0, dtype=storage.dtype, device=storage._untyped_storage.device)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(size, default=1) > 0 and not 0 <= last < storage._untyped_storage.nbytes() // data.element_size():
        raise pickle.UnpicklingError("a tensor larger than its data")
    return data.set_(storage._untyped_storage, offset, size, stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _bytes(text: str, *_: Any) -> bytes:
    """Bytes as old pickle protocols write them."""
    return text.encode("latin1")


def _instance(*_: Any) -> InertObject:
    return InertObject()


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("copyreg", "_reconstructor"): _instance,
    ("_codecs", "encode"): _bytes,
    ("builtins", "object"): InertObject,
}


class TensorUnpickler(pickle._Unpickler):  # the one in C makes a table of any size that a file names
    """Unpickler of containers, tensors and inert objects. Raises ``UnpicklingError`` for every other name."""

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)

    def _build(self) -> None:
        """Give an object its state, as the opcode BUILD asks."""
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state, target = stack.pop(), stack[-1]
        if isinstance(target, InertObject):
            target.__setstate__(state)
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            target.__dict__.update(state)  # the versions of a state dict's modules
        else:
            raise pickle.UnpicklingError(f"it alters a {type(target).__name__}, which a network does not need")

    dispatch[pickle.BUILD[0]] = _build

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # in old protocols
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module.split(".")[0] in INERT_PACKAGES or (module, name) in INERT_NAMES:
            return InertObject
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a network does not need")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside the file")


def unreadable_error(path: Path, kind: str, error: Exception) -> ValueError:
    """``ValueError`` for a file that could not be read as ``kind`` (a noun): it holds code, is damaged or foreign."""
    text = f"it has the unknown code {error}" if isinstance(error, KeyError) else str(error)
    named = re.search(r"GLOBAL (\S+)|it names (\S+?),", text)
    torch_reason = re.search(r"WeightsUnpickler error: ([^\n]*)", text)  # without its advice to execute the file
    detail = re.split(r"\.\s|\n|\.$", torch_reason[1] if torch_reason else text)[0]
    if named:
        reason = f"it names {named[1] or named[2]}, which is code and no tensor"
        advice = "Take a file of bare weights from its publisher."
    else:
        reason = f"it is damaged, cut short or of another format ({detail or type(error).__name__})"
        advice = "Fetch it again, or name its format."
    article = "an" if kind[0] in "aeio" else "a"
    return ValueError(f"{path} cannot be read as {article} {kind}: {reason}. Nothing in it was executed. {advice}")


def read_tensors(path: Path, root: str) -> dict[str, Tensor]:
    """Parameters and buffers, by name, of the module under the key ``root`` of a pickled dictionary.

    Raises ``ValueError`` for a file that is damaged, holds no such module, or names anything but tensors and
    containers. Nothing in the file is executed.
    """
    try:
        with path.open("rb") as file:
            content = TensorUnpickler(file).load()
        module = content.get(root) if isinstance(content, dict) else None
        named = _named(module, str(path)) if isinstance(module, InertObject) else None
    except BoundError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise unreadable_error(path, "pickled network", error) from error
    if named is None:
        raise ValueError(f"{path} must hold a dictionary with a network under {root!r}; it does not.")
    return named


def _named(root: InertObject, source: str) -> dict[str, Tensor]:
    """Tensors of a module and its children. A module may be its own child: depth and number of modules are bounded."""
    named, modules, waiting = dict[str, Tensor](), 0, [("", root, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        modules += 1
        check_bound("depth", depth, source)
        check_bound("tensors", modules + len(named), source)
        non_persistent = module.state.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, value in (module.state.get(kind) or {}).items():
                if isinstance(value, Tensor) and not (kind == "_buffers" and name in non_persistent):
                    named[f"{prefix}{name}"] = value.detach()
        children = (module.state.get("_modules") or {}).items()
        waiting += [
            (f"{prefix}{name}.", child, depth + 1) for name, child in children if isinstance(child, InertObject)
        ]
    return named
