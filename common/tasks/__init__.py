"""LightningModules: train a classifier, train a denoiser, test a defence."""

from common.tasks.classifier import ClassifierTask
from common.tasks.denoiser import DenoiserTask
from common.tasks.robust import RobustTask
from common.tasks.training import Recipe, TrainingTask

__all__ = [
    "ClassifierTask",
    "DenoiserTask",
    "Recipe",
    "RobustTask",
    "TrainingTask",
]
