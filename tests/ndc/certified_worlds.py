"""A mixture with its data set, classifiers, certifiers and runs of a certification."""

import lightning as L
import torch

from common.data.datasets import ImageDataset
from common.data.image_data import ImageData
from common.engine.engine import Engine
from common.exact import ExactDenoiser, GaussianMixture
from common.noise import Noise
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier
from common.robustness.evaluation.clean_and_certified import Certified
from common.units import to_pixel
from ndc.classifier import NoisedDiffusionClassifier
from ndc.denoised import DenoisedClassifier
from ndc.elimination import Elimination
from ndc.task import NDCTask

SIGMA = 0.25


class Nearest(Classifier):
    """The nearest of the mixture's means, as a classifier of clean images."""

    def __init__(self, means):
        super().__init__()
        self.register_buffer("means", to_pixel(means).flatten(1).float())

    def forward(self, image, noise=None):
        return -10 * (image.flatten(1)[:, None] - self.means).square().sum(-1)


def world():
    means = 0.5 * Noise.of(0, torch.arange(4)).normal(0, (1, 4, 4))
    return GaussianMixture(means, 0.3)


class Samples(ImageData):
    """Seven images of the mixture: no batch size divides them."""

    shape, num_classes = (1, 4, 4), 4

    def load(self, stage=None):
        x0, label = world().sample(Noise.of(1, torch.arange(7)))
        self.held_out = ImageDataset(to_pixel(x0).clamp(0, 1).float(), label)


def defence(kind, batch_size):
    """A classifier of noisy images with ``batch_size`` rows per network call."""
    mixture = world()
    denoiser = ExactDenoiser(mixture)
    if kind == "densepure":
        return DenoisedClassifier(denoiser, Nearest(mixture.means), SIGMA, steps=3, votes=3)
    if kind == "denoised":
        return DenoisedClassifier(denoiser, Nearest(mixture.means), SIGMA)
    elimination = Elimination() if kind == "elimination" else None
    engine = Engine(batch_size=batch_size)
    return NoisedDiffusionClassifier(denoiser, 4, SIGMA, nodes=4, elimination=elimination, engine=engine)


def certifier(kind, batch_size):
    common = {"n0": 5, "n": 40, "alpha": 0.05, "num_classes": 4, "batch_size": batch_size}
    return (
        Sequential(SIGMA, **common, targets=(0.1, 0.25), first=20) if kind == "ladder" else Smoothing(SIGMA, **common)
    )


def run(kind, procedure, records, images, samples=1024, rows=512, **trainer):
    """Runs a test; its batch sizes are those of images, noisy images and rows of the network."""
    task = NDCTask(defence(kind, rows), [Certified(certifier(procedure, samples))], str(records))
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "inference_mode": False}
    settings |= {"enable_model_summary": False, "enable_checkpointing": False}
    L.Trainer(**settings, **trainer).test(task, Samples(batch_size=images), verbose=False)
