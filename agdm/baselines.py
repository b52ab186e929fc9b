"""Baseline guidances for AGDM, each an ``AGDM(guidance=...)``: the same sampler, another potential.

| baseline | construction |
|---|---|
| no guidance, i.e. DiffPure | ``AGDM(scale=0)`` |
| GDMP (arXiv 2205.14969) | ``PixelGuidance`` |
| classifier guidance (arXiv 2105.05233), COUP (arXiv 2408.05900) | ``ClassifierGuidance`` |
| contrastive guidance, after ContrastDiff (PMLR 235, 2375) | ``ContrastiveGuidance`` |
| AGDM with a network that was trained without an adversary | ``AdversarialGuidance``, ``Trades(weight=0)`` |

All are potentials per image, summed over the batch, and twice differentiable, as attacks need them.
"""

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from agdm.distances import hard, soft
from agdm.networks import variance_preserving
from agdm.potential import Potential
from common.checks.settings import check_count, check_flag, check_one_of, check_part, check_positive
from common.data.image_data import ImageData
from common.robustness.classifiers import Classifier
from common.units import to_model, to_pixel

PixelDistance = Literal["mse", "ssim"]
Belief = Literal["soft", "hard", "confidence"]


class PixelGuidance(Potential):
    """Pixel distance to the reference, as in GDMP. It preserves the image and, with it, part of the attack.

    In variance-preserving states x_t = x / √(1+σ²) of the model frame, x'_t the reference::

        log-potential(x) = - Σ (x_t - x'_t)²        "mse": summed over the C H W pixels of an image
                             SSIM(x_t, x'_t)        "ssim": in windows of deviation ``window``, for a range of 2

    ``weighted``: times σ = √(1-ᾱ)/√ᾱ, as in GDMP's code; 0 for a clean image, so not at the denoised one. Its code
    averages over the batch of B, which divides each image's guidance by B, and its scale compensates for that: see
    ``gdmp_scale``. It takes the gradient at x_t, adds Σ_t times it to the DDPM mean, and diffuses x' to the
    level of x_t (on ImageNet it does not)::

        AGDM(denoiser, PixelGuidance(weighted=True), t_star=0.036, scale=gdmp_scale(60000, terms=100 * 3072),
             solver="ancestral", schedule=DDPM(), t_end=0.0, steering=Steering("independent", form="sigma"))

    repeated 4 times (``common.diffusion.Repeated``) on CIFAR-10. Raises ``ValueError`` for another distance.
    """

    def __init__(self, distance: PixelDistance = "mse", weighted: bool = False, window: float = 1.5) -> None:
        super().__init__()
        check_one_of("distance", distance, get_args(PixelDistance))
        check_positive("window", window)
        self.distance, self.weighted, self.window = distance, check_flag("weighted", weighted), window

    def embed(self, reference: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, ...]:
        """x'_t (B,C,H,W); x' itself at level 0."""
        reach = int(3.5 * self.window + 0.5)  # half the side of torchmetrics' Gaussian window
        if self.distance == "ssim" and min(reference.shape[-2:]) <= reach:
            got = f"{tuple(reference.shape[-2:])} pixels with a window that reaches {reach}"
            raise ValueError(f"ssim needs images larger than its window; got {got}. Lower window={self.window}")
        return (reference if sigma is None else variance_preserving(reference, sigma)[0],)

    def log_potential(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """The potential above, (B,)."""
        (reference,), xt = embedding, variance_preserving(x, sigma)[0]
        potential = (
            self._ssim(xt, reference) if self.distance == "ssim" else -(xt - reference).square().flatten(1).sum(1)
        )
        return sigma * potential if self.weighted else potential

    def _ssim(self, xt: Tensor, reference: Tensor) -> Tensor:
        options: dict[str, Any] = {"sigma": self.window, "reduction": "none", "data_range": 2.0}
        return cast(Tensor, structural_similarity_index_measure(xt, reference.to(xt), **options))


def gdmp_scale(guide_scale: float, terms: int, eps: float = 8 / 255) -> float:
    """AGDM's ``scale`` for GDMP's ``guide_scale``: 3 guide_scale / (2 eps) / terms, for weighted ``PixelGuidance``.

    From its code's scale_t = √(1-ᾱ) / (m √ᾱ) with m = 2 eps / 3 / guide_scale, eps in pixels. ``terms`` is what its
    mean runs over: B C H W for "mse", B for "ssim". Its CIFAR-10 settings: 60000 ("mse") and 70000 ("ssim"), B = 100.
    """
    check_positive("guide_scale", guide_scale)
    check_count("terms", terms)
    check_positive("eps", eps)
    return 3 * guide_scale / (2 * eps) / terms


class ClassifierGuidance(Potential):
    """Guidance by the class probabilities of x, read as an image in pixels with its noise::

        log-potential(x) = -KL(p(. | x') || p(. | x))        "soft"
                            log p(argmax p(. | x') | x)       "hard"
                            max_k log p(k | x)                "confidence": without a reference, as in COUP

    p is softmax(``classifier``(pixels)), of any ``Classifier``: one trained on noisy images or, with
    ``Steering(at="denoised")``, a clean one. An attack differentiates the guidance again: prefer a smooth network.
    With ReLUs the second derivatives are zero almost everywhere, and the attack's gradient misses the kinks.

    Raises ``ValueError`` for a randomised classifier, which has no potential, and for another ``label``.
    """

    def __init__(self, classifier: Classifier, label: Belief = "hard") -> None:
        super().__init__()
        check_one_of("label", label, get_args(Belief))
        if check_part("classifier", classifier, Classifier).randomised:
            raise ValueError("a guiding classifier must be deterministic; got a randomised one. Use its network")
        self.classifier = classifier.requires_grad_(False).eval()
        self.label = label

    def embed(self, reference: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, ...]:
        """log p(. | x') (B,K); empty for "confidence"."""
        return () if self.label == "confidence" else (self.classifier(to_pixel(reference)).log_softmax(dim=1),)

    def log_potential(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """The potential above, (B,)."""
        log_p = self.classifier.forward(to_pixel(x)).log_softmax(dim=1)  # pixels of its own: no copies, no frame
        if self.label == "confidence":
            return log_p.amax(dim=1)
        return soft(log_p, *embedding) if self.label == "soft" else hard(log_p, *embedding)


class ContrastiveGuidance(Potential):
    """Attraction to x' and repulsion from other images in φ's latent: with S(a, b) = cos(a, b) / ``temperature``,

        log-potential(x) = S(c(x), c(x')) - log[ exp S(c(x), c(x')) + Σ_m exp S(c(x), c_m) ],    c_m = c_φ(x_m, 0).

    InfoNCE with a fixed set of negatives x_m. The formula is ours: ContrastDiff adds the gradient of a contrastive loss
    without classes to the score. The negatives are not the rest of the batch, on which a purification must not depend.
    Some of them have the class of x'.

    ``negatives`` are images (M,C,H,W) in pixels, or a data module whose training images, ``count`` of them evenly
    spaced, are taken. ``network`` is a ``GuidanceNetwork``, adversarially trained or not.
    """

    negatives: Tensor

    def __init__(
        self, network: nn.Module, negatives: Tensor | ImageData, temperature: float = 1.0, count: int = 128
    ) -> None:
        super().__init__()
        check_part("network", network, nn.Module, "a module")
        check_part("negatives", negatives, Tensor | ImageData, "images (M,C,H,W), or a data module")
        check_positive("temperature", temperature)
        check_count("count", count)
        images = negatives if isinstance(negatives, Tensor) else _training_images(negatives, count)
        if images.ndim != 4 or not len(images) or not images.is_floating_point():
            raise ValueError(f"negatives must be floating-point images (M,C,H,W); got {tuple(images.shape)}")
        self.network = network.requires_grad_(False).eval()
        self.temperature = temperature
        with torch.no_grad():
            self.register_buffer("negatives", F.normalize(self._latent(to_model(images), images.new_zeros(()))))

    def embed(self, reference: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, ...]:
        """c_φ(x') / |c_φ(x')|, (B,F)."""
        level = reference.new_zeros(()) if sigma is None else sigma
        return (F.normalize(self._latent(reference, level)),)

    def log_potential(self, x: Tensor, sigma: Tensor, *embedding: Tensor) -> Tensor:
        """The potential above, (B,)."""
        (positive,), latent = embedding, F.normalize(self._latent(x, sigma))
        similarity = torch.cat(
            ((latent * positive).sum(dim=1, keepdim=True), latent @ self.negatives.mT.to(latent)), dim=1
        )
        return (similarity / self.temperature).log_softmax(dim=1)[:, 0]

    def _latent(self, x: Tensor, sigma: Tensor) -> Tensor:
        latent: Tensor = self.network(x, sigma)[0]
        return latent


def _training_images(data: ImageData, count: int) -> Tensor:
    data.setup("fit")
    indices = torch.linspace(0, len(data.train) - 1, min(count, len(data.train))).round().long().tolist()
    return torch.stack([data.train[i][0] for i in indices])
