"""Classifiers, threat models, attacks, certification and their evaluation.

.. include:: README.md
"""

from common.robustness.adversarial_training import Objective, PGDTraining, TradesTraining
from common.robustness.attacks.apgd import APGD
from common.robustness.attacks.attack import Attack, AttackResult, attacking
from common.robustness.attacks.auto_attack import AutoAttack
from common.robustness.attacks.diffattack import DiffAttack
from common.robustness.attacks.diffhammer import DiffHammer
from common.robustness.attacks.eot import EOTLoss
from common.robustness.attacks.fab import FAB
from common.robustness.attacks.function_attack import FunctionAttack
from common.robustness.attacks.known_noise import KnownNoise
from common.robustness.attacks.library import TorchAttacks
from common.robustness.attacks.low_frequency import LowFrequency
from common.robustness.attacks.pgd import PGD
from common.robustness.attacks.reference_auto_attack import ReferenceAutoAttack
from common.robustness.attacks.square import Square
from common.robustness.attacks.stadv import StAdv
from common.robustness.attacks.staged import Staged
from common.robustness.attacks.through import Through
from common.robustness.attacks.transfer import Transfer
from common.robustness.certification.certificate import Certificate, Certifier
from common.robustness.certification.forecast import Forecast
from common.robustness.certification.sequential import Sequential
from common.robustness.certification.smoothed_prediction import SmoothedPrediction
from common.robustness.certification.smoothing import Smoothing
from common.robustness.classifiers import Classifier, ClassifierWrapper, NetworkClassifier, Purified
from common.robustness.evaluation.attacked import Attacked
from common.robustness.evaluation.clean_and_certified import Certified, Clean
from common.robustness.evaluation.evaluator import Evaluator
from common.robustness.gradient_check.classifier_check import GradientCheck
from common.robustness.losses import cross_entropy
from common.robustness.masking.baseline import Baseline
from common.robustness.threats.norm_ball import ThreatModel, require_norm_ball
from common.robustness.threats.perceptual import LPIPS, Perceptual
from common.robustness.threats.spatial import SpatialThreat
from common.robustness.threats.threat import Threat
from common.robustness.voting import Voting

__all__ = [
    "APGD",
    "Attack",
    "AttackResult",
    "Attacked",
    "AutoAttack",
    "Baseline",
    "Certificate",
    "Certified",
    "Certifier",
    "Classifier",
    "ClassifierWrapper",
    "Clean",
    "DiffAttack",
    "DiffHammer",
    "EOTLoss",
    "Evaluator",
    "FAB",
    "Forecast",
    "FunctionAttack",
    "GradientCheck",
    "KnownNoise",
    "LPIPS",
    "LowFrequency",
    "NetworkClassifier",
    "Objective",
    "PGD",
    "PGDTraining",
    "Perceptual",
    "Purified",
    "ReferenceAutoAttack",
    "Sequential",
    "SmoothedPrediction",
    "Smoothing",
    "SpatialThreat",
    "Square",
    "StAdv",
    "Staged",
    "Threat",
    "ThreatModel",
    "Through",
    "TorchAttacks",
    "TradesTraining",
    "Transfer",
    "Voting",
    "attacking",
    "cross_entropy",
    "require_norm_ball",
]
