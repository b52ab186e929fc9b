"""AGDM (arXiv 2403.16067): purification guided by an adversarially trained network.

.. include:: README.md
"""

from agdm.baselines import ClassifierGuidance, ContrastiveGuidance, PixelGuidance, gdmp_scale
from agdm.guidance import AdversarialGuidance, GuidanceClassifier
from agdm.networks import AdaptedNetwork, GuidanceNetwork
from agdm.objective import Trades, TradesLoss
from agdm.potential import Guidance, PlainGuidance, Potential
from agdm.purifier import AGDM
from agdm.steering import Steering
from agdm.task import AGDMTask, GuidanceTask

__all__ = [
    "AGDM",
    "AGDMTask",
    "AdaptedNetwork",
    "AdversarialGuidance",
    "ClassifierGuidance",
    "ContrastiveGuidance",
    "Guidance",
    "GuidanceClassifier",
    "GuidanceNetwork",
    "GuidanceTask",
    "PixelGuidance",
    "PlainGuidance",
    "Potential",
    "Steering",
    "Trades",
    "TradesLoss",
    "gdmp_scale",
]
