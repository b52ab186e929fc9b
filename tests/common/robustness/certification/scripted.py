"""Certification of samples whose classes are given."""

import torch

from common.noise import Noise
from common.robustness.classifiers import Classifier


class Scripted(Classifier):
    """Class 1 or 0 in the order of the samples, those that select the class first."""

    def __init__(self, *classes):
        super().__init__()
        self.classes = [one for part in classes for one in part]

    def forward(self, image, noise=None):
        taken, self.classes = self.classes[: len(image)], self.classes[len(image) :]
        return torch.nn.functional.one_hot(torch.tensor(taken), 2).float()


def certify(procedure, *classes):
    """Certificate of one image."""
    image, noise = torch.zeros(1, 1, 1, 1), Noise.of(0, torch.arange(1))
    (certificate,) = procedure.certify(Scripted(*classes), image, noise)
    return certificate
