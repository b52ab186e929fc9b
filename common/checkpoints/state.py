"""Networks without weights; state dicts: checks, and assignment to a module that has exactly these tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _NoInitialValues(TorchFunctionMode):
    """Random initialisation is skipped: on the meta device it computes no value, but takes seconds."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.uniform_, Tensor.normal_) or getattr(function, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build networks on the meta device, without initial values: `assign_state` gives them their weights."""
    with torch.device("meta"), _NoInitialValues():
        yield


def assign_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """``module`` with exactly the tensors of ``state`` (from ``source``) in its own types, in evaluation mode.

    Raises ``ValueError`` for tensors that are missing, unexpected, of another shape, complex, integer in place of
    floating point, or not finite in the module's types.
    """
    expected = module.state_dict()
    check_state(expected, state, source)
    _check_kinds(expected, state, source)
    check_finite(state, source)
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
    """Raise ``ValueError`` where a cast made finite numbers infinite."""
    bad = [
        f"{name} ({str(state[name].dtype).removeprefix('torch.')}, up to {float(state[name].abs().max()):.3g})"
        for name, value in cast.items()
        if value.is_floating_point() and value.dtype != state[name].dtype and not torch.isfinite(value).all()
    ]
    if bad:
        raise ValueError(
            f"the weights of {source} must lie in the range of the network's type; beyond it are {list_names(bad)}. "
            "Its training diverged, or they need a network of a wider type."
        )


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise ``ValueError`` for tensors with NaN or infinity."""
    bad = [name for name, value in state.items() if not value.is_quantized and not torch.isfinite(value).all()]
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
