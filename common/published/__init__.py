"""Checkpoints as others publish them: which network a config describes, where its weights are, how it is called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser
from common.diffusion.networks import ADM
from common.diffusion.schedules import DDPM, VP
from common.published import pipelines
from common.published.files import read, select
from common.published.options import Options, build, flatten
from common.robustness.classifiers import Classifier, NetworkClassifier
from common.state import existing, fill

__all__ = ["EDMNetwork", "load_body", "load_classifier", "load_denoiser", "load_network"]

IMAGE_SIZES = (32, 64, 128, 256, 512, 16, 8, 1024)


def load_body(path: str | Path, format: str, config: Mapping[str, Any] | None) -> tuple[nn.Module, Options]:
    """The network in a published file, filled, and the publishers' options without sections.

    Where the publishers keep the image's size apart and ``config`` lacks it, the names of the tensors tell it.

    Raises ``FileNotFoundError`` for a missing file and ``ValueError`` for one that is damaged, foreign or does not fit.
    """
    path, options = existing(path), flatten(config)
    content = read(path, format)
    told = "image_size" in options or format not in ("score_sde", "sdedit_ddpm")
    refusal: ValueError | None = None
    for size in (None,) if told else IMAGE_SIZES:
        try:
            network = build(format, options if size is None else {**options, "image_size": size})
            return fill(network, select(content, format, network, str(path)), str(path)), options
        except ValueError as error:
            refusal = refusal or error
    raise refusal or ValueError(f"{path} fits no network.")


class EDMNetwork(EDMDenoiser):
    """EDM's network as its publishers call it: ``network(x, sigma, class_labels)``, one-hot, is the clean image."""

    def one_hot(self, x: Tensor, label: Tensor | None) -> Tensor | None:
        """Labels (B, num_classes) are one-hot already; None is "no class"."""
        return super().one_hot(x, None) if label is None else label.to(x)

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        return super().forward(x, sigma.reshape(-1), label)


def load_network(path: str | Path, format: str, config: Mapping[str, Any] | None) -> nn.Module:
    """The network in a published file, called as its publishers call it."""
    if format == "diffusers":
        return pipelines.load_network(path)
    body, options = load_body(path, format, config)
    return _edm(EDMNetwork, body, options) if format == "edm" else body


def load_denoiser(path: str | Path, format: str, config: Mapping[str, Any] | None) -> Denoiser:
    """The denoiser that a published network makes, with the publishers' own convention for the noise level."""
    if format == "robustbench_wrn":
        raise ValueError("robustbench_wrn files hold classifiers; use load_classifier.")
    if format == "diffusers":
        return pipelines.load_denoiser(path)
    body, options = load_body(path, format, config)
    if format == "edm":
        return _edm(EDMDenoiser, body, options).eval()
    if format == "score_sde":
        return _score_sde(body, options).eval()
    steps: int = options.get("diffusion_steps") or options.get("num_diffusion_timesteps") or 1000
    kind = options.get("noise_schedule", options.get("beta_schedule", "linear"))
    if kind != "linear" or (steps != 1000 and options.get("rescale_timesteps")):
        raise ValueError(
            f"a {format} denoiser needs the linear noise schedule and an index that is not rescaled; got {kind!r} "
            f"with {steps} steps. load_network loads the network alone."
        )
    start, end = options.get("beta_start", 0.1 / steps), options.get("beta_end", 20 / steps)
    classes = body.num_classes if isinstance(body, ADM) else None
    return EpsDenoiser(body, DDPM(steps, float(start), float(end)), "nearest", num_classes=classes).eval()


def load_classifier(path: str | Path, format: str, config: Mapping[str, Any] | None) -> Classifier:
    """The classifier in a published file, reading pixels; it normalises them if the config has ``mean`` and ``std``."""
    if format != "robustbench_wrn":
        raise ValueError(f"{format} files hold denoisers; use load_denoiser.")
    body, options = load_body(path, format, config)
    return NetworkClassifier(body, options.get("mean"), options.get("std")).eval()


def _edm(kind: type[EDMDenoiser], body: nn.Module, options: Options) -> EDMDenoiser:
    classes = int(options.get("label_dim") or 0) or None
    return kind(body, float(options.get("sigma_data", 0.5)), classes).eval()


def _score_sde(body: nn.Module, options: Options) -> EpsDenoiser:
    """Continuous VP networks are told ``(N - 1) t``, not rounded, and predict the noise."""
    if options.get("embedding_type", "positional") != "positional" or options.get("scale_by_sigma"):
        raise ValueError(
            "a score_sde denoiser is made from VP networks, which predict the noise and embed positions; this config "
            "describes a VE network, which predicts the score. load_network loads the network alone."
        )
    schedule = VP(float(options.get("beta_min", 0.1)), float(options.get("beta_max", 20.0)))
    return EpsDenoiser(body, schedule, "continuous", time_scale=float(options.get("num_scales", 1000)) - 1)
