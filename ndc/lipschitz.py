r"""Lipschitz certificates of the diffusion classifier without smoothing: bounds on the change of its expected logits.

The logits of DC are averages over Gaussian noise around the image, so they cannot change fast. Let x be the image, x'
any other point, d = x' - x, delta = ||d|| (model frame). At a node u = x + sigma z is the noisy image, h_y(u) the
denoised one, clipped to [-1,1]^D, and the target t is x again. Write E_y(u; t) = || h_y(u) - t ||^2, e_y(u; t) for its
excess over the best class, limited (`BoundedDiffusionClassifier`), and for a pair of classes

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

p, n and m the means at x of g^+ / r, g^- / r and q / sqrt(D). x' need not be an image. Errors are small and classes
mostly agree, so p, n and m are small, and the strong law's radii are several times those of the weak law.

**Confidence.** Means over ``samples`` draws of the noise are bounded by the empirical Bernstein inequality: for the
K (K - 1) ordered pairs at level alpha in all, so that the class may be chosen from the same draws. With the strong law
alpha / 2 goes there, and as much to intervals for p, n and m at all T nodes, of which the worst values are taken.

The bounds are in `ndc.lipschitz_bounds`. Source of the weak law for DC: Chen et al., arXiv 2402.02316 (v2),
theorem 3.1; `ndc.claimed` has its constants.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from common.checks.settings import check_count, check_number, check_one_of, check_size
from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.certificate import Certificate
from common.robustness.classifiers import Classifier
from ndc.bounded import BoundedDiffusionClassifier
from ndc.expected_logits import ExpectedLogits, leading_class
from ndc.lipschitz_bounds import StrongLaw, mean_lower, slopes

Law = Literal["strong", "weak"]
_BOUNDED = ("logits", "losses", "unlimited", "limited", "term_bounds")  # methods that the bounds are about


@dataclass(frozen=True)
class Lipschitz(ExpectedLogits[BoundedDiffusionClassifier]):
    """Radii within which the expected logits of a `BoundedDiffusionClassifier` keep their largest class.

    Takes the place of `Smoothing`, ``Certified(Lipschitz(...))``, and adds no noise. With probability at least
    1 - alpha over the draws, ``prediction`` is the largest expected logit of every x' closer to the image than
    ``radius`` (L2, pixels). If the draws leave two classes undecided it abstains, radius 0. ``p_lower`` is a lower
    bound on the prediction's probability, the softmax of the expected logits; ``count`` of ``samples`` draws agree.

    Args:
        num_classes: K, the classifier's.
        samples: draws of the noise, each of T K network evaluations.
        alpha: the chance of a wrong certificate.
        law: "strong", or "weak" for a Lipschitz constant proper, `slopes`.

    Raises ``ValueError`` for settings out of range, for a classifier without bounds or of other classes, and for a
    subclass with a ``forward``, logits or losses of its own, to which the bounds do not apply; in a test also for
    ``samples`` that never certify.
    """

    num_classes: int = 10
    samples: int = 1000
    alpha: float = 0.001
    law: Law = "strong"

    def __post_init__(self) -> None:
        check_size("num_classes", self.num_classes, 2)
        check_count("samples, draws of the noise,", self.samples, 2)
        check_number("alpha, the chance of a wrong certificate,", self.alpha, above=0, below=1)
        check_one_of("law", self.law, get_args(Law))

    def check(self, classifier: Classifier, image: Tensor, noise: Noise) -> None:
        """Check the classifier as `ExpectedLogits` does, and that ``samples`` draws can certify an image at all."""
        super().check(classifier, image, noise)
        dc = self._checked(classifier)
        zero = image.new_zeros(len(dc.bound), 1, self.num_classes, dtype=torch.float64)
        prior = dc.logits(zero, image.shape[1:].numel())  # of classes of equal losses
        widest = self._half(dc, image) + float(prior.max() - prior.min())
        if float(self._gap(dc, image, prior.new_full((self.samples, 1), widest))) <= 0:
            raise ValueError(
                f"samples = {self.samples} draws never certify at alpha = {self.alpha:g}, {self.num_classes} classes: "
                "even the widest gap between logits stays undecided. Raise samples or alpha"
            )

    def _supported(self, classifier: Classifier) -> BoundedDiffusionClassifier:
        if not isinstance(classifier, BoundedDiffusionClassifier):
            got = type(classifier).__name__
            raise ValueError(f"a Lipschitz bound needs bounded terms, a BoundedDiffusionClassifier; got a {got}")
        kind = type(classifier)
        if own := [name for name in _BOUNDED if getattr(kind, name) is not getattr(BoundedDiffusionClassifier, name)]:
            raise ValueError(
                f"a Lipschitz bound is about the methods of BoundedDiffusionClassifier; {kind.__name__} overrides "
                f"{', '.join(own)}. Certify a BoundedDiffusionClassifier, or derive a certifier with bounds of its own"
            )
        return classifier

    def _losses(self, dc: BoundedDiffusionClassifier, image: Tensor, noise: Noise) -> Tensor:
        return dc.unlimited(image, noise)

    def _certificate(self, dc: BoundedDiffusionClassifier, image: Tensor, losses: Tensor) -> Certificate:
        dimension = image.shape[1:].numel()
        terms = dc.limited(losses, dimension)
        logits = dc.logits(terms, dimension)
        prediction, others = leading_class(logits)
        gap = self._gap(dc, image, logits[:, [prediction]] - logits[:, others])
        p_lower = torch.sigmoid(-torch.logsumexp(-gap, 0)).item()
        count = int((logits.argmax(1) == prediction).sum())
        if bool((gap <= 0).any()):
            return Certificate(ABSTAIN, 0.0, p_lower, self.samples, count)
        if self.law == "weak":
            radius = gap.min().item() / slopes(dc, image).sum().item()
        else:
            pairs = terms[:, :, others] - terms[:, :, [prediction]]
            radius = StrongLaw.of(dc, image, pairs, losses, self.alpha / 2).radius(gap)
        return Certificate(prediction, radius, p_lower, self.samples, count)

    def _gap(self, dc: BoundedDiffusionClassifier, image: Tensor, differences: Tensor) -> Tensor:
        """Lower bounds (K-1,) on the expected logit differences to the other classes, from draws (n,K-1)."""
        level = self.alpha if self.law == "weak" else self.alpha / 2
        return mean_lower(differences, 2 * self._half(dc, image), level / (self.num_classes * (self.num_classes - 1)))

    def _half(self, dc: BoundedDiffusionClassifier, image: Tensor) -> float:
        """Largest difference of two logits at an image, but for the prior."""
        return (dc.bound.weight * dc.term_bounds(image)).sum().item() / dc.temperature(image.shape[1:].numel())
