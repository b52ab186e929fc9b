"""Description of parts as JSON: class, all that they hold, and where that cannot be determined.

Everything counts: public and private attributes, buffers that no state dict holds, hooks, settings of parts of parts,
and of classes from elsewhere class attributes that are data and globals that their functions read. Left out are names
that a class lists in ``not_identifying``, ``cached_property`` as computed, and what PyTorch and Lightning keep.

A part with a method ``identity()`` is described by what it returns. Lambdas and closures are undetermined.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from common.records.attributes import (
    attributes_of_class,
    class_name,
    identity_of,
    of_lightning,
    parts_of,
    unsaved_arguments,
    unwrapped,
)
from common.records.cached_values import held_by
from common.records.callables import FUNCTIONS, found_by_import, name_of, owner_of, why_undetermined
from common.records.checksums import tensor_checksums
from common.records.dotted_paths import hash_of
from common.records.globals_read import globals_of
from common.records.methods import method_reason
from common.records.pickling import is_installed
from common.records.subclasses import beyond_value
from common.records.tensors import (
    FEW,
    described_array,
    described_tensor,
    saved_tensors,
    storage_of,
    tensors_hash,
    weights_hash,
    weights_of,
)

LONGEST = 4096  # characters of JSON up to which settings of a part from elsewhere are kept; longer ones are hashed
MANY = 64  # entries of a list that are hashed if they are plain
_WITH_VALUE = (int, float, str, Tensor, np.ndarray, Mapping, list, tuple, set, frozenset)
_TEXTS = (PurePath, torch.dtype, torch.device, torch.layout, torch.memory_format, complex, slice)


@dataclass
class Describer:
    """``describe(part, path)``: the part as JSON. One for all parts of a run.

    ``undetermined``: places that cannot be determined, with the reason. ``modules``: the outermost modules by place.
    ``cheap``: for comparison in a process, with checksums of tensors, without weights of outermost modules and hooks.
    """

    undetermined: list[str] = field(default_factory=list)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    cheap: bool = False
    _hashed: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)  # in state dicts of ``modules``, by storage
    _ordered: bool = False  # inside a user's part, which may go through a dictionary in its order
    _known: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # with the part itself, so that its id stays

    def describe(self, part: Any, path: str = "", inside: bool = False) -> Any:
        """The part at ``path``; ``inside`` a module whose weights are hashed as a whole."""
        if not isinstance(part, _WITH_VALUE) or not (beyond := beyond_value(part)):
            return self._described(part, path, inside)
        if id(part) in self._known:
            return self._known[id(part)][1]
        self._known[id(part)] = part, {"same as": path}
        held = {name: self.describe(value, f"{path}.{name}", inside) for name, value in beyond.items()}
        self._known.pop(id(part))
        described = {**held, "value": self._described(part, path, inside)}
        self._known[id(part)] = part, described
        return described

    def _described(self, part: Any, path: str, inside: bool) -> Any:
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
        if isinstance(part, Mapping) and self._ordered and not of_lightning(type(part)):
            return self._ordered_mapping(part, path, inside)
        if isinstance(part, Mapping):
            return self._mapping(part, path, inside)
        if isinstance(part, list | tuple | set | frozenset | range):
            return self._sequence(part, path, inside)
        if isinstance(part, ModuleType):
            return part.__name__
        if isinstance(part, partial):
            of = self.describe(part.func, f"{path}.func", inside)
            return {"partial": of, "arguments": self.describe([*part.args, dict(part.keywords)], path, inside)}
        if isinstance(part, FUNCTIONS):
            return self._function(part, path, inside)
        with self._within(part):
            return (self._module if isinstance(part, nn.Module) else self._object)(part, path, inside)

    @contextmanager
    def _within(self, part: Any) -> Iterator[None]:
        outside, self._ordered = self._ordered, not is_installed(type(unwrapped(part)))
        yield
        self._ordered = outside

    def _numbers(self, part: Any, path: str) -> Any:
        if isinstance(part, np.generic):
            return self.describe(part.item(), path)
        if isinstance(part, np.ndarray) and part.dtype.hasobject:
            return self.describe(part.tolist(), path)
        if self.cheap and isinstance(part, Tensor) and part.numel() > FEW and not part.is_meta:
            kind = str(part.dtype).removeprefix("torch.")
            return {"dtype": kind, "shape": list(part.shape), "checksum": str(tensor_checksums({"": part}))}
        try:
            return described_array(part) if isinstance(part, np.ndarray) else described_tensor(part)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            return self._undetermined(class_name(part), path, "a tensor without values of its own")

    def _mapping(self, part: Mapping[Any, Any], path: str, inside: bool) -> Any:
        if all(isinstance(key, str) for key in part):
            return {str(key): self.describe(value, f"{path}.{key}", inside) for key, value in part.items()}
        pairs = self._pairs(part, path, inside)
        return {json.dumps(key): value for key, value in pairs} if self.cheap else sorted(pairs, key=json.dumps)

    def _pairs(self, part: Mapping[Any, Any], path: str, inside: bool) -> list[list[Any]]:
        return [[self.describe(key, path), self.describe(part[key], f"{path}.{key}", inside)] for key in part]

    def _ordered_mapping(self, part: Mapping[Any, Any], path: str, inside: bool) -> Any:
        """A mapping with the order of its keys, where they are not sorted."""
        if not isinstance(described := self._mapping(part, path, inside), dict):
            return self._pairs(part, path, inside)
        return described if self.cheap or sorted(part) == [*part] else {**described, "order of keys": [*map(str, part)]}

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
            if reason := method_reason(part):
                return self._undetermined(name, path, reason)
            return {"method": name, "of": self.describe(owner, path, inside)}
        if isinstance(part, type):
            held = {} if found_by_import(part) else dict(attributes_of_class(part))
            return {"class object": name, **self._mapping(held, path, inside)} if held else name
        if reason := why_undetermined(part):
            return self._undetermined(name, path, reason)
        held = self.describe({**globals_of(part), **getattr(part, "__dict__", {})}, path, inside)
        held.pop("__wrapped__", None)
        return {"function": name, **held} if held else name

    def _module(self, part: nn.Module, path: str, inside: bool) -> Any:
        part = unwrapped(part)
        if not inside:
            self.modules[path] = part
            self._hashed |= {storage_of(value): value for value in saved_tensors(part).values()}
        weights = {} if inside or self.cheap else {"weights": weights_hash(part)}
        name, config = class_name(part), getattr(part, "config", None)
        if (identity := identity_of(part)) is not None:
            return {"class": name, **self._mapping(identity, path, inside=True), **weights, **self._unsaved(part, True)}
        if not is_ours(type(part)):
            return {"class": name, **self._foreign(part, path), **weights}
        if isinstance(config, Mapping):
            rest = self._foreign(part, path) if self.cheap else hash_of(self._foreign(part, path))
            return {"class": name, **self._mapping(config, path, inside=True), "rest": rest, **weights}
        kept = [
            (key, value) for key, value in held_by(part, Describer, self.cheap) if not (self.cheap and key == "hooks")
        ]
        held = {key: self.describe(value, f"{path}.{key}", inside=True) for key, value in kept}
        return {"class": name, **held, **weights, **self._unsaved(part)}

    def _foreign(self, module: nn.Module, path: str) -> dict[str, Any]:
        """``settings`` of a module, and ``parts``: class and settings of each part; hashed where they are long."""
        found: dict[str, Any] = {"settings": self._own(module, path)}
        own = [(name, class_name(part), self._own(part, f"{path}.{name}")) for name, part in parts_of(module)]
        parts = self._short([[name, {"class": kind, **held}] for name, kind, held in own])
        found["parts"] = dict(parts) if isinstance(parts, list) else parts
        found["order"] = [name for name, *_ in own] if isinstance(parts, list) and len(own) > 1 else []
        return {key: value for key, value in found.items() if value}

    def _own(self, part: nn.Module, path: str) -> dict[str, Any]:
        """A module without its parts; one with ``identity`` by that."""
        if (identity := identity_of(part)) is not None:
            return {**self._mapping(identity, path, inside=True), **self._unsaved(part, True)}
        without = {*part._modules, *(["hooks"] if self.cheap else [])}  # the project's own come and go
        held = [(name, value) for name, value in held_by(part, Describer, self.cheap) if name not in without]
        with self._within(part):
            described = {name: self._short(self.describe(value, f"{path}.{name}", inside=True)) for name, value in held}
        return {**described, **self._unsaved(part)}

    def _unsaved(self, part: nn.Module, recurse: bool = False) -> dict[str, str]:
        """Hash of the weights that no state dict of an outer module holds, such as those of a module in a list."""
        own = weights_of(part, recurse).items()
        unsaved = {name: value for name, value in own if storage_of(value) not in self._hashed}
        hashed = str(tensor_checksums(unsaved)) if self.cheap else tensors_hash(unsaved)
        return {"unsaved weights": hashed} if unsaved else {}

    def _object(self, part: Any, path: str, inside: bool) -> Any:
        name = class_name(part)
        if (identity := identity_of(part)) is not None:
            return {"class": name, **self._mapping(identity, path, inside)}
        try:
            held = list(held_by(part, Describer, self.cheap))
        except Exception as error:  # of a method of the part's own
            return self._undetermined(name, path, f"an object of {name}, which cannot be taken apart ({error})")
        for argument in unsaved_arguments(part):
            self._undetermined(name, f"{path}.{argument}", "an argument that is kept nowhere")
        described = {key: self.describe(value, f"{path}.{key}", inside) for key, value in held}
        return {"class": name, **described}

    def _short(self, value: Any) -> Any:
        """A description as it is, or its hash where it is long."""
        return value if self.cheap or len(json.dumps(value)) <= LONGEST else hash_of(value)

    def _undetermined(self, name: str, path: str, reason: str) -> dict[str, str]:
        self.undetermined.append(f"{path}: {reason}")
        return {"class": name, "undetermined": reason}
