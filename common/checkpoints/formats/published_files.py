"""Published checkpoints -> networks, denoisers and classifiers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.checkpoints.files import require_file
from common.checkpoints.formats import diffusers_pipelines
from common.checkpoints.formats.averages import announce
from common.checkpoints.formats.bodies import build_body
from common.checkpoints.formats.edm_network import as_network
from common.checkpoints.formats.noise_conventions import build_denoiser, edm_denoiser
from common.checkpoints.formats.options import Options, flatten
from common.checkpoints.formats.reading import read_published, select_tensors
from common.checkpoints.formats.wrapped_names import take_normalisation
from common.checkpoints.state import assign_state, check_state
from common.diffusion.denoisers import Denoiser
from common.robustness.classifiers import Classifier, NetworkClassifier

CLASSIFIERS = ("robustbench_wrn",)
IMAGE_SIZES = (32, 64, 128, 256, 512, 16, 8, 1024)


def load_body(
    path: str | Path, format: str, config: Mapping[str, Any] | None, ema: bool = True
) -> tuple[nn.Module, Options]:
    """The network in a published file with its weights, and the publisher's options without sections.

    Where the publisher keeps the image size elsewhere and ``config`` lacks it, the tensors' names and shapes decide it.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path, options = require_file(path), flatten(config)
    content = read_published(path, format, ema)
    size_given = "image_size" in options or format not in ("score_sde", "sdedit_ddpm")
    sizes = [{}] if size_given else [{"image_size": size} for size in IMAGE_SIZES]
    candidates = [{**options, **size} for size in sizes]
    network, state, options = _first_match(content, format, candidates, str(path), ema)
    if format == "score_sde":  # copies: the tensors are views of a file that may change
        state = {name: value.clone() for name, value in state.items()}
    if format == "score_sde" and isinstance(content, Mapping) and "ema" in content and "model" in content:
        announce(str(path), "ema", "model", ema)
    return assign_state(network, state, str(path)), options


def _first_match(
    content: Any, format: str, candidates: list[Options], source: str, ema: bool
) -> tuple[nn.Module, dict[str, Tensor], Options]:
    """Network, tensors and options of the first candidate that fits; the first one's ``ValueError`` if none does."""
    refusals: list[ValueError] = []
    for options in candidates:
        try:
            network = build_body(format, options)
            state = select_tensors(content, format, network, source, ema)
            _add_normalisation(options, state, network, format, source)
            check_state(network.state_dict(), state, source)
            return network, state, options
        except ValueError as error:
            refusals.append(error)
    if len(candidates) == 1:
        raise refusals[0]
    raise ValueError(f"{refusals[0]} The config gives no image_size: this is for {candidates[0]['image_size']}.")


def _add_normalisation(
    options: Options, state: dict[str, Tensor], network: nn.Module, format: str, source: str
) -> None:
    """Move a normalisation of the input from the tensors of a classifier to its options ``mean`` and ``std``."""
    found = take_normalisation(state, network.state_dict()) if format in CLASSIFIERS else None
    for name, values in zip(("mean", "std"), found or (), strict=False):
        given = options.setdefault(name, values)
        if not _same(given, values):
            raise ValueError(f"{source} holds its own {name}, {values}; the config has {given}. Leave it out.")


def _same(given: Any, values: list[float]) -> bool:
    return len(given) == len(values) and all(
        math.isclose(a, b, rel_tol=1e-5) for a, b in zip(given, values, strict=True)
    )


def read_network(path: str | Path, format: str, config: Mapping[str, Any] | None, ema: bool = True) -> nn.Module:
    """The network in a published file, called as its publishers call it."""
    if format == "diffusers":
        return diffusers_pipelines.read_network(path)
    body, options = load_body(path, format, config, ema)
    if format in CLASSIFIERS and "mean" not in flatten(config) and "mean" in options:  # the file's own
        return NetworkClassifier(body, options["mean"], options["std"]).eval()
    return as_network(edm_denoiser(body, options)).eval() if format == "edm" else body


def read_denoiser(path: str | Path, format: str, config: Mapping[str, Any] | None, ema: bool = True) -> Denoiser:
    """The denoiser around a published network, with the publisher's convention of the noise level."""
    if format == "robustbench_wrn":
        raise ValueError("robustbench_wrn files hold classifiers; use load_classifier.")
    if format == "diffusers":
        return diffusers_pipelines.read_denoiser(path)
    return build_denoiser(format, *load_body(path, format, config, ema)).eval()


def read_classifier(path: str | Path, format: str, config: Mapping[str, Any] | None, ema: bool = True) -> Classifier:
    """The classifier in a published file, of pixels; it normalises them if the config has ``mean`` and ``std``."""
    if format != "robustbench_wrn":
        raise ValueError(f"{format} files hold denoisers; use load_denoiser.")
    body, options = load_body(path, format, config, ema)
    return NetworkClassifier(body, options.get("mean"), options.get("std")).eval()
