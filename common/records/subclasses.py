"""Subclasses of numbers, texts, tensors and containers: their class, and attributes beside the value."""

from collections import defaultdict
from enum import Enum
from typing import Any

import torch

from common.naming.public_names import is_ours
from common.records.attributes import attributes_of_class, class_name, left_out
from common.records.methods import of_library
from common.records.pickling import is_installed


def beyond_value(part: Any) -> dict[str, Any]:
    """Attributes of a number, text, tensor or container, and its class if a user defines it."""
    kind = type(part)
    foreign = not (of_library(kind) or is_ours(kind) or is_installed(kind) or issubclass(kind, Enum))
    own = {"class": class_name(part), **dict(attributes_of_class(kind))} if foreign else {}
    if own or isinstance(part, torch.Tensor):
        state = object.__getstate__(part)  # type: ignore[attr-defined]
        for entry in state if isinstance(state, tuple) else (state,):
            own |= {name: value for name, value in (entry or {}).items() if name not in left_out(kind)}
    if isinstance(part, defaultdict) and part.default_factory is not None:
        own["default_factory"] = part.default_factory
    return own
