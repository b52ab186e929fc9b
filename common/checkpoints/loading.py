"""Files -> networks, denoisers and classifiers; nothing in a file is ever executed.

Our own format is safetensors with a JSON description in its metadata (see
`common.checkpoints.description`), so that a file needs nothing but its path::

    save(denoiser, "denoiser.safetensors")
    denoiser = load_denoiser("denoiser.safetensors")
"""

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from common.checkpoints import formats
from common.checkpoints.description import build, describe
from common.checkpoints.state import compare, existing, fill, unshared
from common.diffusion.denoisers import Denoiser
from common.robustness.classifiers import Classifier

Format = Literal["safetensors", "score_sde", "guided_diffusion", "edm", "sdedit_ddpm", "robustbench_wrn", "diffusers"]

M = TypeVar("M", bound=nn.Module)

FORMAT_VERSION = 1
METADATA_KEY = "robust_diffusion"

__all__ = [
    "Format",
    "description_of",
    "load",
    "load_classifier",
    "load_denoiser",
    "load_network",
    "save",
    "sha256",
]


def sha256(*paths: str | Path) -> str:
    """Hexadecimal sha256 of a file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def save(module: nn.Module, path: str | Path, notes: Mapping[str, Any] | None = None) -> Path:
    """Write a network, denoiser or classifier to a ``.safetensors`` file of which `load` needs only the path.

    ``notes`` (plain JSON, e.g. what it was trained on) is kept beside the description. The file appears under its name
    only when it is complete. Returns the path.

    Raises ``ValueError`` for another suffix and for a module that its description does not build again.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"our checkpoints are .safetensors files; got {path.name!r}. Use {path.stem}.safetensors.")
    description = {**description_of(module), "notes": dict(notes or {})}
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode  # of any new file; the writer's would be readable to its owner alone
        save_file(unshared(state), unfinished, metadata={METADATA_KEY: json.dumps(description)})
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def description_of(module: nn.Module) -> dict[str, Any]:
    """What `save` stores of a module beside its weights, without writing anything.

    Raises ``ValueError`` for a module that it does not build again: another class, other tensors, other layers.
    """
    description, name = {"format": FORMAT_VERSION, **describe(module)}, type(module).__qualname__
    again = build(description)
    compare(again.state_dict(), module.state_dict(), f"this {name}")
    for own, built in zip_longest(repr(module).splitlines(), repr(again).splitlines(), fillvalue="nothing"):
        if own != built:
            raise ValueError(
                f"this {name} must have the layers that its description builds; it has {own.strip()} where they have "
                f"{built.strip()}. Wrap a timm model made with other options in TimmNetwork(name, options=...)."
            )
    return description


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
    try:
        description = json.loads(text)
        if not isinstance(description, dict) or description.get("format") != FORMAT_VERSION:
            version = description.get("format") if isinstance(description, dict) else None
            raise ValueError(f"it must be in version {FORMAT_VERSION} of our format; it is in version {version}.")
        module = build(description)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: its description is no JSON ({error}). Make it again.") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be built: {error}") from error
    return fill(module, state, str(path))


# What a configuration names; the return annotations let it stand where such a part is expected ------------------------


def load_network(path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None) -> nn.Module:
    """The network in a file, to be called as its publishers call it, on the CPU in evaluation mode.

    A file of our own that holds a denoiser or a classifier gives the network inside it, whose outputs are those of the
    published file it was converted from.

    Args:
        path: of the file.
        format: whose layout and tensor names it has; "safetensors" is our own.
        config: the publishers' options, sections or not; files of our own carry theirs.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    if _is_published(format, config):
        return formats.load_network(path, format, config)
    return formats.as_network(load(path))


def load_denoiser(path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None) -> Denoiser:
    """The denoiser in a file; arguments and errors as for `load_network`.

    A published network becomes one with the noise levels and labels it was trained for: Score-SDE's continuous ones,
    guided diffusion's and SDEdit's nearest index, EDM's sigma and classes.
    """
    if _is_published(format, config):
        return formats.load_denoiser(path, format, config)
    return _as(Denoiser, formats.as_denoiser(load(path)), path)


def load_classifier(
    path: str | Path, format: Format = "safetensors", config: dict[str, Any] | None = None
) -> Classifier:
    """The classifier in a file; arguments and errors as for `load_network`.

    A published one reads pixels as they are, or normalised if ``config`` also has ``mean`` and ``std``.
    """
    if _is_published(format, config):
        return formats.load_classifier(path, format, config)
    return _as(Classifier, load(path), path)


def _is_published(format: str, config: dict[str, Any] | None) -> bool:
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}; got {format!r}.")
    if format in ("safetensors", "diffusers") and config is not None:
        raise ValueError("files of our own and pipelines carry their config; leave config out, or name another format.")
    return format != "safetensors"


def _as(kind: type[M], module: nn.Module, path: str | Path) -> M:
    if not isinstance(module, kind):
        raise ValueError(
            f"{path} must hold a {kind.__name__}; what it holds is of class {type(module).__qualname__}. "
            "Load it by another of load_denoiser, load_classifier and load_network."
        )
    return module
