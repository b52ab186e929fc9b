"""A clipped denoiser: the same inside [-1,1], its ends outside, and no gradient there."""

import torch

from common.diffusion.denoisers import Denoiser
from common.diffusion.wrappers import Clipped


class Doubling(Denoiser):
    num_classes, sigma_min, sigma_max = 3, 0.1, 2.0

    def forward(self, x, sigma, label=None):
        return 2 * x + (0 if label is None else label.view(-1, 1, 1, 1))


def test_values_and_gradient():
    x = torch.tensor([-0.8, -0.4, 0.3, 0.7]).view(4, 1, 1, 1).requires_grad_()
    clipped = Clipped(Doubling())(x, torch.tensor(0.5))
    assert clipped.flatten().tolist() == torch.tensor([-1.0, -0.8, 0.6, 1.0]).tolist()
    (gradient,) = torch.autograd.grad(clipped.sum(), x)
    assert gradient.flatten().tolist() == [0, 2, 2, 0]


def test_levels_and_labels_are_the_denoisers():
    denoiser = Clipped(Doubling())
    assert (denoiser.num_classes, denoiser.sigma_min, denoiser.sigma_max) == (3, 0.1, 2.0)
    x = torch.full((2, 1, 1, 1), -0.6)
    labelled = denoiser(x, torch.tensor(0.5), torch.tensor([0, 1]))
    torch.testing.assert_close(labelled.flatten(), torch.tensor([-1.0, -0.2]))
