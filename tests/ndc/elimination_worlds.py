"""Mixtures, counted denoisers and pairs of searches for the tests of elimination."""

from pathlib import Path

import torch

from common.diffusion.denoisers import Denoiser
from common.engine.engine import Engine
from common.exact import GaussianMixture
from common.noise import Noise
from common.units import to_pixel
from ndc.classifier import NoisedDiffusionClassifier

TRAINED = Path(__file__).parents[2] / "runs/tour/denoiser.safetensors"


class Counting(Denoiser):
    """A denoiser that remembers its rows."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.num_classes = denoiser, denoiser.num_classes
        self.rows, self.calls = 0, []

    def forward(self, x, sigma, label=None):
        self.rows += len(x)
        self.calls.append((x.detach(), sigma, label))
        return self.denoiser(x, sigma, label)


def world(classes, dimension, spread, std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(classes, 1, dimension, 1, generator=generator, dtype=torch.float64)
    return GaussianMixture(means, std)


def noisy(mixture, count, sigma):
    """Images of the mixture with noise of ``sigma`` (pixels), and rows of noise for their classifier."""
    noise = Noise.of(5, torch.arange(count))
    x0, _ = mixture.sample(noise.stream("data"))
    return to_pixel(x0) + sigma * noise.stream("gaussian").normal(0, x0.shape[1:], x0.dtype), noise


def both(denoiser, image, noise, elimination, sigma, variant, nodes=16, **settings):
    """Logits of the full search, with elimination, and how many times fewer rows those took."""
    logits, rows = [], []
    for each in (None, elimination):
        counting = Counting(denoiser)
        classifier = NoisedDiffusionClassifier(
            counting,
            denoiser.num_classes,
            sigma,
            variant,
            nodes,
            elimination=each,
            engine=Engine(batch_size=2048),
            **settings,
        )
        with torch.no_grad():
            logits.append(classifier(image, noise))
        rows.append(counting.rows)
    return *logits, rows[0] / rows[1]


def table(values):
    """Terms from a table (T,B,K), and a list of their calls."""
    calls = []

    def terms(nodes, rows, candidates):
        calls.append((list(nodes), rows, candidates.clone()))
        return values[list(nodes)][:, rows] * candidates

    return terms, calls
