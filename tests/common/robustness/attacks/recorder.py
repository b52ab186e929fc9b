"""A classifier that stores its inputs, for tests of attacks' queries."""

import torch

from common.robustness.classifiers import Classifier


class Recorder(Classifier):
    """Two smooth logits, non-linear in the image, that shift with the draw; stores all inputs and logits."""

    def __init__(self, randomised=True):
        super().__init__()
        self.calls, self.randomised, self.differentiated = [], randomised, []

    def forward(self, image, noise=None):
        self.differentiated.append(image.requires_grad)
        u = image.flatten(1)
        if self.randomised:
            u = u + 0.3 * noise.normal(0, u.shape[1:], image.dtype)
        weight = torch.cos(torch.arange(u.shape[1], dtype=image.dtype) ** 2)
        logits = torch.stack((torch.zeros_like(u[:, 0]), (weight * torch.sin(9 * u)).sum(1) - 1), 1)
        self.calls.append((image.detach().clone(), noise, logits.detach()))
        return logits
