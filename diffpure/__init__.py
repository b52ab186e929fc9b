"""DiffPure (arXiv 2205.07460): purification by the reverse VP-SDE, and its variants.

.. include:: README.md
"""

from diffpure.ascent import AdamAscent, GradientAscent
from diffpure.gradual import Block, GradualNoise
from diffpure.langevin import FixedLevel, Langevin, LangevinDiffPure
from diffpure.likelihood_maximisation import LikelihoodMaximisation
from diffpure.purifier import DiffPure
from diffpure.randomised import RandomisedDiffPure
from diffpure.task import DiffPureTask

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
]
