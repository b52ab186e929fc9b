"""A class-conditional diffusion model as a classifier by Bayes' rule: DC for clean images, EPNDC, APNDC for noisy."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from common.diffusion.denoisers import Denoiser
from common.engine.engine import BatchSize, Calls, Engine, recomputed
from common.noise import Noise
from common.robustness.classifiers import Classifier
from common.units import check_integer, parse_number, sigma_to_model, to_model, to_pixel
from ndc.elimination import Elimination
from ndc.likelihood import Bound, Nodes
from ndc.noise_weights import WEIGHTS, Weight
from ndc.terms import Terms

Variant = Literal["apndc", "epndc", "dc"]
NamedWeight = Literal["lognormal", "reference", "elbo", "flat"]

SMALLEST = 0.002  # lower end of the nodes where neither they nor the denoiser set one: EDM's smallest level


class NoisedDiffusionClassifier(Classifier):
    """p(y | image) proportional to p(y) exp(bound on log p(image | y)), the bounds of `ndc.likelihood`.

        logit_y = log p(y) - (1 / temperature) sum_i w_i || D(x_i, sigma_i, y) - target_i ||^2

    ``variant`` says what the image is and how its likelihood is bounded:
      - "dc": a clean image, ``sigma`` = 0;
      - "epndc": an image with Gaussian noise of standard deviation ``sigma``, bounded as it is;
      - "apndc": the same, denoised once without a label and then treated as clean, on levels above its noise.

    One draw of noise per node, the same for every class (their differences then have far less variance) and independent
    between nodes, from the stream "ndc" of the given noise. The image's gradient is that of the computed logits.

    Args:
        denoiser: class-conditional D(x, sigma, y).
        num_classes: K, the denoiser's.
        sigma: PIXEL standard deviation of the noise in the image, sigma_tau = 2 sigma; 0 for "dc" and only then.
        nodes: their number, or `Nodes` for the rule, the range, antithetic noise and EPNDC's control variate.
        weight: "lognormal" (as EDM is trained), "reference" (the published code's), "elbo", "flat" or a weight object.
        temperature: divides the sum; None is the weight's own: the paper's D for the training weights, 1 for "elbo".
        log_prior: log p(y), K numbers; None is uniform.
        unconditional: the denoiser of APNDC's first step; None is ``denoiser`` without a label.
        batch_size: rows (image, class, node) in one call of the network; "auto" finds out (`common.engine.Calls`). What
            takes several calls is recomputed call by call in the backward pass, so that one call bounds the memory.
        engine: precision of the networks and what else makes them faster.
        elimination: drops classes on the way instead of asking all at every node.

    forward: image (B,C,H,W) in the pixel frame, unclipped where noisy -> logits (B,K).
    Raises ``ValueError`` for arguments that contradict each other or the denoiser's classes and range.
    Source: arXiv 2402.02316 (v2).
    """

    randomised = True

    def __init__(
        self,
        denoiser: Denoiser,
        num_classes: int,
        sigma: float | str,
        variant: Variant = "apndc",
        nodes: int | Nodes = 16,
        weight: NamedWeight | Weight = "lognormal",
        *,
        temperature: float | None = None,
        log_prior: Sequence[float] | None = None,
        unconditional: Denoiser | None = None,
        batch_size: BatchSize = 512,
        engine: Engine | None = None,
        elimination: Elimination | None = None,
    ) -> None:
        super().__init__()
        sigma = parse_number(sigma)
        _check_kinds((nodes, int | Nodes), (engine, Engine | None), (elimination, Elimination | None))
        _check_input(variant, sigma)
        _check_classes(denoiser, num_classes, log_prior)
        _check_level(denoiser if unconditional is None else unconditional, sigma_to_model(sigma))
        if temperature is not None and not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive, or None for the weight's own; got {temperature}")
        self.denoiser, self.unconditional = denoiser, unconditional
        self.num_classes, self.sigma, self.variant, self.batch_size = num_classes, sigma, variant, batch_size
        self.nodes = Nodes(nodes) if isinstance(nodes, int) else nodes
        self.weight = _named(weight)
        self.temperature, self.log_prior = temperature, log_prior
        self._bound = _bound(denoiser, sigma_to_model(sigma), variant, self.nodes, self.weight)
        self._calls = Calls(batch_size)
        self.engine, self.elimination = Engine() if engine is None else engine, elimination
        self._plan = None if elimination is None else elimination.plan(self.nodes.count, self.nodes.antithetic)
        for each in (denoiser, unconditional):
            if each is not None:
                self.engine.prepare(each)

    @property
    def bound(self) -> Bound:
        """Nodes, spreads and weights of the sum, in the model frame."""
        return self._bound

    @property
    def evaluations(self) -> int:
        """Network evaluations that one image takes when every class is asked at every node."""
        once = {"apndc": 1, "epndc": self.num_classes * self.nodes.control, "dc": 0}[self.variant]
        return len(self.bound) * self.num_classes + once

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if self.elimination is None or self._plan is None:
            return self.logits(self.losses(image, noise), image[0].numel())
        losses, scale = self._terms(image, noise), self.scale(image[0].numel())
        prior = image.new_tensor(self.log_prior or [0.0] * self.num_classes)

        def terms(nodes: Sequence[int], rows: Tensor, wanted: Tensor) -> Tensor:
            return -losses(nodes, rows, wanted) / scale

        return self.elimination.logits(terms, self._plan, prior, len(image), self.nodes)

    def logits(self, losses: Tensor, dimension: int) -> Tensor:
        """The logits (B,K) of the terms (T,B,K) of images of D = ``dimension`` numbers."""
        logits = -losses.sum(0) / self.scale(dimension)
        return logits if self.log_prior is None else logits + logits.new_tensor(self.log_prior)

    def scale(self, dimension: int) -> float:
        """The temperature, for images of D = ``dimension`` numbers."""
        return self.temperature or self.weight.temperature(dimension)

    def losses(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """The terms of the sum before the temperature, (T,B,K): w_i || D(x_i, sigma_i, y) - target_i ||^2 at node i."""
        return self._terms(image, noise)(range(len(self.bound)))

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """APNDC's estimate of the clean image, in pixels."""
        return {"denoised": to_pixel(self._centre(to_model(image)))} if self.variant == "apndc" else {}

    def _centre(self, x: Tensor) -> Tensor:
        """What noise is added to, in the model frame: the input itself, or APNDC's estimate of the clean image."""
        if self.variant != "apndc":
            return x
        denoiser = self.denoiser if self.unconditional is None else self.unconditional
        return self._denoised(denoiser, x, None)

    def _terms(self, image: Tensor, noise: Noise | None) -> Terms:
        """The terms of the sum for these images, to be asked for."""
        noise = Noise.fresh(len(image), image.device) if noise is None else noise.to(image.device)
        x = self._centre(to_model(image))
        anchor = self._anchor(x) if self.nodes.control and self.variant == "epndc" else None
        return Terms(
            partial(self.engine.denoise, self.denoiser),
            self._calls,
            self.bound,
            self.nodes.antithetic,
            self.num_classes,
            x,
            anchor,
            noise.stream("ndc"),
            self.training,
        )

    def _anchor(self, x: Tensor) -> Tensor:
        """D(x, sigma_tau, y) for every class (B,K,C,H,W), for `pull_variate`."""
        label = torch.arange(self.num_classes, device=x.device).repeat(len(x))
        rows = self._denoised(self.denoiser, x.repeat_interleave(self.num_classes, 0), label)
        return rows.view(len(x), self.num_classes, *x.shape[1:])

    def _denoised(self, denoiser: Denoiser, x: Tensor, label: Tensor | None) -> Tensor:
        """D(x, sigma_tau, label), by calls."""
        sigma = x.new_tensor(sigma_to_model(self.sigma))

        def denoise(rows: slice) -> Tensor:
            part = x[rows]
            y = None if label is None else label[rows]
            return self.engine.denoise(denoiser, part, sigma.expand(len(part)), y)

        return self._calls(recomputed(denoise, len(x) > self._calls.size(x), self.training), len(x), x)


def _check_kinds(*arguments: tuple[object, Any]) -> None:
    for value, kinds in arguments:
        if not isinstance(value, kinds):
            raise TypeError(f"expected {kinds}; got {value!r}")


def _check_input(variant: str, sigma: float) -> None:
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}; got {variant!r}")
    if variant == "dc" and sigma != 0:
        raise ValueError(f"variant 'dc' reads a clean image, sigma = 0; got {sigma}. Use 'apndc' for noisy images")
    if variant != "dc" and not 0 < sigma < math.inf:
        raise ValueError(f"variant {variant!r} reads a noisy image and needs its pixel sigma > 0; got {sigma}")


def _check_classes(denoiser: Denoiser, num_classes: int, log_prior: Sequence[float] | None) -> None:
    check_integer("num_classes", num_classes, 2)
    known = getattr(denoiser, "num_classes", num_classes)
    if known is None:
        raise ValueError("the denoiser must be class-conditional; its num_classes is None. Train it with labels")
    if known != num_classes:
        raise ValueError(f"num_classes must be the denoiser's, {known}; got {num_classes}")
    if log_prior is not None and (len(log_prior) != num_classes or not all(map(math.isfinite, log_prior))):
        raise ValueError(f"log_prior must be {num_classes} finite numbers, one per class; got {list(log_prior)}")


def _check_level(denoiser: Denoiser, sigma_tau: float) -> None:
    low, high = _levels(denoiser)
    if sigma_tau and not low <= sigma_tau <= high:
        raise ValueError(f"2 sigma, the input's noise level, must lie in {_range(denoiser)}; got {sigma_tau}")


def _range(denoiser: Denoiser) -> str:
    low, high = _levels(denoiser)
    return f"the denoiser's range {low} .. {high} (model frame)"


def _levels(denoiser: Denoiser) -> tuple[float, float]:
    """The noise levels that the denoiser is meant for; one that does not say is meant for all."""
    return float(getattr(denoiser, "sigma_min", 0.0)), float(getattr(denoiser, "sigma_max", math.inf))


def _named(weight: str | Weight) -> Weight:
    if isinstance(weight, Weight):
        return weight
    if weight not in WEIGHTS:
        raise ValueError(f"weight must be one of {', '.join(WEIGHTS)} or a weight object; got {weight!r}")
    return WEIGHTS[weight]


def _bound(denoiser: Denoiser, sigma_tau: float, variant: str, nodes: Nodes, weight: Weight) -> Bound:
    """The bound between the limits of ``nodes``, checked against what the denoiser was trained on."""
    low, high = _levels(denoiser)
    lower = nodes.sigma_min if nodes.sigma_min is not None else sigma_tau or low or SMALLEST
    upper = nodes.sigma_max if nodes.sigma_max is not None else min(max(3.0, 3 * sigma_tau), high)
    if lower < sigma_tau:
        raise ValueError(f"sigma_min of the nodes must not lie below 2 sigma = {sigma_tau}; got {lower}")
    bound = Bound.of(nodes, weight, lower, upper, sigma_tau if variant == "epndc" else 0.0)
    first, last = bound.sigma[0].item(), bound.sigma[-1].item()
    if first < low or last > high:
        got = f"{first:.4g} .. {last:.4g}"
        raise ValueError(f"the nodes must lie in {_range(denoiser)}; got {got}. Set sigma_min and sigma_max of Nodes")
    return bound
