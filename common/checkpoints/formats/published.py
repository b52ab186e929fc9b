"""Checkpoints as others publish them: which network a config describes, where its weights are, how it is called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.checkpoints.formats import pipelines
from common.checkpoints.formats.denoisers import denoiser_of, edm
from common.checkpoints.formats.files import read, select
from common.checkpoints.formats.options import Options, build, flatten
from common.checkpoints.state import compare, existing, fill
from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser, precondition
from common.diffusion.score_denoiser import ScoreDenoiser
from common.robustness.classifiers import Classifier, NetworkClassifier

IMAGE_SIZES = (32, 64, 128, 256, 512, 16, 8, 1024)


def load_body(path: str | Path, format: str, config: Mapping[str, Any] | None) -> tuple[nn.Module, Options]:
    """The network in a published file, filled, and the publishers' options without sections.

    Where the publishers keep the image's size apart and ``config`` lacks it, the names of the tensors tell it.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path, options = existing(path), flatten(config)
    content = read(path, format)
    told = "image_size" in options or format not in ("score_sde", "sdedit_ddpm")
    sizes = [{}] if told else [{"image_size": size} for size in IMAGE_SIZES]
    network, state = _fitting(content, format, [{**options, **size} for size in sizes], str(path))
    if format == "score_sde":  # views of the file, which may be overwritten or go
        state = {name: value.clone() for name, value in state.items()}
    return fill(network, state, str(path)), options


def _fitting(content: Any, format: str, candidates: list[Options], source: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network of the first options that fit the tensors of a file, and these; else what is wrong with the first."""
    refusals: list[ValueError] = []
    for options in candidates:
        try:
            network = build(format, options)
            state = select(content, format, network, source)
            compare(network.state_dict(), state, source)
            return network, state
        except ValueError as error:
            refusals.append(error)
    if len(candidates) == 1:
        raise refusals[0]
    raise ValueError(f"{refusals[0]} The config gives no image_size: this is for {candidates[0]['image_size']}.")


class EDMNetwork(nn.Module):
    """EDM's network as its publishers call it: ``network(x, sigma, class_labels)``, one-hot, is the clean image.

    ``network`` and ``sigma_data`` as in ``EDMDenoiser``; sigma (B,), (B,1,1,1) or (); ``class_labels`` (B,
    ``num_classes``), zero rows or None for "no class".
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5, num_classes: int | None = None) -> None:
        super().__init__()
        self.network, self.sigma_data, self.num_classes = network, sigma_data, num_classes

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        if class_labels is None and self.num_classes is not None:
            class_labels = x.new_zeros(len(x), self.num_classes)
        one_hot = None if class_labels is None else class_labels.to(x)
        return precondition(self.network, self.sigma_data, x, sigma.reshape(-1), one_hot)


def as_network(module: nn.Module) -> nn.Module:
    """The network inside a denoiser or classifier, called as its publishers call it; other modules as they are."""
    if isinstance(module, EDMDenoiser):
        return EDMNetwork(module.network, module.sigma_data, module.num_classes).train(module.training)
    return module.network if isinstance(module, EpsDenoiser | ScoreDenoiser | NetworkClassifier) else module


def as_denoiser(module: nn.Module) -> nn.Module:
    """The denoiser that EDM's network is; other modules as they are."""
    if not isinstance(module, EDMNetwork):
        return module
    return EDMDenoiser(module.network, module.sigma_data, module.num_classes).train(module.training)


def load_network(path: str | Path, format: str, config: Mapping[str, Any] | None) -> nn.Module:
    """The network in a published file, called as its publishers call it."""
    if format == "diffusers":
        return pipelines.load_network(path)
    body, options = load_body(path, format, config)
    return as_network(edm(body, options)).eval() if format == "edm" else body


def load_denoiser(path: str | Path, format: str, config: Mapping[str, Any] | None) -> Denoiser:
    """The denoiser that a published network makes, with the publishers' own convention for the noise level."""
    if format == "robustbench_wrn":
        raise ValueError("robustbench_wrn files hold classifiers; use load_classifier.")
    if format == "diffusers":
        return pipelines.load_denoiser(path)
    return denoiser_of(format, *load_body(path, format, config)).eval()


def load_classifier(path: str | Path, format: str, config: Mapping[str, Any] | None) -> Classifier:
    """The classifier in a published file, reading pixels; it normalises them if the config has ``mean`` and ``std``."""
    if format != "robustbench_wrn":
        raise ValueError(f"{format} files hold denoisers; use load_denoiser.")
    body, options = load_body(path, format, config)
    return NetworkClassifier(body, options.get("mean"), options.get("std")).eval()
