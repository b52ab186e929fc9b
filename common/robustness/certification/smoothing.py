"""Randomised smoothing: a certified L2 radius around each image (Cohen, Rosenfeld & Kolter, arXiv 1902.02918)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from scipy.stats import beta, norm
from torch import Tensor

from common.noise import Noise
from common.records.rows import ABSTAIN
from common.robustness.classifiers import Classifier, deployed
from common.units import check_integer, parse_number


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 - alpha, the certified classifier answers ``prediction`` on all images closer than
    ``radius`` (L2, pixels), or the certifier abstains: ``prediction == ABSTAIN``, radius 0.

    Of randomised smoothing: ``count`` of ``samples`` agreed, hence ``p_lower``; at 1/2 or less it abstains.
    """

    prediction: int
    radius: float
    p_lower: float
    samples: int
    count: int = 0


class Certifier(ABC):
    """What certifies: ``certify(classifier, image, noise)`` -> one `Certificate` per image, from one row of noise each.

    ``sigma`` (pixels) is the noise that it adds before it asks, 0 for none; ``num_classes`` the classifier's. One that
    is ``labelled`` asks about the label's class alone, and its ``certify`` takes ``label`` (B,) besides.
    """

    sigma: float | str
    num_classes: int

    @property
    def labelled(self) -> bool:
        """Whether `certify` takes the labels."""
        return False

    @abstractmethod
    def certify(self, classifier: Classifier, image: Tensor, noise: Noise) -> Sequence[Certificate]:
        """One certificate per image (B,C,H,W)."""


def check_rows(image: Tensor, noise: Noise) -> None:
    """Raises ``ValueError`` unless there is one row of noise per image."""
    if len(image) != len(noise):
        raise ValueError(f"certify needs a row of noise per image; got {len(image)} images, {len(noise)} rows")


@dataclass(frozen=True)
class Smoothing(Certifier):
    """CERTIFY of the smoothed classifier ``g(x) = argmax_c P(f(x + sigma z) = c)``, z standard normal.

    n0 samples choose a class A; n further ones, independent of the first, bound ``P(f(x + sigma z) = A) >= p_lower``
    (one-sided Clopper-Pearson, confidence 1 - alpha); then ``radius = sigma Phi^-1(p_lower)``.

    ``sigma`` is in pixel units; the noisy image is handed to f unclipped. f may itself draw random numbers: they
    come from rows of noise independent of z and of the image, one per sample, and the certificate then holds for
    the probability over both. At most ``batch_size`` noisy images are classified in one call.
    """

    sigma: float | str
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    num_classes: int = 10
    batch_size: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", parse_number(self.sigma))  # "64/255" becomes a float
        if not 0 < self.level < float("inf"):
            raise ValueError(f"sigma must be above 0, in pixel units; got {self.sigma}")
        check_integer("n0", self.n0, 1)
        check_integer("n", self.n, 1)
        check_integer("num_classes", self.num_classes, 2)
        check_integer("batch_size", self.batch_size, 1)
        if self.n0 > self.n:
            raise ValueError(f"samples must satisfy 1 <= n0 <= n; got n0={self.n0}, n={self.n}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha, the chance of a wrong certificate, must be in (0,1); got {self.alpha}")

    @property
    def level(self) -> float:
        """``sigma`` as the number it is."""
        return float(self.sigma)

    def certify(self, classifier: Classifier, image: Tensor, noise: Noise) -> list[Certificate]:
        """One certificate per image (B,C,H,W), from one row of noise each."""
        return self._certify(classifier, image, noise)

    def _certify(
        self, classifier: Classifier, image: Tensor, noise: Noise, label: Tensor | None = None
    ) -> list[Certificate]:
        """n0 samples choose, the others estimate; an image of another class than its ``label`` has -1 votes."""
        check_rows(image, noise)
        with deployed(classifier), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            votes, chosen = self.counts(classifier, image, noise.stream("select"), self.n0).max(1)
            votes = votes if label is None else votes.where(chosen == label, -1)
            return self._estimate(classifier, image, noise.stream("estimate"), chosen, votes)

    def _estimate(
        self, classifier: Classifier, image: Tensor, noise: Noise, chosen: Tensor, votes: Tensor
    ) -> list[Certificate]:
        """Certificates that the ``chosen`` classes (B,) are the smoothed classifier's; n0 samples gave them ``votes``.

        The votes may decide how many samples are spent; for a bound they do not count, as they made the choice.
        """
        agreed = self.counts(classifier, image, noise, self.n).gather(1, chosen[:, None]).squeeze(1).tolist()
        bounds = [clopper_pearson_lower(count, self.n, self.alpha) for count in agreed]
        return [self.certificate(*row, self.n) for row in zip(chosen.tolist(), bounds, agreed, strict=True)]

    def certificate(self, prediction: int, p_lower: float, count: int, samples: int) -> Certificate:
        """What ``P(f(x + sigma z) = prediction) >= p_lower`` certifies."""
        if p_lower <= 0.5:
            return Certificate(ABSTAIN, 0.0, p_lower, samples, count)
        return Certificate(prediction, self.level * float(norm.ppf(p_lower)), p_lower, samples, count)

    def counts(self, classifier: Classifier, image: Tensor, noise: Noise, n: int, start: int = 0) -> Tensor:
        """(B, num_classes) int64: how often f(x + sigma z) answered each class in samples start .. start + n - 1."""
        counts = torch.zeros(len(image) * self.num_classes, dtype=torch.int64, device=image.device)
        for owner, rows in self._batches(noise, n, start):
            z = rows.stream("gaussian").normal(0, image.shape[1:], image.dtype)
            logits = classifier(image[owner] + self.level * z, rows)
            if logits.shape[1] != self.num_classes:
                got = f"the classifier has {logits.shape[1]}"
                raise ValueError(f"num_classes must be the classifier's: {got}, Smoothing {self.num_classes}")
            if bool(logits.isnan().any()) or not bool(logits.isfinite().any(1).all()):
                raise ValueError(
                    "a certificate needs numbers: of a noisy image this classifier's logits are NaN or -inf"
                )
            counts += torch.bincount(owner * self.num_classes + logits.argmax(1), minlength=len(counts))
        return counts.view(len(image), self.num_classes)

    def _batches(self, noise: Noise, n: int, start: int) -> Iterator[tuple[Tensor, Noise]]:
        """B*n rows, image-major, at most batch_size at a time: which image each belongs to, and its noise."""
        draws = noise.draws(n, start)
        owners = torch.arange(len(noise), device=noise.index.device).repeat_interleave(n)
        for first in range(0, len(owners), self.batch_size):
            rows = slice(first, first + self.batch_size)
            yield owners[rows], draws.rows(rows)


@lru_cache(maxsize=2**16)
def clopper_pearson_lower(k: int, n: int, alpha: float) -> float:
    """One-sided exact lower bound for a binomial probability: p with ``P(Binomial(n, p) >= k) = alpha``; 0 for k = 0.

    At least 1 - alpha of all samples give a bound not above the true probability.
    """
    _check_count(k, n)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0,1); got {alpha}")
    return 0.0 if k == 0 else float(beta.ppf(alpha, k, n - k + 1))


def _check_count(k: int, n: int) -> None:
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"counts must satisfy 0 <= k <= n and n >= 1; got k={k}, n={n}")
