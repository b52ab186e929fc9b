"""Randomised smoothing: a certified L2 radius around each image (Cohen, Rosenfeld & Kolter, arXiv 1902.02918)."""

import math
import time
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import Tensor

from common.checks.deferred import check_values, look, looked_at_once
from common.checks.images import check_full_precision, check_layout, check_logits, check_rows
from common.checks.settings import check_count, check_noise_level, check_number, check_size
from common.noise import Noise
from common.records.schema import ABSTAIN
from common.robustness.certification.binomial import clopper_pearson_lower
from common.robustness.certification.certificate import Certificate, Certifier, check_inputs
from common.robustness.certification.crew import crew_of
from common.robustness.certification.smoothed_prediction import SmoothedPrediction, decide_by_counts
from common.robustness.certification.tally import Tally
from common.robustness.classifiers import Classifier, deployed


@dataclass(frozen=True)
class Smoothing(Certifier):
    """CERTIFY of the smoothed classifier ``g(x) = argmax_c P(f(x + sigma z) = c)``, z standard normal.

    n0 samples select a class A; n further ones, independent of the first, bound ``P(f(x + sigma z) = A) >= p_lower``
    (one-sided Clopper-Pearson, confidence 1 - alpha); then ``radius = sigma Phi^-1(p_lower)``.

    The noisy image is not clipped. f may draw random numbers itself: they come from rows of noise independent of z and
    of the image, one per sample, and the certificate holds for the probability over both.

    Args:
        sigma: noise level in pixels.
        n0: samples that select the class.
        n: samples of the bound.
        alpha: the chance of a wrong certificate.
        num_classes: K, the classifier's.
        batch_size: noisy images per call of the classifier, at most.

    Raises ``ValueError`` for settings out of range, and for n samples that never certify: alpha <= 2^-n.
    """

    sigma: float | str
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    num_classes: int = 10
    batch_size: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", check_noise_level("sigma", self.sigma))  # "64/255" becomes a float
        check_count("n0", self.n0)
        check_count("n", self.n)
        check_size("num_classes", self.num_classes, 2)
        check_count("batch_size", self.batch_size)
        if self.n0 > self.n:
            raise ValueError(f"samples must satisfy 1 <= n0 <= n; got n0={self.n0}, n={self.n}")
        check_number("alpha, the chance of a wrong certificate,", self.alpha, above=0, below=1)
        if self.alpha <= 0.5**self.n:
            raise ValueError(
                f"n = {self.n} samples never certify at alpha = {self.alpha:g}: even if all agree, the bound is not "
                f"above 1/2. Raise n to {_least_samples(self.alpha)} or more, or raise alpha"
            )

    def certify(self, classifier: Classifier, image: Tensor, noise: Noise) -> list[Certificate]:
        """One certificate per image (B,C,H,W), from one row of noise each.

        A direct call does not check the preconditions (`check`); a `Certified` evaluator and a test do.
        """
        check_inputs(image, noise)
        with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            selected = self.counts(classifier, image, noise.stream("select"), self.n0).argmax(1)
            counts = self.counts(classifier, image, noise.stream("estimate"), self.n)
        agreed = counts.gather(1, selected[:, None]).squeeze(1).tolist()
        bounds = [clopper_pearson_lower(count, self.n, self.alpha) for count in agreed]
        return [self.certificate(*row, self.n) for row in zip(selected.tolist(), bounds, agreed, strict=True)]

    def predict(self, classifier: Classifier, image: Tensor, noise: Noise) -> list[SmoothedPrediction]:
        """PREDICT of g: the class of most of n samples or `ABSTAIN`, per image (B,C,H,W), from one row of noise each.

        It returns another class than g's with probability at most alpha: a two-sided binomial test at level alpha of
        the two leading classes. As `certify`, a direct call does not check the preconditions.
        """
        check_inputs(image, noise)
        if self.alpha < 2 * 0.5**self.n:
            raise ValueError(
                f"n = {self.n} samples never decide a prediction at alpha = {self.alpha:g}: even if all agree, the "
                f"p-value is 2^(1 - n). Raise n to {self.n + 1} or more, or raise alpha"
            )
        with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            return decide_by_counts(self.counts(classifier, image, noise.stream("predict"), self.n), self.alpha)

    def certificate(self, prediction: int, p_lower: float, count: int, samples: int) -> Certificate:
        """Certificate that follows from ``P(f(x + sigma z) = prediction) >= p_lower``."""
        if p_lower <= 0.5:
            return Certificate(ABSTAIN, 0.0, p_lower, samples, count)
        return Certificate(prediction, self.level * float(norm.ppf(p_lower)), p_lower, samples, count)

    def counts(self, classifier: Classifier, image: Tensor, noise: Noise, n: int, start: int = 0) -> Tensor:
        """Class counts (B, num_classes) int64 of f(x + sigma z) in samples start .. start + n - 1.

        The host waits for a device once, when all are counted.
        """
        check_full_precision(check_layout(image))
        check_rows(noise, image)
        tally, crew = Tally(noise, n, start, self.num_classes), crew_of(self, classifier)
        with looked_at_once():
            owner, draws = self._rows(noise, n, start, tally.missing())
            drawn, begun, shared = len(owner), time.monotonic(), False
            while len(owner):
                if crew is not None and crew.helps(len(owner)):
                    found, done = crew.count(self, image, owner, draws)
                    tally.merge(found)
                    shared = True
                else:
                    done, rows = self.batch_size, draws.rows(slice(0, self.batch_size))
                    images = owner[: self.batch_size]
                    tally.add(images, self.decided(classifier(self.noisy(image[images], rows), rows), len(rows)))
                owner, draws = owner[done:], draws.rows(slice(done, None))
            counts = tally.end()
            look()
        if crew is not None and not shared:
            crew.learn(drawn, time.monotonic() - begun)
        return counts

    def noisy(self, image: Tensor, rows: Noise) -> Tensor:
        """One sample x + sigma z of each image (R,C,H,W), with the z of the ``rows``."""
        return image + self.level * rows.stream("gaussian").normal(0, image.shape[1:], image.dtype)

    def decided(self, output: Tensor, rows: int) -> Tensor:
        """Classes (R,) of a classifier's ``output`` for ``rows`` samples. Raises ``ValueError`` for other logits."""
        logits = check_logits(output, rows)
        self._check_logits(logits)
        return logits.argmax(1)

    def _rows(self, noise: Noise, n: int, start: int, missing: Tensor | None) -> tuple[Tensor, Noise]:
        """The ``missing`` of B*n rows, image-major: image number and noise of each."""
        draws = noise.draws(n, start)
        owners = torch.arange(len(noise), device=noise.index.device).repeat_interleave(n)
        return (owners, draws) if missing is None else (owners[missing], draws.rows(missing))

    def _check_logits(self, logits: Tensor) -> None:
        if logits.shape[1] != self.num_classes:
            got = f"the classifier has {logits.shape[1]}"
            raise ValueError(f"num_classes must be the classifier's: {got}, Smoothing {self.num_classes}")
        check_values((~logits.isnan().any() & logits.isfinite().any(1).all())[None], _check_numbers)


def _check_numbers(numbers: list[float]) -> None:
    if not numbers[0]:
        raise ValueError(
            "a certificate needs logits that are numbers; this classifier's logits are NaN or -inf on noisy images"
        )


def _least_samples(alpha: float) -> int:
    """Smallest n at which n equal samples certify: alpha > 2^-n."""
    return math.floor(-math.log2(alpha)) + 1
