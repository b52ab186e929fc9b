"""LightningModules: train a classifier, train a denoiser, test a defence."""

from common.tasks.classifier import ClassifierTask
from common.tasks.denoiser import DenoiserTask
from common.tasks.fast_classifier import FastClassifierTask
from common.tasks.muon import Muon
from common.tasks.open_ended_denoiser import OpenEndedDenoiserTask, PowerAveraging
from common.tasks.recipes import MuonRecipe, OpenEndedRecipe, Recipe
from common.tasks.robust import RobustTask
from common.tasks.training import TrainingTask

__all__ = [
    "ClassifierTask",
    "DenoiserTask",
    "FastClassifierTask",
    "Muon",
    "MuonRecipe",
    "OpenEndedDenoiserTask",
    "OpenEndedRecipe",
    "PowerAveraging",
    "Recipe",
    "RobustTask",
    "TrainingTask",
]
