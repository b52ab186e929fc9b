"""The tensors in a pickled network, without running anything that the pickle asks for.

EDM publishes pickles of whole Python objects, source code included, which `pickle.load` would execute. `read_tensors`
lets a pickle build containers and tensors; every object of another library becomes an inert shell that merely keeps its
state, and whatever else a pickle names (``os.system``, ``eval``, ...) is refused before anything of the kind is called.
"""

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SHELLS = ("dnnlib", "numpy", "torch", "torch_utils", "training")


class Shell:
    """What is left of an object of another library: the state it was pickled with, whatever made it."""

    state: dict[Any, Any]

    def __new__(cls, *_: Any, **__: Any) -> "Shell":  # a pickle may skip __init__
        shell = super().__new__(cls)
        shell.state = {}
        return shell

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes any arguments and ignores them."""

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            self.state.update(part if isinstance(part, Mapping) else {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[key] = value

    def append(self, _: Any) -> None:
        """Items of a list-like object are dropped."""

    def extend(self, _: Any) -> None:
        """Items of a list-like object are dropped."""


def _persistent(meta: Any, *_: Any) -> Shell:
    """An object pickled with its source code: its state is kept, the source is not looked at."""
    shell = Shell()
    kept = meta.state if isinstance(meta, Shell) else meta
    shell.__setstate__(kept.get("state") if isinstance(kept, Mapping) else None)
    return shell


def _storage(data: bytes) -> Any:
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
    """How old pickle protocols write bytes."""
    return text.encode("latin1")


def _instance(*_: Any) -> Shell:
    return Shell()


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("copyreg", "_reconstructor"): _instance,
    ("_codecs", "encode"): _bytes,
    ("builtins", "object"): Shell,
}


class TensorUnpickler(pickle.Unpickler):
    """Builds containers, tensors and shells; ``UnpicklingError`` for every other name."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)  # in old protocols
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module.split(".")[0] in SHELLS:
            return Shell
        raise pickle.UnpicklingError(f"it names {module}.{name}, which a network does not need")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to data outside the file")


def unreadable(path: Path, what: str, error: Exception) -> ValueError:
    """What to say of a file that could not be read as ``what`` (a noun): it holds code, or is damaged, or foreign."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)|it names (\S+?),", text)
    shown = re.search(r"WeightsUnpickler error: ([^\n]*)", text)  # around it torch advises to run the file
    detail = re.split(r"\.\s|\n|\.$", shown[1] if shown else text)[0]
    if named:
        reason = f"it names {named[1] or named[2]}, which is code and no tensor"
        advice = "Take a file of bare weights from its publisher."
    else:
        reason = f"it is damaged, cut short or of another format ({detail or type(error).__name__})"
        advice = "Fetch it again, or name its format."
    article = "an" if what[0] in "aeio" else "a"
    return ValueError(f"{path} cannot be read as {article} {what}: {reason}. Nothing in it was run. {advice}")


def read_tensors(path: Path, root: str) -> dict[str, Tensor]:
    """Parameters and buffers, by name, of the module under the key ``root`` of a pickled dictionary.

    Raises ``ValueError`` for a file that is damaged, holds no such module, or names what a network does not need.
    Nothing in the file is executed in any case.
    """
    try:
        with path.open("rb") as file:
            content = TensorUnpickler(file).load()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise unreadable(path, "pickled network", error) from error
    module = content.get(root) if isinstance(content, dict) else None
    if not isinstance(module, Shell):
        raise ValueError(f"{path} must hold a dictionary with a network under {root!r}; it does not.")
    return dict(_named(module, ""))


def _named(module: Shell, prefix: str) -> list[tuple[str, Tensor]]:
    out: list[tuple[str, Tensor]] = []
    passing = module.state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.state.get(kind) or {}).items():
            if isinstance(value, Tensor) and not (kind == "_buffers" and name in passing):
                out.append((prefix + name, value.detach()))
    for name, child in (module.state.get("_modules") or {}).items():
        if isinstance(child, Shell):
            out += _named(child, f"{prefix}{name}.")
    return out
