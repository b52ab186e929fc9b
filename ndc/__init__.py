"""NDC (arXiv 2402.02316): noised diffusion classifiers and their certificates.

.. include:: README.md
"""

from ndc.bounded import BoundedDiffusionClassifier
from ndc.claimed import Claimed
from ndc.classifier import NoisedDiffusionClassifier
from ndc.denoised import DenoisedClassifier, Denoising
from ndc.elimination import Elimination
from ndc.lipschitz import Lipschitz
from ndc.nodes import Nodes
from ndc.noise_weights import ELBO, Flat, LogNormal, ReferenceWeight, Weight
from ndc.posterior import Posterior
from ndc.reduction import Reduction
from ndc.sifting import Sifting
from ndc.task import NDCTask

__all__ = [
    "BoundedDiffusionClassifier",
    "Claimed",
    "DenoisedClassifier",
    "Denoising",
    "ELBO",
    "Elimination",
    "Flat",
    "Lipschitz",
    "LogNormal",
    "NDCTask",
    "Nodes",
    "NoisedDiffusionClassifier",
    "Posterior",
    "Reduction",
    "ReferenceWeight",
    "Sifting",
    "Weight",
]
