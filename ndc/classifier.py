"""Diffusion classifiers: a class-conditional diffusion model as a classifier by Bayes' rule (DC, EPNDC, APNDC)."""

from functools import partial

import torch
from torch import Tensor

from common.checks.images import check_near_pixels, check_rows
from common.checks.settings import (
    check_noise_level,
    check_optional,
    check_part,
    check_ratio,
    check_size,
)
from common.diffusion.denoisers import Denoiser, check_denoiser
from common.engine.engine import Engine
from common.noise import Noise
from common.robustness.classifiers import Classifier
from common.units import sigma_to_model, to_model, to_pixel
from ndc.elimination import Elimination
from ndc.input_checks import Variant, check_classes, check_input, check_reduction
from ndc.levels import bound_within, check_input_level
from ndc.likelihood import Bound
from ndc.nodes import Nodes
from ndc.noise_weights import NamedWeight, Weight, weight_of
from ndc.posterior import Posterior
from ndc.reduction import Reduction
from ndc.sifting import Sifting
from ndc.terms import BoundInput, LikelihoodTerms


class NoisedDiffusionClassifier(Classifier):
    """Classifier with p(y | image) ∝ p(y) exp(bound on log p(image | y)), the bounds of `ndc.likelihood`.

        logit_y = log p(y) - (1 / temperature) sum_i w_i || D(x_i, sigma_i, y) - target_i ||^2

    One draw of noise per node, the same for every class (their differences then have far less variance) and independent
    between nodes, from the stream "ndc" of the noise. The image's gradient is that of the computed logits.

    Args:
        denoiser: class-conditional D(x, sigma, y).
        num_classes: K, the denoiser's.
        sigma: PIXEL standard deviation of the noise in the image, sigma_tau = 2 sigma; 0 for "dc" and only then.
        variant: the bound and its input.

            - "dc": a clean image, ``sigma`` = 0;
            - "epndc": an image with Gaussian noise of standard deviation ``sigma``, bounded as it is;
            - "apndc": the same, denoised once without a label, then treated as clean on levels above its noise.

        nodes: their number, or `Nodes` for the rule, the range, antithetic noise and EPNDC's control variate.
        weight: "lognormal" (EDM's training weight), "reference" (the published code's sum, with nodes of its rule),
            "narrow" (the published code's log-normal, for any nodes), "elbo", "flat" or a `Weight`.
        posterior: temperature and prior.
        engine: precision and call size of the networks.
        elimination: early elimination of classes, or the published `Sifting`; None evaluates all at every node.
        unconditional: denoiser of APNDC's first step; None is ``denoiser`` without a label.
        reduction: for a class-conditional denoiser of smaller images, as on ImageNet: ``unconditional`` denoises at the
            images' own size, and the estimate is reduced to that of ``denoiser``, at which classes are compared. The
            nodes start at sigma_tau, as published; their ``sigma_min`` may be as low as the noise that a reduced x_tau
            keeps, sigma_tau ``noise_gain``, since the reduced estimate is no farther from the clean image.

    ``forward``: image (B,C,H,W) in the pixel frame, unclipped where noisy -> logits (B,K).

    With a reduction the classifier is a function of the larger image: noise, attacks and a smoothing radius are in the
    larger space. Radii of different sizes do not compare: a perturbation reduced by "area" is 1/f as long or less.

    Raises ``ValueError`` for arguments that contradict each other or the denoiser's classes and range.
    Source: arXiv 2402.02316 (v2).
    """

    randomised = True
    num_classes: int

    def __init__(
        self,
        denoiser: Denoiser,
        num_classes: int,
        sigma: float | str,
        variant: Variant = "apndc",
        nodes: int | Nodes = 16,
        weight: NamedWeight | Weight = "lognormal",
        *,
        posterior: Posterior | None = None,
        engine: Engine | None = None,
        elimination: Elimination | Sifting | None = None,
        unconditional: Denoiser | None = None,
        reduction: Reduction | None = None,
    ) -> None:
        super().__init__()
        check_denoiser("denoiser", denoiser)
        check_optional(check_part, "engine", engine, Engine)
        check_optional(check_part, "elimination", elimination, (Elimination, Sifting), "an Elimination or a Sifting")
        check_optional(check_part, "reduction", reduction, Reduction)
        check_optional(check_part, "posterior", posterior, Posterior)
        check_optional(check_denoiser, "unconditional", unconditional)
        self.denoiser, self.unconditional, self.reduction = denoiser, unconditional, reduction
        self.num_classes, self.sigma, self.variant = num_classes, check_ratio("sigma", sigma), variant
        self.nodes = nodes if isinstance(nodes, Nodes) else Nodes(check_size("nodes", nodes, 2))
        self.weight, self.elimination = weight_of(weight), elimination
        self.posterior = Posterior() if posterior is None else posterior
        self.engine = Engine() if engine is None else engine

        sigma_tau = sigma_to_model(self.sigma)
        check_input(variant, self.sigma)
        check_reduction(reduction, variant, unconditional)
        check_classes(denoiser, num_classes)
        self.posterior.check(num_classes)
        check_input_level(self._first_denoiser, sigma_tau)
        check_noise_level("sigma", sigma, zero=True)
        gain = 1.0 if reduction is None else reduction.noise_gain
        bounds = partial(bound_within, denoiser, sigma_tau, variant, weight=self.weight, noise_gain=gain)
        self._bound = bounds(self.nodes)
        if isinstance(elimination, Sifting):
            self._sift = bounds(elimination.nodes)
        elif elimination is not None:
            self._plan = elimination.plan(self.nodes.count, self.nodes.antithetic)
        self.engine.prepare(self)

    @property
    def bound(self) -> Bound:
        """Noise levels, spreads and weights of the nodes, in the model frame."""
        return self._bound

    @property
    def evaluations(self) -> int:
        """Most network evaluations of one image: every class at every node, or what `Sifting` leaves of that."""
        extra = {"apndc": 1, "epndc": self.num_classes * self.nodes.control, "dc": 0}[self.variant]
        if isinstance(self.elimination, Sifting):
            return self.elimination.most_evaluations(self.num_classes, len(self.bound)) + extra
        return len(self.bound) * self.num_classes + extra

    def forward(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        if not len(image):
            return image.new_zeros(0, self.num_classes)
        if self.elimination is None:
            return self.logits(self.losses(image, noise), self._dimension(image))
        terms, prior = self._terms(image, noise), self.posterior.prior(self.num_classes, image)
        if isinstance(self.elimination, Sifting):
            return self.elimination.logits(terms.over(self._sift, "sift"), terms, prior, len(image), len(self.bound))
        return self.elimination.logits(terms, self._plan, prior, len(image), self.nodes)

    def logits(self, losses: Tensor, dimension: int) -> Tensor:
        """Logits (B,K) from losses (T,B,K) of images of D = ``dimension`` numbers."""
        logits = -losses.sum(0) / self.temperature(dimension)
        if self.posterior.log_prior is None:
            return logits
        return logits + self.posterior.prior(self.num_classes, logits)

    def temperature(self, dimension: int) -> float:
        """Divisor of the losses of images of D = ``dimension`` numbers."""
        return self.posterior.temperature or self.weight.temperature(dimension)

    def losses(self, image: Tensor, noise: Noise | None = None) -> Tensor:
        """Losses (T,B,K): w_i || D(x_i, sigma_i, y) - target_i ||^2 at node i."""
        return self._terms(image, noise).losses(range(len(self.bound)))

    def views(self, image: Tensor, noise: Noise | None = None) -> dict[str, Tensor]:
        """APNDC's estimate of the clean image, in pixels, at the size of the image."""
        return {"denoised": to_pixel(self._estimate(to_model(image)))} if self.variant == "apndc" else {}

    def _terms(self, image: Tensor, noise: Noise | None) -> LikelihoodTerms:
        noise = Noise.or_fresh(noise, check_near_pixels(image)).to(image.device)
        check_rows(noise, image)
        x = to_model(image)
        if self.variant == "apndc":  # noise is added to the estimate, at the size of the class-conditional denoiser
            x = self._estimate(x) if self.reduction is None else self.reduction(self._estimate(x))
        anchor = self._anchor(x) if self.nodes.control and self.variant == "epndc" else None
        inputs = BoundInput(x, anchor, noise.stream("ndc"))
        temperature = self.temperature(self._dimension(image))
        return LikelihoodTerms(self.engine, self.denoiser, self.bound, inputs, self.num_classes, temperature)

    def _estimate(self, x: Tensor) -> Tensor:
        """APNDC's estimate of the clean image at the size of x, model frame."""
        if self.reduction is not None:
            self.reduction.check(x)
        return self.engine.denoise_all(self._first_denoiser, x, sigma_to_model(self.sigma))

    def _dimension(self, image: Tensor) -> int:
        """D, the numbers of an image at which classes are compared."""
        return image.shape[1] * self.reduction.smaller**2 if self.reduction else image.shape[1:].numel()

    def _anchor(self, x: Tensor) -> Tensor:
        """D(x, sigma_tau, y) for every class (B,K,C,H,W), for `pull_variate`."""
        label = torch.arange(self.num_classes, device=x.device).repeat(len(x))
        rows = x.repeat_interleave(self.num_classes, 0)
        denoised = self.engine.denoise_all(self.denoiser, rows, sigma_to_model(self.sigma), label)
        return denoised.view(len(x), self.num_classes, *x.shape[1:])

    @property
    def _first_denoiser(self) -> Denoiser:
        """The denoiser of APNDC's first step."""
        return self.denoiser if self.unconditional is None else self.unconditional
