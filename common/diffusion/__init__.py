"""Schedules, denoisers, solvers, gradients and purifiers."""

from common.diffusion.adjoint import Adjoint
from common.diffusion.bound_denoiser import BoundDenoiser
from common.diffusion.composed import Chain, FixedNoise, Repeated, Resized
from common.diffusion.denoisers import Denoiser, EDMDenoiser, EpsDenoiser, VDenoiser, X0Denoiser
from common.diffusion.differentiation import BPDA, Checkpoint, Differentiation, Full
from common.diffusion.modes import Surrogate
from common.diffusion.purifiers import DiffusionPurifier, Purifier
from common.diffusion.reverse_process import Process, Sampler
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
from common.diffusion.steps import Step
from common.diffusion.time_grids import RowGrid, TimeGrid
from common.diffusion.wrappers import ClassifierFree, Clipped

__all__ = [
    "Adjoint",
    "Ancestral",
    "BPDA",
    "BoundDenoiser",
    "Chain",
    "Checkpoint",
    "ClassifierFree",
    "Clipped",
    "DDIM",
    "DDPM",
    "Denoiser",
    "Differentiation",
    "DiffusionPurifier",
    "EDM",
    "EDMDenoiser",
    "EpsDenoiser",
    "EulerMaruyama",
    "FixedNoise",
    "Full",
    "ProbabilityFlowEuler",
    "ProbabilityFlowHeun",
    "Process",
    "Purifier",
    "Repeated",
    "Resized",
    "RowGrid",
    "Sampler",
    "Schedule",
    "ScoreDenoiser",
    "Solver",
    "Step",
    "Surrogate",
    "TimeGrid",
    "TorchSDE",
    "VDenoiser",
    "VP",
    "X0Denoiser",
]
