"""Tensors by name -> a module that holds exactly these."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def existing(path: str | Path) -> Path:
    """The path of a file that is there; ``FileNotFoundError`` otherwise, and ``ValueError`` for a web page."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise FileNotFoundError(f"a checkpoint is a file; {path} is a folder. Name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path} (from {Path.cwd()}). Check the path, or train or fetch it."
        )
    with path.open("rb") as file:
        if file.read(64).lstrip()[:1] == b"<":
            raise ValueError(f"{path} must be a checkpoint and is a web page: its download failed. Fetch it again.")
    return path


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """``module`` with exactly the tensors of ``state`` (from ``source``) in its own types, in evaluation mode.

    Raises ``ValueError`` that names what is missing, left over, of another shape, or not finite.
    """
    expected = module.state_dict()
    compare(expected, state, source)
    _check_finite(state, source)
    module.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, assign=True)
    unfilled = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if unfilled:
        raise ValueError(f"{type(module).__qualname__} has tensors that no checkpoint fills: {some(unfilled)}.")
    return module.eval()


def compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raises ``ValueError`` unless names and shapes agree; it names what is missing, left over or of another shape."""
    missing = [name for name in expected if name not in state]
    extra = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    found = {"missing": missing, "left over": extra, "of another shape": shapes}
    if any(found.values()):
        listed = "; ".join(f"{what}: {some(names)}" for what, names in found.items() if names)
        raise ValueError(
            f"the tensors of {source} must be exactly those of the network it describes. {listed}. "
            "Check the format and the config."
        )


def _check_finite(state: Mapping[str, Tensor], source: str) -> None:
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"the weights of {source} must be finite numbers; NaN or infinity came in {some(bad)}. "
            "Its training diverged, or the file is damaged: use another one."
        )


def some(names: Sequence[str]) -> str:
    """The names, or the first five of them and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory with others are copied; safetensors stores none twice and refuses them."""
    seen: set[int] = set()
    out = {}
    for name, value in state.items():
        address = value.untyped_storage().data_ptr()
        out[name] = value.clone() if address in seen else value
        seen.add(address)
    return out
