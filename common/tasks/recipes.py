"""Optimiser and learning-rate schedule of a training task, as plain values of a configuration."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from torch import nn
from torch.optim import AdamW, Optimizer

from common.checks.settings import check_count, check_not_negative, check_number, check_positive, check_seed, refusal
from common.tasks.muon import Muon


class TrainingRecipe(Protocol):
    """Interface of recipes: the optimiser, its schedule, and the seed of the training noise."""

    @property
    def seed(self) -> int:
        """Seed of the training noise."""

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimiser at its full learning rate."""

    def factor(self, step: int, steps: int) -> float:
        """Factor in [0,1] of the learning rate at optimiser step ``step`` of ``steps``, counted from 0."""


def check_recipe(name: str, recipe: object) -> TrainingRecipe:
    """The recipe. Raises ``ValueError`` for an object without its members."""
    if isinstance(recipe, type) or any(not hasattr(recipe, member) for member in ("seed", "optimizer", "factor")):
        raise ValueError(refusal(name, "a recipe, such as Recipe()", recipe))
    return cast(TrainingRecipe, recipe)


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up to ``lr`` over the first ``warmup`` share of the steps, then a cosine to zero.

    ``seed`` is that of the training noise.
    """

    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_not_negative("weight_decay", self.weight_decay)
        check_number("warmup, a share of the steps,", self.warmup, at_least=0, below=1)
        check_seed("seed", self.seed)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)

    def factor(self, step: int, steps: int) -> float:
        warmup = max(1, round(self.warmup * steps))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


@dataclass(frozen=True)
class MuonRecipe:
    """`Muon` with a linear warm-up over the first ``warmup`` share of the steps, then a linear decay to zero.

    ``lr`` and ``momentum`` are those of convolution kernels, ``vector_lr`` is Adam's for all other parameters;
    ``seed`` is that of the augmentation.
    """

    lr: float = 0.12
    momentum: float = 0.8
    vector_lr: float = 0.01
    warmup: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_number("momentum", self.momentum, at_least=0, below=1)
        check_positive("vector_lr", self.vector_lr)
        check_number("warmup, a share of the steps,", self.warmup, at_least=0, below=1)
        check_seed("seed", self.seed)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Muon(parameters, self.lr, self.momentum, self.vector_lr)

    def factor(self, step: int, steps: int) -> float:
        warmup = max(1, round(self.warmup * steps))
        return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup + 1), 1.0)


@dataclass(frozen=True)
class OpenEndedRecipe:
    """AdamW whose schedule is independent of the length of the run (Karras et al., arXiv 2312.02696).

    The learning rate rises linearly to ``lr`` over ``warmup_steps`` optimiser steps, stays until step ``hold_steps``
    and then falls as the inverse square root of the step. ``seed`` is that of the training noise.
    """

    lr: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    hold_steps: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_not_negative("weight_decay", self.weight_decay)
        check_count("warmup_steps", self.warmup_steps)
        check_seed("seed", self.seed)
        if self.warmup_steps > check_count("hold_steps", self.hold_steps):
            raise ValueError(f"a recipe needs 1 <= warmup_steps <= hold_steps; got {self}")

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        return AdamW(parameters, self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay)

    def factor(self, step: int, steps: int) -> float:
        return min((step + 1) / self.warmup_steps, math.sqrt(self.hold_steps / max(step, self.hold_steps)))
