"""Schedules, denoisers, solvers, gradients and purifiers."""

from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.denoisers import ClassifierFree, Denoiser, EDMDenoiser, EpsDenoiser, Guided, VDenoiser, X0Denoiser
from common.diffusion.gradients import BPDA, Adjoint, Checkpoint, Full, Gradient, Surrogate
from common.diffusion.purifiers import DiffusionPurifier, Purifier
from common.diffusion.schedules import DDPM, EDM, VP, Schedule
from common.diffusion.score_denoiser import ScoreDenoiser
from common.diffusion.solvers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ProbabilityFlowEuler,
    ProbabilityFlowHeun,
    Solver,
    TorchSDE,
)
from common.diffusion.time_grids import RowGrid, TimeGrid
from common.diffusion.wrappers import Clipped

__all__ = [
    "Adjoint",
    "Ancestral",
    "BPDA",
    "Chain",
    "Checkpoint",
    "ClassifierFree",
    "Clipped",
    "DDIM",
    "DDPM",
    "Denoiser",
    "DiffusionPurifier",
    "EDM",
    "EDMDenoiser",
    "EpsDenoiser",
    "EulerMaruyama",
    "FixedNoise",
    "Full",
    "Gradient",
    "Guided",
    "ProbabilityFlowEuler",
    "ProbabilityFlowHeun",
    "Purifier",
    "Repeated",
    "Resized",
    "RowGrid",
    "Schedule",
    "ScoreDenoiser",
    "Solver",
    "Surrogate",
    "TimeGrid",
    "TorchSDE",
    "VDenoiser",
    "VP",
    "X0Denoiser",
]
