"""Denoisers with known Lipschitz constants for the tests of certificates without smoothing."""

import math

import torch

from common.diffusion.denoisers import Denoiser
from common.engine.engine import Engine
from common.noise import Noise
from common.units import to_pixel
from ndc.bounded import BoundedDiffusionClassifier
from ndc.nodes import Nodes

F64 = torch.float64


class Halves(Denoiser):
    """One number, two classes: class 0 is denoised to -1 below the edge and 1 above, class 1 to the opposite.

    For x < 0, E_1 - E_0 = -4 x sign(edge - u): class 0 wins exactly where x is below the edge, and no function of the
    noisy image changes faster than this one does when it moves across.
    """

    num_classes = 2

    def __init__(self, edge=-0.9):
        super().__init__()
        self.edge = edge

    def forward(self, x, sigma, label=None):
        return torch.where(x < self.edge, -1.0, 1.0).to(x) * (1 - 2 * label.to(x)).view(-1, 1, 1, 1)


class Opposite(Denoiser):
    """Class 0 is denoised to 1 everywhere, class 1 to -1: only the target moves."""

    num_classes = 2

    def forward(self, x, sigma, label=None):
        return (1 - 2 * label.to(x)).view(-1, 1, 1, 1).expand_as(x)


class Steep(Denoiser):
    """Three classes in two numbers by a random network with sharp edges, which leaves [-1,1]."""

    num_classes = 3

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inner, self.bias, self.outer = (
            torch.randn(*shape, generator=generator, dtype=F64) for shape in ((2, 12), (12,), (3, 12, 2))
        )

    def forward(self, x, sigma, label=None):
        hidden = torch.tanh(8 * (x.flatten(1) @ self.inner + 0.7 * self.bias))
        return (torch.einsum("bh,bhd->bd", hidden, self.outer[label]) / 2).view_as(x)


def narrow(sigma, denoiser, limit=None, **settings):
    """A classifier whose two nodes lie at ``sigma``, to a millionth."""
    nodes = Nodes(2, "log", sigma, sigma * (1 + 1e-6))
    return BoundedDiffusionClassifier(denoiser, 2, nodes, "elbo", limit, engine=Engine(batch_size=4096), **settings)


def point(*x):
    """The image of a point in the model frame."""
    return to_pixel(torch.tensor(x, dtype=F64).view(1, 1, 1, -1))


def noise(count, seed=0):
    return Noise.of(seed, torch.arange(count))


class World:
    """A bounded classifier's expected logits in two dimensions: integrals over the noisy image on a fine grid.

    The grid belongs to the noisy image, not to the noise: x enters by the Gaussian's density and as the target, so
    that gradients in x are those of the expectation, however sharp the denoiser's edges.
    """

    def __init__(self, dc, cells=81, span=4.0):
        axis = torch.linspace(-span, span, cells, dtype=F64)
        self.dc, self.u, self.cell = dc, torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2
        with torch.no_grad():
            rows = self.u.view(-1, 1, 1, 2)
            self.h = [
                torch.stack([dc.denoiser(rows, s, torch.full((len(rows),), k)).view(-1, 2) for k in range(3)])
                for s in dc.bound.sigma
            ]

    def terms(self, x):
        """E w_i e_iy / temperature for points x (n,2): (T,n,K)."""
        found = []
        for i, (s, w) in enumerate(zip(self.dc.bound.sigma, self.dc.bound.weight, strict=True)):
            density = torch.exp(-(x[:, None] - self.u).square().sum(-1) / (2 * s**2)) / (2 * math.pi * s**2)
            target = x.square().sum(-1)[:, None, None] - 2 * torch.einsum("nd,kud->nku", x, self.h[i])
            errors = self.h[i].square().sum(-1) + target
            excess = errors - errors.amin(1, keepdim=True)
            if self.dc.limit is not None:
                scale = (s**2 + 0.25) / (s * 0.5) ** 2
                excess = excess.clamp(max=float(self.dc.limit * 2 / scale))
            found.append(w * torch.einsum("nu,nku->nk", density, excess) * self.cell)
        return torch.stack(found) / self.dc.temperature(2)


def steep(seed, limit, batch_size=8192):
    nodes = Nodes(3, "log", 0.25, 1.0)
    return BoundedDiffusionClassifier(Steep(seed), 3, nodes, "lognormal", limit, engine=Engine(batch_size=batch_size))
