"""Files -> networks, denoisers and classifiers; nothing in a file is ever executed.

Our own format is safetensors with a JSON description in its metadata (see `common.description`), so that a file needs
nothing but its path::

    save(denoiser, "denoiser.safetensors")
    denoiser = load_denoiser("denoiser.safetensors")
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.description import build, describe
from common.diffusion.denoisers import Denoiser
from common.identity import weights_hash as fingerprint
from common.robustness.classifiers import Classifier

Format = Literal["safetensors", "score_sde", "guided_diffusion", "edm", "sdedit_ddpm", "robustbench_wrn"]

M = TypeVar("M", bound=nn.Module)

FORMAT_VERSION = 1
METADATA_KEY = "robust_diffusion"

__all__ = [
    "Format",
    "fill",
    "fingerprint",
    "load",
    "load_classifier",
    "load_denoiser",
    "load_network",
    "save",
    "sha256",
]


def sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def save(module: nn.Module, path: str | Path, notes: Mapping[str, Any] | None = None) -> Path:
    """Write a network, denoiser or classifier to a ``.safetensors`` file of which `load` needs only the path.

    ``notes`` (plain JSON, e.g. what it was trained on) is kept beside the description. The file appears under its name
    only when it is complete. Returns the path.

    Raises ``ValueError`` for another suffix and for a module that could not be built again from its description.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"our checkpoints are .safetensors files; got {path.name!r}. Use {path.stem}.safetensors.")
    description = {"format": FORMAT_VERSION, **describe(module), "notes": dict(notes or {})}
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    _compare(build(description).state_dict(), state, f"this {type(module).__qualname__}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(_unshared(state), unfinished, metadata={METADATA_KEY: json.dumps(description)})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def load(path: str | Path) -> nn.Module:
    """Whatever `save` wrote to ``path``, on the CPU in evaluation mode.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            # Copies: a view of the mapped file would be unaligned, and change if somebody overwrote the file.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise ValueError(
            f"{path} must be a safetensors file and is not a complete one ({error}). If it was cut short, make it "
            "again; if it is in a published format, name that format."
        ) from error
    if text is None:
        raise ValueError(
            f"{path} must hold this project's description of its network and does not: another program wrote it. "
            "Load it under the published format it follows, then save it with common.checkpoints.save."
        )
    description = json.loads(text)
    if description.get("format") != FORMAT_VERSION:
        version = description.get("format")
        raise ValueError(f"{path} is in version {version} of our format; this code reads {FORMAT_VERSION}.")
    try:
        module = build(description)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return fill(module, state, str(path))


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> nn.Module:
    """``module`` with exactly the tensors of ``state`` (from ``source``) in its own types, in evaluation mode.

    Raises ``ValueError`` that names what is missing, left over or of another shape.
    """
    expected = module.state_dict()
    _compare(expected, state, source)
    module.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, assign=True)
    unfilled = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if value.is_meta]
    if unfilled:
        raise ValueError(f"{type(module).__qualname__} has tensors that no checkpoint fills: {_some(unfilled)}.")
    return module.eval()


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
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


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory with others are copied; safetensors stores none twice and refuses them."""
    seen: set[int] = set()
    out = {}
    for name, value in state.items():
        address = value.untyped_storage().data_ptr()
        out[name] = value.clone() if address in seen else value
        seen.add(address)
    return out


def existing(path: str | Path) -> Path:
    """The path of a file that is there; ``FileNotFoundError`` otherwise."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path} (from {Path.cwd()}). Check the path, or train or fetch it."
        )
    return path


# What a configuration names; the return annotations let it stand where such a part is expected ------------------------


def load_network(path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None) -> nn.Module:
    """The network in a file, to be called as its publishers call it, on the CPU in evaluation mode.

    Args:
        path: of the file.
        format: whose layout and tensor names it has; "safetensors" is our own.
        config: the publishers' options; files of our own carry theirs.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}; got {format!r}.")
    if config is not None:
        raise ValueError(f"{path}: files of our own carry their config; leave config out, or name another format.")
    return load(path)


def load_denoiser(path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None) -> Denoiser:
    """The denoiser in a file; arguments and errors as for `load_network`."""
    return _as(Denoiser, load_network(path, format, config), path)


def load_classifier(
    path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None
) -> Classifier:
    """The classifier in a file; arguments and errors as for `load_network`."""
    return _as(Classifier, load_network(path, format, config), path)


def _as(kind: type[M], module: nn.Module, path: str | Path) -> M:
    if not isinstance(module, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}; it holds a {type(module).__qualname__}.")
    return module
