"""Description of parts as JSON: class, all that they hold, and where that cannot be determined.

Everything counts: public and private attributes, buffers that no state dict holds, hooks, settings of parts of parts,
and the data among the class attributes of classes from elsewhere. Left out are

- the names that a part's class lists in ``not_identifying``: settings of speed, and values that follow from others;
- values of ``functools.cached_property``, which follow from others too;
- what PyTorch and Lightning keep in every module, such as the training mode.

A part with a method ``identity()`` is described by what it returns. Lambdas, closures and objects that cannot be taken
apart are listed as undetermined.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.naming.public_names import is_ours
from common.records.attributes import attributes_of, class_name, identity_of, left_out, unsaved_arguments, unwrapped
from common.records.callables import FUNCTIONS, name_of, owner_of, why_undetermined
from common.records.tensors import described_array, described_tensor, weights_hash

LONGEST = 4096  # characters of JSON up to which settings of a part from elsewhere are kept; longer ones are hashed
MANY = 64  # entries of a list that are hashed if they are plain
_TEXTS = (PurePath, torch.dtype, torch.device, torch.layout, torch.memory_format, complex, slice)


@dataclass
class Describer:
    """``describe(part, path)``: the part as JSON. One for all parts of a run.

    ``undetermined``: places that cannot be determined, with the reason. ``modules``: the outermost modules by place.
    """

    undetermined: list[str] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    _known: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # with the part itself, so that its id stays

    def describe(self, part: Any, path: str = "", inside: bool = False) -> Any:
        """The part at ``path``; ``inside`` a module whose weights are hashed as a whole."""
        if isinstance(part, float) and not math.isfinite(part):
            return str(part)
        if part is None or (isinstance(part, bool | int | float | str) and not isinstance(part, Enum)):
            return part
        if isinstance(part, Tensor | np.ndarray | np.generic):
            return self._numbers(part, path)
        if isinstance(part, Enum):
            return part.value if isinstance(part, str) else f"{class_name(part)}.{part.name}"
        if isinstance(part, _TEXTS):
            return str(part)
        if isinstance(part, bytes | bytearray):
            return {"sha256": hashlib.sha256(part).hexdigest()}
        if id(part) in self._known:
            return self._known[id(part)][1]
        self._known[id(part)] = part, {"same as": path}  # a part that holds itself
        description = self._nested(part, path, inside)
        self._known[id(part)] = part, description
        return description

    def _nested(self, part: Any, path: str, inside: bool) -> Any:
        if isinstance(part, Mapping):
            return self._mapping(part, path, inside)
        if isinstance(part, list | tuple | set | frozenset | range):
            return self._sequence(part, path, inside)
        if isinstance(part, ModuleType):
            return part.__name__
        if isinstance(part, partial):
            of = self.describe(part.func, f"{path}.func", inside)
            return {"partial": of, "arguments": self.describe([*part.args, part.keywords], path, inside)}
        if isinstance(part, FUNCTIONS):
            return self._function(part, path, inside)
        if isinstance(part, nn.Module):
            return self._module(part, path, inside)
        return self._object(part, path, inside)

    def _numbers(self, part: Any, path: str) -> Any:
        if isinstance(part, np.generic):
            return self.describe(part.item(), path)
        if isinstance(part, np.ndarray) and part.dtype.hasobject:
            return self.describe(part.tolist(), path)
        try:
            return described_array(part) if isinstance(part, np.ndarray) else described_tensor(part)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            return self._undetermined(class_name(part), path, "a tensor without values of its own")

    def _mapping(self, part: Mapping[Any, Any], path: str, inside: bool) -> Any:
        if all(isinstance(key, str) for key in part):
            return {str(key): self.describe(value, f"{path}.{key}", inside) for key, value in part.items()}
        pairs = part.items()
        described = [[self.describe(key, path), self.describe(value, f"{path}.{key}", inside)] for key, value in pairs]
        return sorted(described, key=json.dumps)

    def _sequence(self, part: Any, path: str, inside: bool) -> Any:
        if len(part) > MANY:
            try:
                text = f"{type(part).__name__} of {part}" if isinstance(part, range) else json.dumps(part)
                return {"entries": len(part), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            except TypeError:
                pass
        listed = [self.describe(value, f"{path}.{place}", inside) for place, value in enumerate(part)]
        return sorted(listed, key=json.dumps) if isinstance(part, set | frozenset) else listed

    def _function(self, part: Any, path: str, inside: bool) -> Any:
        owner, name = owner_of(part), name_of(part)
        if owner is not None:
            return {"method": name, "of": self.describe(owner, path, inside)}
        if isinstance(part, type):
            return name
        if reason := why_undetermined(part):
            return self._undetermined(name, path, reason)
        held = self.describe(vars(part), path, inside) if getattr(part, "__dict__", None) else {}
        held.pop("__wrapped__", None)
        return {"function": name, **held} if held else name

    def _module(self, part: nn.Module, path: str, inside: bool) -> Any:
        part = unwrapped(part)
        if not inside:
            self.modules[path] = part
        weights = {} if inside else {"weights": weights_hash(part)}
        name, config = class_name(part), getattr(part, "config", None)
        if (identity := identity_of(part)) is not None:
            return {"class": name, **self._mapping(identity, path, inside=True), **weights}
        if not is_ours(type(part)):
            return {"class": name, **self._foreign(part, path), **weights}
        if isinstance(config, Mapping):
            rest = _hash(self._foreign(part, path))
            return {"class": name, **self._mapping(config, path, inside=True), "rest": rest, **weights}
        held = {key: self.describe(value, f"{path}.{key}", inside=True) for key, value in attributes_of(part)}
        return {"class": name, **held, **weights}

    def _foreign(self, module: nn.Module, path: str) -> dict[str, Any]:
        """``settings`` of a module, and ``parts``: class and settings of each part; hashed where they are long."""
        found: dict[str, Any] = {"settings": self._own(module, path)}
        own = [(name, class_name(part), self._own(part, f"{path}.{name}")) for name, part in _parts(module)]
        parts = _short([[name, {"class": kind, **held}] for name, kind, held in own])
        found["parts"] = dict(parts) if isinstance(parts, list) else parts
        found["order"] = [name for name, *_ in own] if isinstance(parts, list) and len(own) > 1 else []
        return {key: value for key, value in found.items() if value}

    def _own(self, part: nn.Module, path: str) -> dict[str, Any]:
        """A module without its parts; one with ``identity`` by that."""
        if (identity := identity_of(part)) is not None:
            return dict(self._mapping(identity, path, inside=True))
        held = [(name, value) for name, value in attributes_of(part) if name not in part._modules]
        return {name: _short(self.describe(value, f"{path}.{name}", inside=True)) for name, value in held}

    def _object(self, part: Any, path: str, inside: bool) -> Any:
        name = class_name(part)
        if (identity := identity_of(part)) is not None:
            return {"class": name, **self._mapping(identity, path, inside)}
        try:
            held = list(attributes_of(part))
        except Exception as error:  # of a method of the part's own
            return self._undetermined(name, path, f"an object of {name}, which cannot be taken apart ({error})")
        for argument in unsaved_arguments(part):
            self._undetermined(name, f"{path}.{argument}", "an argument that is kept nowhere")
        described = {key: self.describe(value, f"{path}.{key}", inside) for key, value in held}
        return {"class": name, **described}

    def _undetermined(self, name: str, path: str, reason: str) -> dict[str, str]:
        self.undetermined.append(f"{path}: {reason}")
        return {"class": name, "undetermined": reason}


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Parts at any depth by name, in their order, without those inside a part that has an ``identity``."""
    hidden = left_out(type(module))
    for name, part in module._modules.items():
        if part is not None and name not in hidden:
            yield name, unwrapped(part)
            if identity_of(part) is None:
                yield from ((f"{name}.{inner}", one) for inner, one in _parts(unwrapped(part)))


def _short(value: Any) -> Any:
    """A description as it is, or its hash where it is long."""
    return value if len(json.dumps(value)) <= LONGEST else _hash(value)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
