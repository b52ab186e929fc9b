"""An exact mixture, and quadrature in place of noise: the average over its rows is E_z, to quadrature accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from common.exact import ExactDenoiser, GaussianMixture
from common.robustness.classifiers import Classifier


@dataclass
class Hermite:
    """Quadrature in place of `Noise`: row q is node q of a product Gauss-Hermite rule for N(0, I), at every step."""

    z: Tensor
    weight: Tensor

    @classmethod
    def rule(cls, nodes: int, shape: Sequence[int]) -> "Hermite":
        x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
        dimension = int(np.prod(shape))
        z = torch.cartesian_prod(*[x] * dimension).reshape(-1, *shape)
        weight = torch.cartesian_prod(*[w / w.sum()] * dimension).reshape(len(z), -1).prod(1)
        return cls(z, weight)

    def __len__(self) -> int:
        return len(self.z)

    def stream(self, name: str) -> "Hermite":
        return self

    def to(self, device: torch.device) -> "Hermite":
        return self

    def rows(self, selection: slice | Tensor) -> "Hermite":
        return Hermite(self.z[selection], self.weight[selection])

    def normals(self, steps: Sequence[int], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return self.z.to(dtype).expand(len(steps), *self.z.shape)

    def mean(self, values: Tensor) -> Tensor:
        """E over the rows, the first dimension."""
        return torch.einsum("q,q...->...", self.weight, values)


@pytest.fixture(scope="session")
def hermite() -> Callable[..., Hermite]:
    return Hermite.rule


@pytest.fixture(scope="session")
def expected_logits() -> Callable[[Classifier, Tensor, Hermite], Tensor]:
    """E_z of a classifier's logits at one image (1,C,H,W) -> (K,)."""

    def average(classifier: Classifier, image: Tensor, rule: Hermite) -> Tensor:
        return rule.mean(classifier(image.expand(len(rule), *image.shape[1:]), rule))

    return average


@pytest.fixture(scope="session")
def mixture() -> GaussianMixture:
    """Three classes in two dimensions, the last of two components; unequal widths and weights."""
    means = torch.tensor([[-0.7, 0.2], [0.5, 0.6], [0.1, -0.8], [0.9, -0.3]], dtype=torch.float64).view(4, 1, 1, 2)
    stds, weights = torch.tensor([0.35, 0.5, 0.3, 0.4]), torch.tensor([0.2, 0.4, 0.3, 0.1])
    return GaussianMixture(means, stds, weights, torch.tensor([0, 1, 2, 2]))


@pytest.fixture(scope="session")
def exact(mixture: GaussianMixture) -> ExactDenoiser:
    return ExactDenoiser(mixture)
