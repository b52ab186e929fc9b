"""Networks without weights; state dicts: checks, and assignment to a module that has exactly these tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.checks.bounds import check_bound

FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}
SMALL = 1 << 26  # numbers that any part may compute, such as noise schedules


class _Bounded(TorchFunctionMode):
    """Count tensors and numbers that a part makes, against the bounds ``tensors`` and ``weights``."""

    def __init__(self, weights: int | None, initial_values: bool) -> None:
        super().__init__()
        self.weights, self.initial_values = weights, initial_values
        self.tensors = self.numbers = 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        initial = (
            function in (Tensor.uniform_, Tensor.normal_) or getattr(function, "__module__", "") == nn.init.__name__
        )
        if initial and not self.initial_values:
            return args[0] if args else kwargs["tensor"]
        result = function(*args, **kwargs)
        if self.weights is not None and function in FACTORIES:
            self.tensors, self.numbers = self.tensors + 1, self.numbers + result.numel()
            check_bound("tensors", self.tensors, "it")
            check_bound("weights", self.numbers, "it", unit=self.weights, allowed=SMALL)
        return result


@contextmanager
def without_weights(weights: int | None = None) -> Iterator[None]:
    """Build networks on the meta device, without initial values: `assign_state` gives them their weights.

    Random initialisation is skipped: on the meta device it computes no value, but takes seconds. ``weights``: number of
    numbers in the file that describes the network, see `bounded`.
    """
    with torch.device("meta"), _Bounded(weights, initial_values=False):
        yield


@contextmanager
def bounded(weights: int | None) -> Iterator[None]:
    """Build a part that may make as many tensors and numbers as bounded for a file of ``weights`` numbers.

    Raises `BoundError` in the constructor beyond that; None sets no bound.
    """
    with _Bounded(weights, initial_values=True):
        yield


def assign_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """``module`` with exactly the tensors of ``state`` (from ``source``) in its own types, in evaluation mode.

    Raises ``ValueError`` for tensors that are missing, unexpected, of another shape, complex, integer in place of
    floating point, or not finite in the module's types.
    """
    expected = module.state_dict()
    check_state(expected, state, source)
    _check_kinds(expected, state, source)
    check_finite(module, state, source)
    cast = {name: value.to(expected[name].dtype) for name, value in state.items()}
    _check_range(cast, state, source)
    module.load_state_dict(cast, assign=True)
    unfilled = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if unfilled:
        raise ValueError(f"{type(module).__qualname__} has tensors that no checkpoint fills: {list_names(unfilled)}.")
    return module.eval()


def check_state(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise ``ValueError`` unless names and shapes agree; the message lists the tensors that do not."""
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    differences = {"missing": missing, "left over": extra, "of another shape": shapes}
    if any(differences.values()):
        listed = "; ".join(f"{kind}: {list_names(names)}" for kind, names in differences.items() if names)
        raise ValueError(
            f"the tensors of {source} must be exactly those of the network it describes. {listed}. "
            "Check the format and the config."
        )


def _check_kinds(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise ``ValueError`` for values that a cast would change: complex ones, and codes in place of numbers."""
    bad = [
        f"{name} ({str(value.dtype).removeprefix('torch.')})"
        for name, value in state.items()
        if value.is_quantized
        or (value.is_complex() and not expected[name].is_complex())
        or (expected[name].is_floating_point() and not value.is_floating_point())
    ]
    if bad:
        raise ValueError(
            f"the weights of {source} must be real floating-point numbers, as those of the network are; others came in "
            f"{list_names(bad)}. A cast would lose their imaginary part or their scale: store them as float32."
        )


def _check_range(cast: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise ``ValueError`` where a cast made finite numbers infinite, or all numbers of a tensor zero."""
    bad = [
        f"{name} ({str(state[name].dtype).removeprefix('torch.')}, up to {float(state[name].abs().max()):.3g})"
        for name, value in cast.items()
        if value.is_floating_point() and value.dtype != state[name].dtype and _is_lost(value, state[name])
    ]
    if bad:
        raise ValueError(
            f"the weights of {source} must lie in the range of the network's type; beyond it are {list_names(bad)}. "
            "Its training diverged, or they need a network of a wider type."
        )


def _is_lost(cast: Tensor, value: Tensor) -> bool:
    overflow = bool((torch.isfinite(value) & ~torch.isfinite(cast)).any())
    return overflow or (bool(value.any()) and not bool(cast.any()))


def _is_mask(value: Tensor) -> bool:
    """True for a tensor of 0 and -inf alone, as attention adds to its logits."""
    return value.is_floating_point() and bool(((value == 0) | value.isneginf()).all())


def check_finite(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raise ``ValueError`` for tensors of a module with NaN or infinity, except for masks among its buffers."""
    masks = {name for name, _ in module.named_buffers() if name in state and _is_mask(state[name])}
    numbers = {name: value for name, value in state.items() if name not in masks and not value.is_quantized}
    bad = [name for name, value in numbers.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"the weights of {source} must be finite numbers; NaN or infinity came in {list_names(bad)}. "
            "Its training diverged, or the file is damaged: use another one."
        )


def list_names(names: Sequence[str]) -> str:
    """The names separated by commas; of more than five, the first five and the number of the others."""
    first = ", ".join(names[:5])
    return first if len(names) <= 5 else f"{first} and {len(names) - 5} more"


def copy_shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where they share memory with an earlier one: safetensors refuses shared memory."""
    seen: set[int] = set()
    copied = {}
    for name, value in state.items():
        address = value.untyped_storage().data_ptr()
        copied[name] = value.clone() if address in seen else value
        seen.add(address)
    return copied
