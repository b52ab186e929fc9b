"""The published code's sum over its own nodes, reproduced from its description."""

import math

import pytest
import torch

from common.diffusion.denoisers import Denoiser
from common.noise import Noise
from common.units import to_model, to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.nodes import Nodes


class OfTen(Denoiser):
    """Stands for a trained denoiser of ten classes."""

    num_classes, sigma_min, sigma_max = 10, 0.002, 80.0

    def forward(self, x, sigma, label=None):
        return 0 * x


@pytest.mark.parametrize(("variant", "sigma", "points"), [("apndc", 0.25, 126), ("apndc", 0.5, 20), ("dc", 0.0, 126)])
def test_the_reference_is_the_published_loop(exact, variant, sigma, points):
    """Noise and lambda at point i + 1 of the grid, density and width at point i; i up to points - 3.

    Written out from the description of the published code, whose exponent divides by 2 and multiplies by 1.44. With
    density and lambda at the same level ("narrow") the differences between classes are off by per cents.
    """
    nodes = Nodes(points - 2, "reference", sigma_min=None if sigma else 0.05)
    classifier = NoisedDiffusionClassifier(exact, 3, sigma, variant, nodes, "reference")
    image, noise = (
        to_pixel(torch.tensor([0.1, 0.4], dtype=torch.float64).view(1, 1, 1, 2)),
        Noise.of(1, torch.tensor([4])),
    )
    x0 = exact(to_model(image), torch.tensor(2 * sigma), None) if sigma else to_model(image)
    grid = torch.linspace(2 * sigma or 0.05, 3, points, dtype=torch.float64)
    loss = torch.zeros(3, dtype=torch.float64)
    for i in range(points - 2):
        z = noise.stream("ndc").normal(i, (1, 1, 2), torch.float64)
        density = torch.exp(-((grid[i].log() + 1.2) ** 2) / 2 * 1.44) / (grid[i] * 1.2 * math.sqrt(2 * math.pi))
        scale = (grid[i + 1] ** 2 + 0.25) / (grid[i + 1] * 0.5) ** 2 * density * (grid[i + 1] - grid[i])
        for y in range(3):
            denoised = exact(x0 + grid[i + 1] * z, grid[i + 1], torch.tensor([y]))
            loss[y] += scale * (denoised - x0).square().mean()
    torch.testing.assert_close(classifier(image, noise)[0], -loss)
    narrow = NoisedDiffusionClassifier(exact, 3, sigma, variant, nodes, "narrow")(image, noise)[0]
    gaps = [logits[1:] - logits[0] for logits in (-loss, narrow)]
    assert (gaps[0] / gaps[1] - 1).abs().max() > 0.005


def test_the_published_procedure_evaluates_1241_rows_per_sample():
    """124 nodes of ten classes and the first denoising: 12.53 million with n0 = 100 and n = 10,000."""
    classifier = NoisedDiffusionClassifier(OfTen(), 10, 0.25, "apndc", Nodes(124, "reference"), "reference")
    assert classifier.evaluations == 1241 and 10_100 * classifier.evaluations == 12_534_100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nodes of the rule 'equal'. Use Nodes"),
        ({"nodes": Nodes(8, "linspace")}, "the weight 'narrow', its log-normal for any nodes"),
        ({"nodes": Nodes(8, "reference"), "variant": "epndc"}, "of DC and APNDC; got EPNDC"),
        ({"nodes": Nodes(8, "reference", antithetic=True)}, "got antithetic noise"),
    ],
)
def test_the_weight_and_the_nodes_are_refused_elsewhere(settings, message):
    with pytest.raises(ValueError, match=message):
        NoisedDiffusionClassifier(OfTen(), 10, 0.25, **{"variant": "apndc", "weight": "reference", **settings})
