"""Certifiers that estimate a diffusion classifier's expected logits, image by image."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from common.noise import Noise
from common.robustness.certification.certificate import Certificate, Certifier, check_inputs
from common.robustness.certification.preconditions import check_once
from common.robustness.classifiers import Classifier, deployed
from common.robustness.padding import unpadded
from ndc.classifier import NoisedDiffusionClassifier

_ROWS = 1024  # copies of an image per call of the classifier, which divides them into micro-batches

DC = TypeVar("DC", bound=NoisedDiffusionClassifier)


class ExpectedLogits(Certifier, Generic[DC]):
    """Certifier by the mean logits of a diffusion classifier over the classifier's own noise; none on the image."""

    sigma = 0.0
    samples: int

    def check(self, classifier: Classifier, image: Tensor, noise: Noise) -> None:
        """Check the kind of the classifier, its classes, its ``forward`` and its noise. Raises ``ValueError``.

        Logits are checked before losses are limited: a classifier whose limited losses are all equal, as at the start
        of training, has the same logits for any noise.
        """
        check_inputs(image, noise)
        check_once(self._checked(classifier), image, self.level, noise, self._logits)

    def certify(self, classifier: Classifier, image: Tensor, noise: Noise) -> list[Certificate]:
        """One certificate per image (B,C,H,W), from one row of noise each."""
        check_inputs(image, noise)
        dc = self._checked(classifier)
        with deployed(dc), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            certificates = []
            for b in range(len(image)):
                one, row = image[b : b + 1], noise.rows(slice(b, b + 1))
                losses = sample_losses(partial(self._limited, dc), one, row, self.samples)
                certificates.append(self._certificate(dc, one, losses))
        return certificates

    def _checked(self, classifier: Classifier) -> DC:
        dc = self._supported(unpadded(classifier))
        if dc.num_classes != self.num_classes:
            raise ValueError(f"num_classes must be the classifier's, {dc.num_classes}; got {self.num_classes}")
        if type(dc).forward is not NoisedDiffusionClassifier.forward:
            raise ValueError(
                f"a certificate of expected logits reads the losses, but {type(dc).__name__} overrides forward and may "
                "predict another class. Override losses or logits instead, or use Smoothing"
            )
        return dc

    def _logits(self, classifier: Classifier, image: Tensor, noise: Noise) -> Tensor:
        """Logits (B,K) of the losses before they are limited."""
        dc = self._supported(classifier)
        return dc.logits(self._losses(dc, image, noise), image.shape[1:].numel())

    @abstractmethod
    def _supported(self, classifier: Classifier) -> DC:
        """The classifier, if the certificate holds for its kind. Raises ``ValueError`` otherwise."""

    @abstractmethod
    def _losses(self, dc: DC, image: Tensor, noise: Noise) -> Tensor:
        """Losses (T,B,K) before they are limited: the numbers that are checked and that the certificate reads."""

    def _limited(self, dc: DC, image: Tensor, noise: Noise) -> Tensor:
        """Losses (T,B,K) of which the certificate is made; not limited by default."""
        return self._losses(dc, image, noise)

    @abstractmethod
    def _certificate(self, dc: DC, image: Tensor, losses: Tensor) -> Certificate:
        """Certificate of one image (1,C,H,W) from the losses of n draws, (T,n,K) float64."""


def sample_losses(losses: Callable[[Tensor, Noise], Tensor], image: Tensor, noise: Noise, samples: int) -> Tensor:
    """``losses`` of one image (1,C,H,W) in n = ``samples`` draws: (T,n,K) float64, on the CPU.

    ``ValueError`` if one is not finite.
    """
    draws = noise.draws(samples)
    parts = [draws.rows(slice(start, start + _ROWS)) for start in range(0, samples, _ROWS)]
    values = []
    for part in parts:
        values.append(losses(image.expand(len(part), *image.shape[1:]), part).cpu().double())
    sampled = torch.cat(values, dim=1)
    if not bool(sampled.isfinite().all()):
        raise ValueError("a certificate needs finite losses; got NaN or infinity. Check the denoiser and its range")
    return sampled


def leading_class(logits: Tensor) -> tuple[int, list[int]]:
    """The class with the largest mean of (n,K) logits, and the other classes."""
    first = int(logits.mean(0).argmax())
    return first, [k for k in range(logits.shape[1]) if k != first]
