"""The classifier against exact likelihoods, where expectations over its noise are taken by Gauss-Hermite quadrature."""

import math

import pytest
import torch
from torch import nn

from common.diffusion.denoisers import Denoiser
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.units import to_model, to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.likelihood import ELBO, LogNormal, Nodes

POINTS = torch.tensor([[0.1, 0.4], [-0.6, 0.2], [0.7, -0.9]], dtype=torch.float64).view(3, 1, 1, 1, 2)
LABELS = torch.arange(3)


def differences(logits):
    """Logits up to what all classes share."""
    return logits - logits[..., :1]


def blurred(mixture, rule, x, spread, sigma):
    """E_z log p_sigma(x + spread z | y) for every class, (K,)."""
    rows = x + spread * rule.z
    return torch.stack([rule.mean(mixture.log_density(rows, sigma, y.expand(len(rows)))) for y in LABELS])


class Recorder(Denoiser):
    """Remembers what its network is asked; a smooth stand-in for a trained denoiser, in any dtype."""

    num_classes, sigma_min, sigma_max = 3, 0.002, 80.0

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, sigma, label=None):
        self.calls.append((x.detach(), sigma, label))
        gain = 1 / (1 + sigma.to(x).expand(len(x)).square()).view(-1, 1, 1, 1)
        shift = 0.0 if label is None else (label.to(x) - 1).view(-1, 1, 1, 1)
        return torch.tanh(gain * x + 0.4 * shift * x.cos()) * 0.9


# What the likelihoods are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["log", "equal"])
@pytest.mark.parametrize("x", POINTS)
def test_dc_with_the_exact_denoiser_is_the_log_likelihood_ratio(mixture, exact, hermite, expected_logits, rule, x):
    """On [0.05, 20] the bound is E log p_0.05 - E log p_20, whatever the class. Midpoints: O(T^-2), 1e-3 at 400 nodes."""
    quadrature, low, high = hermite(20, (1, 1, 2)), 0.05, 20.0
    classifier = NoisedDiffusionClassifier(exact, 3, 0.0, "dc", Nodes(400, rule, low, high), "elbo", batch_size=10**9)
    expected = blurred(mixture, quadrature, x, low, low) - blurred(mixture, quadrature, x, high, high)
    logits = expected_logits(classifier, to_pixel(x), quadrature)
    torch.testing.assert_close(differences(logits), differences(expected), rtol=0, atol=2e-3)


@pytest.mark.parametrize("x", POINTS)
def test_dc_tends_to_the_likelihood_ratio_of_clean_data(mixture, exact, hermite, expected_logits, x):
    """Limits 1e-3 and 1e3 cost O(1e-6) each; the rest is quadrature."""
    nodes = Nodes(600, "log", 1e-3, 1e3)
    classifier = NoisedDiffusionClassifier(exact, 3, 0.0, "dc", nodes, "elbo", batch_size=10**9)
    logits = expected_logits(classifier, to_pixel(x), hermite(20, (1, 1, 2)))
    expected = torch.stack([mixture.log_density(x, 0.0, y[None])[0] for y in LABELS])
    torch.testing.assert_close(differences(logits), differences(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
@pytest.mark.parametrize("x", POINTS)
def test_epndc_with_the_exact_denoiser_is_the_bayes_classifier_of_noisy_data(
    mixture, exact, hermite, expected_logits, x, sigma
):
    """sigma in pixels is 2 sigma in the mixture's frame; the upper limit 1e3 costs O(1e-6), the rest is quadrature."""
    prior = [0.2, 0.4, 0.4]
    classifier = NoisedDiffusionClassifier(
        exact, 3, sigma, "epndc", Nodes(500, "log", sigma_max=1e3), "elbo",
        log_prior=[math.log(p) for p in prior], batch_size=10**9,
    )  # fmt: skip
    logits = expected_logits(classifier, to_pixel(x), hermite(20, (1, 1, 2)))
    bayes = mixture.bayes_logits(x, 2 * sigma)[0]
    torch.testing.assert_close(logits.log_softmax(0), bayes, rtol=0, atol=1e-3)
