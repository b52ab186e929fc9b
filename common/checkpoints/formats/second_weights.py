"""Other sets of weights in a file, by whatever key, beside the one that is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from common.checkpoints.formats.wrapped_names import plain_names

DEPTH = 4  # of nested mappings


def weight_places(content: Any, network: nn.Module) -> list[str]:
    """Dotted keys of the parts of a file that hold tensors of the shapes of all trained weights of a network.

    By name, with or without prefixes of wrappers, or as a list in their order.
    """
    shapes = {name: value.shape for name, value in network.named_parameters()}
    return list(_places(content, shapes, "", DEPTH)) if shapes else []


def _places(content: Any, shapes: Mapping[str, Any], path: str, depth: int) -> Iterator[str]:
    if isinstance(content, list | tuple):
        tensors = [value for value in content if isinstance(value, Tensor)]
        if len(tensors) == len(content) and [value.shape for value in tensors] == list(shapes.values()):
            yield path
    elif isinstance(content, Mapping):
        mapped = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        named = plain_names(mapped, shapes) if len(mapped) >= len(shapes) else {}
        if all(name in named and named[name].shape == shape for name, shape in shapes.items()):
            yield path
        elif depth:
            for key, value in content.items():
                yield from _places(value, shapes, f"{path}.{key}".lstrip("."), depth - 1)
