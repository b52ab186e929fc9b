r"""Certificates of the diffusion classifier as it is, without smoothing: its expected logits are Lipschitz.

The logits of DC are averages over Gaussian noise around the image, so they cannot change fast. Let x be the image, x'
any other point, d = x' - x, delta = ||d|| (model frame). At a node u = x + sigma z is the noisy image, h_y(u) the
denoised one, clipped to [-1,1]^D, and the target t is x again. Write E_y(u; t) = || h_y(u) - t ||^2, e_y(u; t) for what
it exceeds the best class by, limited (`BoundedDiffusionClassifier`), and for a pair of classes

    g(u; t) = e_k(u; t) - e_y(u; t),    |g(u; x)| <= r,    f_y - f_k = (1 / temperature) sum_i w_i E_z g(u; x).

**The target moves.** But for ||t||^2, which all classes share, E_j is affine in t with gradient -2 h_j. So the slope of
g along t = x + s d is 2 d^T (h_y - h_k); where k is limited 2 d^T (h_y - h_m), where y is 2 d^T (h_m - h_k), m the best
class; where both are, 0. Two of the h are no farther apart than 2 q(u), the sum of the two largest ||h_j(u) - x||, or
2 sqrt(D) if that is less. Hence

    |g(u; x') - g(u; x)| <= 4 delta q(u),    0 <= q(u) <= sqrt(D).

**The noise moves**, to u ~ N(x', sigma^2 I) from N(x, sigma^2 I). If 0 <= phi(u) <= 1 has the mean p under the one, its
mean under the other lies between Phi(Phi^-1(p) - a) and Phi(Phi^-1(p) + a), a = delta / sigma: by Neyman and Pearson no
phi of mean p gains more than the half-space across d that has it (Salman et al., arXiv 1906.04584, lemma 2). That is
the *strong* law. As Phi' <= 1 / sqrt(2 pi), the mean changes by a / sqrt(2 pi) at most: the *weak* law.

**Together**: E g at x' is at least E g at x less

    weak:   delta (2 r / (sqrt(2 pi) sigma) + 4 sqrt(D)),
    strong: r [p - Phi(Phi^-1(p) - a)] + r [Phi(Phi^-1(n) + a) - n] + 4 delta sqrt(D) Phi(Phi^-1(m) + a),

p, n and m the means at x of g^+ / r, g^- / r and q / sqrt(D). Neither asks that x' be an image. Errors are small and
classes mostly agree, so p, n and m are small, and the strong law's radii are several times those of the weak.

**Confidence.** Means over ``samples`` draws of the noise are bounded by the empirical Bernstein inequality: for the
K (K - 1) ordered pairs at level alpha in all, so that the class may be chosen from the same draws. With the strong law
alpha / 2 goes there, and as much to intervals for p, n and m at all T nodes, of which the worst values are taken.

Source of the weak law for DC: Chen et al., arXiv 2402.02316 (v2), theorem 3.1; `ndc.claimed` has its constants.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.certificate import Certificate, Certifier, check_rows
from common.robustness.classifiers import Classifier, deployed
from common.robustness.padding import unpadded
from common.units import check_integer, sigma_to_pixel
from ndc.bounded import BoundedDiffusionClassifier
from ndc.classifier import NoisedDiffusionClassifier

Law = Literal["strong", "weak"]
C = TypeVar("C", bound=Certificate)

_DRAWS = 1024  # copies of an image that are handed to the classifier at a time; how they are batched is its own affair


@dataclass(frozen=True)
class Lipschitz(Certifier):
    """Radii within which the expected logits of a `BoundedDiffusionClassifier` keep their largest class.

    Stands where `Smoothing` does, ``Certified(Lipschitz(...))``, and adds no noise. With probability at least 1 - alpha
    over the draws, ``prediction`` is the largest expected logit of every x' closer to the image than ``radius`` (L2,
    pixels). If the draws leave two classes undecided it abstains, radius 0. ``p_lower`` is a lower bound of the
    prediction's probability, the softmax of the expected logits; ``count`` of ``samples`` draws answer it.

    Args:
        num_classes: K, the classifier's.
        samples: draws of the noise, each of T K network evaluations.
        alpha: the chance of a wrong certificate.
        law: "strong", or "weak" for a Lipschitz constant proper, `slopes`.

    Raises ``ValueError`` for settings out of range, and for a classifier without bounds or of other classes.
    """

    sigma = 0.0  # it reads the image as it is

    num_classes: int = 10
    samples: int = 1000
    alpha: float = 0.001
    law: Law = "strong"

    def __post_init__(self) -> None:
        check_integer("num_classes", self.num_classes, 2)
        check_integer("samples, draws of the noise,", self.samples, 2)
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha, the chance of a wrong certificate, must be in (0,1); got {self.alpha}")
        if self.law not in get_args(Law):
            raise ValueError(f"law must be 'strong' or 'weak'; got {self.law!r}")

    def certify(self, classifier: Classifier, image: Tensor, noise: Noise) -> list[Certificate]:
        """One certificate per image (B,C,H,W), from one row of noise each."""
        classifier = unpadded(classifier)
        if not isinstance(classifier, BoundedDiffusionClassifier):
            got = type(classifier).__name__
            raise ValueError(f"a Lipschitz bound needs bounded terms, a BoundedDiffusionClassifier; got a {got}")
        return one_by_one(partial(self._certificate, classifier), self.num_classes, classifier, image, noise)

    def _certificate(self, dc: BoundedDiffusionClassifier, image: Tensor, noise: Noise) -> Certificate:
        dimension = image[0].numel()
        losses = draw_losses(dc.unlimited, image, noise, self.samples)
        terms = dc.limited(losses, dimension)
        logits = dc.logits(terms, dimension)
        prediction, others = ranked(logits)
        gap = self._gap(dc, image, logits[:, [prediction]] - logits[:, others])
        p_lower = torch.sigmoid(-torch.logsumexp(-gap, 0)).item()
        count = int((logits.argmax(1) == prediction).sum())
        if bool((gap <= 0).any()):
            return Certificate(ABSTAIN, 0.0, p_lower, self.samples, count)
        if self.law == "weak":
            radius = gap.min().item() / slopes(dc, image).sum().item()
        else:
            pairs = terms[:, :, others] - terms[:, :, [prediction]]
            radius = self._strong(dc, image, gap, pairs, losses)
        return Certificate(prediction, radius, p_lower, self.samples, count)

    def _gap(self, dc: BoundedDiffusionClassifier, image: Tensor, difference: Tensor) -> Tensor:
        """Lower bounds (K-1,) of the means of what the prediction's logit is ahead in the draws, (n,K-1)."""
        half = (dc.bound.weight * dc.reach(image)).sum().item() / dc.scale(image[0].numel())
        level = self.alpha if self.law == "weak" else self.alpha / 2
        return mean_lower(difference, 2 * half, level / (self.num_classes * (self.num_classes - 1)))

    def _strong(
        self, dc: BoundedDiffusionClassifier, image: Tensor, gap: Tensor, pairs: Tensor, losses: Tensor
    ) -> float:
        """The distance (pixels) at which the gaps (K-1,) are used up by what the pairs' terms (T,n,K-1) can lose."""
        (nodes, _, classes), root = losses.shape, math.sqrt(image[0].numel())
        sigma, weight = dc.bound.sigma[:, None], dc.bound.weight[:, None]
        reach, scale = weight * dc.reach(image)[:, None], dc.scale(image[0].numel())
        level = self.alpha / 2 / (nodes * (2 * classes * (classes - 1) + 1))
        ahead, behind = (quantiles(sign * pairs / reach[:, None], level) for sign in (1, -1))
        farthest = (losses / weight[:, None]).sqrt().topk(2, dim=2).values.mean(2, keepdim=True)
        apart = quantiles(farthest / root, level)[1]

        def left(delta: float) -> float:
            a = delta / sigma
            lost = reach * (fall(*ahead, a) + rise(*behind, a)) + 4 * delta * root * weight * ndtr(apart + a)
            return float((gap - lost.sum(0) / scale).min())

        return sigma_to_pixel(last_positive(left, 2 * root))


def one_by_one(
    certificate: Callable[[Tensor, Noise], C],
    num_classes: int,
    dc: NoisedDiffusionClassifier,
    image: Tensor,
    noise: Noise,
) -> list[C]:
    """``certificate`` of each image (B,C,H,W) by itself and its row of noise, ``dc`` as it is deployed."""
    check_rows(image, noise)
    if dc.num_classes != num_classes:
        raise ValueError(f"num_classes must be the classifier's, {dc.num_classes}; got {num_classes}")
    with deployed(dc), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        return [certificate(image[b : b + 1], noise.rows(slice(b, b + 1))) for b in range(len(image))]


def draw_losses(losses: Callable[[Tensor, Noise], Tensor], image: Tensor, noise: Noise, samples: int) -> Tensor:
    """``losses`` of one image (1,C,H,W) in n = ``samples`` draws: (T,n,K) float64, on the CPU.

    ``ValueError`` where one is not finite.
    """
    rows = noise.draws(samples)
    parts = [rows.rows(slice(start, start + _DRAWS)) for start in range(0, samples, _DRAWS)]
    found = torch.cat([losses(image.expand(len(p), *image.shape[1:]), p).cpu().double() for p in parts], dim=1)
    if not bool(found.isfinite().all()):
        raise ValueError("a certificate needs numbers: of this image the denoiser's errors are NaN or infinite")
    return found


def ranked(logits: Tensor) -> tuple[int, list[int]]:
    """The class with the largest mean of (n,K) logits, and the others."""
    first = int(logits.mean(0).argmax())
    return first, [k for k in range(logits.shape[1]) if k != first]


def slopes(dc: BoundedDiffusionClassifier, image: Tensor) -> Tensor:
    """How fast node i's part of a difference of logits can change per pixel distance from an image (1,C,H,W): (T,).

    By the weak law 2 (w_i / temperature) (2 r_i / (sqrt(2 pi) sigma_i) + 4 sqrt(D)): 2, as distances double in the
    model frame; 2 r_i, as differences lie within r_i of 0.
    """
    weight = dc.bound.weight / dc.scale(image[0].numel())
    moved = 4 * math.sqrt(image[0].numel())
    return 2 * weight * (2 * dc.reach(image) / (math.sqrt(2 * math.pi) * dc.bound.sigma) + moved)


def mean_lower(values: Tensor, width: float, level: float) -> Tensor:
    """A lower bound of E v from n independent ``values`` (n,...) in an interval of ``width``; wrong once in 1 / level.

        mean - sqrt(2 V ln(2 / level) / n) - 7 width ln(2 / level) / (3 (n - 1)),   V the sample variance

    The empirical Bernstein inequality (Maurer and Pontil, arXiv 0907.3740, theorem 4).
    """
    n, log = len(values), math.log(2 / level)
    return values.mean(0) - (2 * values.var(0) * log / n).sqrt() - 7 * width * log / (3 * (n - 1))


def quantiles(share: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Phi^-1 of a lower and of an upper bound of the means of (T,n,m) draws, cut to [0,1]: two (T,m)."""
    draws = share.clamp(0, 1).transpose(0, 1)
    return ndtri(mean_lower(draws, 1.0, level).clamp(min=0)), ndtri(-mean_lower(-draws, 1.0, level).clamp(min=-1))


def fall(low: Tensor, high: Tensor, a: Tensor) -> Tensor:
    """The most that the mean p of a function in [0,1] falls when the Gaussian moves by a, low <= Phi^-1(p) <= high.

    By the strong law p - Phi(Phi^-1(p) - a), which grows up to Phi^-1(p) = a / 2 and then falls.
    """
    worst = (a / 2).clamp(low, high)
    lost: Tensor = ndtr(worst) - ndtr(worst - a)
    return lost


def rise(low: Tensor, high: Tensor, a: Tensor) -> Tensor:
    """The most that it rises: what a mean falls by that has risen before."""
    return fall(low + a, high + a, a)


def last_positive(function: Callable[[float], float], upper: float, steps: int = 50) -> float:
    """A point at which a decreasing ``function`` is still positive, upper / 2^steps or less before it ceases to be.

    It is positive at 0, and searched up to ``upper``.
    """
    low, high = 0.0, upper
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low
