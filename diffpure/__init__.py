"""DiffPure (arXiv 2205.07460): purification by the reverse VP-SDE, and its variants.

.. include:: README.md
"""

from diffpure.ascent import AdamAscent, GradientAscent
from diffpure.divergence import (
    contraction_rate,
    fisher_divergence,
    kl_divergence,
    paired_kl_bound,
    random_sign_kl_bound,
)
from diffpure.gradual import Block, GradualNoise
from diffpure.langevin import FixedLevel, Langevin, LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from diffpure.randomised import RandomisedDiffPure
from diffpure.reconstruction import drift_integral, mean_reconstruction_bound, noise_radius, reconstruction_bound
from diffpure.task import DiffPureTask
from diffpure.theory import theory_curves

__all__ = [
    "AdamAscent",
    "Block",
    "DiffPure",
    "DiffPureTask",
    "FixedLevel",
    "GradientAscent",
    "GradualNoise",
    "Langevin",
    "LangevinDiffPure",
    "LikelihoodMaximisation",
    "RandomisedDiffPure",
    "contraction_rate",
    "drift_integral",
    "fisher_divergence",
    "kl_divergence",
    "mean_reconstruction_bound",
    "noise_radius",
    "paired_kl_bound",
    "random_sign_kl_bound",
    "reconstruction_bound",
    "theory_curves",
]
