"""Tensors by name -> a module that holds exactly these."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn


def existing(path: str | Path) -> Path:
    """The path of a file that is there; ``FileNotFoundError`` otherwise."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path} (from {Path.cwd()}). Check the path, or train or fetch it."
        )
    return path


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """``module`` with exactly the tensors of ``state`` (from ``source``) in its own types, in evaluation mode.

    Raises ``ValueError`` that names what is missing, left over or of another shape.
    """
    expected = module.state_dict()
    compare(expected, state, source)
    module.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, assign=True)
    unfilled = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if unfilled:
        raise ValueError(f"{type(module).__qualname__} has tensors that no checkpoint fills: {_some(unfilled)}.")
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
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)
        raise ValueError(
            f"the tensors of {source} must be exactly those of the network it describes. {listed}. "
            "Check the format and the config."
        )


def _some(names: list[str]) -> str:
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
