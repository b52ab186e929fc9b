"""Interfaces of ranks that help each other: a board of numbers and texts, and work in slices."""

import io
from typing import Any, Protocol

import torch
from torch import Tensor

from common.robustness.classifiers import Classifier


class Board(Protocol):
    """Numbers and texts that all ranks share (`common.processes.counters`)."""

    def add(self, name: str, amount: int) -> int:
        """Add to a number, 0 at first; the sum."""

    def put(self, name: str, content: bytes) -> None:
        """Publish a text."""

    def get(self, name: str) -> bytes | None:
        """A published text; None if there is none."""

    def remove(self, *names: str) -> None:
        """Forget numbers and texts."""


class Slices(Protocol):
    """Work in slices, each a function of what is published: `Samples`, or the draws of an attack."""

    @property
    def slices(self) -> int:
        """Number of slices."""

    def content(self) -> dict[str, Any]:
        """Tensors and numbers for the other ranks."""

    def part(self, classifier: Classifier, number: int) -> dict[str, Tensor]:
        """Result of slice ``number``."""


def packed(content: dict[str, Any]) -> bytes:
    """Tensors and numbers as bytes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def unpacked(content: bytes) -> dict[str, Any]:
    """Tensors and numbers of `packed` bytes."""
    found: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return found


def device_of(classifier: Classifier) -> torch.device:
    """The device of a classifier's parameters or buffers; the CPU where there are none."""
    tensors = (*classifier.parameters(), *classifier.buffers())
    return next((one.device for one in tensors), torch.device("cpu"))


def on_device(device: torch.device, content: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a content on a device, also those in lists."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        return value.to(device) if isinstance(value, Tensor) else value

    return {name: moved(value) for name, value in content.items()}
